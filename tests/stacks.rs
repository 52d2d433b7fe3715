//! Stacks are equal to gdb's, program counter for program counter, and say where and why they are cut.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, Result, bail, ensure};
use memtrace_tests::{
    compare::{self, describe},
    figure, gdb,
    memtrace::Memtrace,
    privilege,
    procfs::{self, Mapping},
    programs::{self, Link},
    report::{Frame, Process, Report, Site},
    workload::Workload,
};

/// Threads of `frames`, each blocked behind one block with a stack of its own.
const THREADS: u64 = 200;

/// Address in the process of a frame, from its object's mappings: the load base is where the file's first byte lies.
fn address(frame: &Frame, mappings: &[Mapping]) -> Result<u64> {
    let is_module = |mapping: &&Mapping| {
        mapping.offset == 0
            && Path::new(&mapping.path)
                .file_name()
                .is_some_and(|name| frame.module.ends_with(&*name.to_string_lossy()))
    };
    let first = mappings
        .iter()
        .find(is_module)
        .with_context(|| format!("no mapping of `{}`", frame.module))?;
    Ok(first.start + frame.offset)
}

/// Addresses of all frames that are functions of their own: an inlined one has its caller's.
fn addresses(site: &Site, mappings: &[Mapping]) -> Result<Vec<u64>> {
    site.frames
        .iter()
        .filter(|frame| !frame.inlined)
        .map(|frame| address(frame, mappings))
        .collect()
}

/// A thread's stack as gdb sees it, from the leaf's call outwards.
fn from_leaf(thread: &gdb::Thread) -> Option<Vec<u64>> {
    let leaf = thread
        .frames
        .iter()
        .position(|frame| frame.name.as_deref() == Some("site_leaf"))?;
    Some(thread.frames[leaf..].iter().map(|frame| frame.pc).collect())
}

fn compare_with_gdb(unwinder: &str) -> Result<()> {
    let plugin = programs::build("plugin", Link::Shared)?;
    let frames = Workload::of("frames")
        .args([THREADS.to_string().into(), plugin.into_os_string()])
        .start()?;
    let pid = frames.pid();
    let memtrace = Memtrace::built()?
        .pid(pid)
        .args(["--unwinder", unwinder])
        .start()?;
    memtrace.wait_tracing(&[pid])?;
    frames.go()?;
    frames.told()?;
    let report = memtrace.final_report()?;
    // After the end of memtrace: gdb must not meet its probes.
    let threads = gdb::backtraces(pid)?;
    let mappings = procfs::mappings(pid)?;
    let oracle: BTreeMap<Vec<u64>, u32> = threads
        .iter()
        .filter_map(|t| Some((from_leaf(t)?, t.tid)))
        .collect();
    ensure!(
        oracle.len() == THREADS as usize,
        "gdb has {} different stacks of {THREADS}",
        oracle.len()
    );
    let mut equal = 0;
    for site in &report.process(pid)?.sites {
        let size = site.counts.live_bytes;
        let stack = addresses(site, &mappings)?;
        if !oracle.contains_key(&stack) {
            bail!(
                "the stack of {size} bytes is not gdb's:\n{}",
                side_by_side(site, &stack, &oracle)
            );
        }
        equal += 1;
    }
    ensure!(equal == THREADS, "{equal} stacks of {THREADS}");
    ensure!(
        report.trust.cut_stacks == 0,
        "{} stacks cut",
        report.trust.cut_stacks
    );
    figure::show(&format!("{unwinder}: {equal} stacks equal gdb's"));
    Ok(())
}

/// The stack beside gdb's stack that shares most of its outermost frames, around the innermost shared frame.
fn side_by_side(site: &Site, stack: &[u64], oracle: &BTreeMap<Vec<u64>, u32>) -> String {
    let shared = |other: &[u64]| {
        stack
            .iter()
            .rev()
            .zip(other.iter().rev())
            .take_while(|(a, b)| a == b)
            .count()
    };
    let nearest = oracle
        .keys()
        .max_by_key(|other| shared(other))
        .map_or(&[][..], Vec::as_slice);
    let same = shared(nearest);
    let mut rows = vec![format!(
        "{} frames here, {} in gdb, the {same} outermost are equal; cut: {:?}; around the difference (memtrace, gdb):",
        stack.len(),
        nearest.len(),
        site.cut
    )];
    let names: Vec<String> = site
        .frames
        .iter()
        .filter(|frame| !frame.inlined)
        .map(describe)
        .collect();
    for from_end in (same.saturating_sub(3)..same + 6).rev() {
        let at = |all: &[u64]| {
            all.iter()
                .rev()
                .nth(from_end)
                .map_or("-".to_owned(), |pc| format!("{pc:#x}"))
        };
        let name = names.iter().rev().nth(from_end).map_or("", String::as_str);
        rows.push(format!("{} {} {name}", at(stack), at(nearest)));
    }
    rows.join("\n")
}

#[test]
fn two_hundred_stacks_equal_gdbs_with_the_loop() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    compare_with_gdb("loop")
}

#[test]
fn two_hundred_stacks_equal_gdbs_with_tail_calls() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    compare_with_gdb("tail-call")
}

/// The one site of a process.
fn only_site(process: &Process) -> Result<&Site> {
    ensure!(process.sites.len() == 1, "{} sites", process.sites.len());
    Ok(&process.sites[0])
}

/// Traces one workload from go to truth.
fn traced(workload: &Workload) -> Result<Report> {
    let memtrace = Memtrace::built()?.pid(workload.pid()).start()?;
    memtrace.wait_tracing(&[workload.pid()])?;
    workload.go()?;
    let told = workload.told()?;
    let report = memtrace.final_report()?;
    compare::assert_equal_by_site(&told, report.process(told.pid)?)?;
    Ok(report)
}

#[test]
fn generated_code_cuts_the_stack_and_says_so() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let jit = Workload::of("jit").start()?;
    let memtrace = Memtrace::built()?.pid(jit.pid()).start()?;
    memtrace.wait_tracing(&[jit.pid()])?;
    jit.go()?;
    jit.told()?;
    let report = memtrace.final_report()?;
    let site = only_site(report.process(jit.pid())?)?;
    ensure!(
        site.counts.live_blocks == 10 && site.counts.live_bytes == 1230,
        "{}",
        site.counts
    );
    let generated =
        |mapping: &&Mapping| mapping.path.is_empty() && mapping.permissions.contains('x');
    let mappings = procfs::mappings(jit.pid())?;
    let code = mappings
        .iter()
        .find(generated)
        .context("no generated code")?;
    ensure!(
        site.cut_addr
            .is_some_and(|addr| (code.start..code.end).contains(&addr)),
        "cut at {:?}",
        site.cut_addr
    );
    ensure!(
        site.cut
            .as_deref()
            .is_some_and(|reason| reason.contains("generated code")),
        "cut: {:?}",
        site.cut
    );
    ensure!(
        report.trust.cut_stacks == 10,
        "{} cuts are counted",
        report.trust.cut_stacks
    );
    Ok(())
}

#[test]
fn a_recursion_of_two_hundred_frames_is_whole() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let deep = Workload::of("deep").args(["200"]).start()?;
    let report = traced(&deep)?;
    let site = only_site(report.process(deep.pid())?)?;
    let names: Vec<&str> = site.frames.iter().map(Frame::bare_name).collect();
    ensure!(names[0] == "site_bottom", "{names:?}");
    ensure!(
        names.iter().filter(|name| **name == "recurse").count() == 201,
        "{names:?}"
    );
    ensure!(
        names.contains(&"main") && names.last() == Some(&"_start"),
        "{names:?}"
    );
    ensure!(report.trust.cut_stacks == 0);
    Ok(())
}

#[test]
fn a_deeper_recursion_is_cut_for_its_depth() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let deep = Workload::of("deep").args(["2000"]).start()?;
    let report = traced(&deep)?;
    let site = only_site(report.process(deep.pid())?)?;
    ensure!(site.frames.len() >= 128, "{} frames", site.frames.len());
    ensure!(
        site.frames[0].bare_name() == "site_bottom",
        "{}",
        describe(&site.frames[0])
    );
    ensure!(
        site.cut
            .as_deref()
            .is_some_and(|reason| reason.contains("deeper")),
        "cut: {:?}",
        site.cut
    );
    ensure!(
        report.trust.cut_stacks == 1,
        "{} cuts are counted",
        report.trust.cut_stacks
    );
    Ok(())
}

/// An object that is loaded after the attach is unwound through, and an allocator that comes with one is traced.
#[test]
fn objects_loaded_later_are_known() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let plugin = programs::build("plugin", Link::Shared)?;
    let late = Workload::of("late")
        .args([plugin.as_os_str(), "libmimalloc.so.2.0".as_ref()])
        .start()?;
    let pid = late.pid();
    let memtrace = Memtrace::built()?.pid(pid).start()?;
    memtrace.wait_tracing(&[pid])?;
    for stage in 0..3 {
        late.go()?;
        late.told_by(pid, 0, stage)?;
        // The new object is found by a notice; nothing says when it has been dealt with.
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    let told = late.told_by(pid, 0, 2)?;
    let report = memtrace.final_report()?;
    let seen = compare::by_site(&told.sites, report.process(pid)?);
    for (name, counts) in &told.sites {
        ensure!(
            seen.get(name) == Some(counts),
            "{name}: truth {counts}, memtrace {:?}",
            seen.get(name)
        );
    }
    ensure!(
        report.trust.cut_stacks == 0,
        "{} stacks cut",
        report.trust.cut_stacks
    );
    Ok(())
}
