//! The report equals the program's own truth, block for block, again and again.

use std::time::Instant;

use anyhow::{Result, ensure};
use memtrace_tests::{
    compare::assert_equal_by_site,
    figure,
    memtrace::Memtrace,
    privilege, procfs,
    programs::{self, Link},
    report::Report,
    workload::{Builder, Told, Workload},
};

/// Runs of every scenario: twenty, or what `MEMTRACE_TEST_RUNS` says.
fn runs() -> usize {
    std::env::var("MEMTRACE_TEST_RUNS")
        .ok()
        .and_then(|runs| runs.parse().ok())
        .unwrap_or(20)
}

/// The truth programs of one process each, sized for about a second when traced together.
fn singles() -> Vec<Builder> {
    vec![
        Workload::of("every").args(["400"]),
        Workload::of("threads").args(["8", "6000"]),
        Workload::of("storm").args(["4", "5000"]),
        Workload::of("new").args(["600"]),
    ]
}

/// Traces all of these at once, lets them work at the same time, and compares each with its truth.
fn trace(builders: Vec<Builder>, args: &[&str]) -> Result<Rate> {
    let workloads: Vec<Workload> = builders
        .into_iter()
        .map(Builder::start)
        .collect::<Result<_>>()?;
    let pids: Vec<u32> = workloads.iter().map(Workload::pid).collect();
    let memtrace = pids
        .iter()
        .fold(Memtrace::built()?, |builder, pid| builder.pid(*pid))
        .args(args)
        .start()?;
    memtrace.wait_tracing(&pids)?;
    let began = Instant::now();
    workloads.iter().try_for_each(Workload::go)?;
    let told: Vec<Told> = workloads
        .iter()
        .map(Workload::told)
        .collect::<Result<_>>()?;
    let seconds = began.elapsed().as_secs_f64();
    let report = memtrace.final_report()?;
    ensure!(
        report.trust.lost_events == 0,
        "{} events lost",
        report.trust.lost_events
    );
    told.iter()
        .try_for_each(|told| assert_equal_by_site(told, report.process(told.pid)?))?;
    Ok(Rate {
        calls: told.iter().map(|told| told.calls).sum(),
        seconds,
    })
}

/// How fast the traced programs were, all together.
struct Rate {
    calls: u64,
    seconds: f64,
}

impl Rate {
    fn per_second(&self) -> f64 {
        self.calls as f64 / self.seconds
    }
}

/// Repeats a scenario; an error says in which run it came.
fn repeat(scenario: impl Fn() -> Result<Rate>) -> Result<()> {
    let runs = runs();
    let mut rates = Vec::new();
    for run in 1..=runs {
        rates.push(
            scenario()
                .map_err(|error| error.context(format!("run {run} of {runs}")))?
                .per_second(),
        );
    }
    rates.sort_by(f64::total_cmp);
    figure::show(&format!(
        "{runs} runs of {runs}; calls/s: median {:.0}, least {:.0}",
        rates[runs / 2],
        rates[0]
    ));
    Ok(())
}

#[test]
fn every_call_of_glibc() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    repeat(|| trace(singles(), &[]))
}

#[test]
fn three_hundred_thousand_calls_a_second() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let rate = trace(vec![Workload::of("threads").args(["8", "60000"])], &[])?;
    figure::show(&format!("{:.0} calls/s", rate.per_second()));
    ensure!(
        rate.per_second() >= 300e3,
        "only {:.0} calls/s",
        rate.per_second()
    );
    Ok(())
}

#[test]
fn preloaded_allocators() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let objects = [
        "libjemalloc.so.2",
        "libtcmalloc_minimal.so.4",
        "libmimalloc.so.2.0",
    ];
    repeat(|| {
        let all = objects.iter().flat_map(|object| {
            singles()
                .into_iter()
                .map(|builder| builder.preload(*object))
        });
        trace(all.collect(), &[])
    })
}

#[test]
fn allocators_inside_the_executable_and_musl() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    repeat(|| {
        let links = [Link::Static, Link::Musl, Link::MuslDynamic];
        // The last of `singles` is C++, for which musl has no library here.
        let all = links.into_iter().flat_map(|link| {
            singles()
                .into_iter()
                .take(3)
                .map(move |builder| builder.link(link))
        });
        trace(all.collect(), &[])
    })
}

#[test]
fn an_allocator_linked_into_the_program_and_one_with_names_of_its_own() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    repeat(|| {
        let all = [
            Workload::of("every").args(["400"]).link(Link::Jemalloc),
            Workload::of("threads")
                .args(["8", "6000"])
                .link(Link::Jemalloc),
            // The other programs also free what libc has allocated, which an allocator beside libc's must not.
            Workload::of("threads")
                .args(["8", "6000"])
                .link(Link::PrefixedJemalloc),
            Workload::of("storm")
                .args(["4", "5000"])
                .link(Link::PrefixedJemalloc),
        ];
        trace(all.into(), &[])
    })
}

#[test]
fn an_interposers_inner_calls_do_not_count() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let interposer = programs::build("interpose", Link::Shared)?;
    repeat(|| {
        trace(
            singles()
                .into_iter()
                .map(|builder| builder.preload(&interposer))
                .collect(),
            &[],
        )
    })
}

#[test]
fn at_every_attach_level() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    for level in ["session", "multi"] {
        for _ in 0..runs().min(3) {
            trace(singles(), &["--attach-level", level]).map_err(|error| error.context(level))?;
        }
    }
    // Single links take seconds to detach: one run.
    trace(singles(), &["--attach-level", "single"]).map_err(|error| error.context("single"))?;
    Ok(())
}

#[test]
fn with_both_unwinders() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    for unwinder in ["loop", "tail-call"] {
        for _ in 0..runs().min(3) {
            trace(singles(), &["--unwinder", unwinder]).map_err(|error| error.context(unwinder))?;
        }
    }
    Ok(())
}

/// Lets each of these processes work once it is traced, and waits for its truth.
fn work(memtrace: &Memtrace, family: &Workload, pids: &[u32]) -> Result<Vec<Told>> {
    memtrace.wait_tracing(pids)?;
    pids.iter().try_for_each(|pid| family.go_to(*pid))?;
    pids.iter().map(|pid| family.told_by(*pid, 0, 0)).collect()
}

/// The last program of each process against its truth.
fn compare_family(told: &[Told], report: &Report) -> Result<()> {
    ensure!(
        report.trust.lost_events == 0,
        "{} events lost",
        report.trust.lost_events
    );
    told.iter()
        .try_for_each(|told| assert_equal_by_site(told, report.current(told.pid)?))
        .map_err(|error| error.context(format!("it says: {:?}", report.trust.not_known)))
}

fn calls(told: &[Told]) -> u64 {
    told.iter().map(|told| told.calls).sum()
}

/// A tree of forks, traced with these arguments.
fn tree(args: &[&str]) -> Result<Rate> {
    let tree = Workload::of("tree").args(["2", "1000"]).start()?;
    let memtrace = Memtrace::built()?
        .pid(tree.pid())
        .arg("--follow-children")
        .args(args)
        .start()?;
    let began = Instant::now();
    let mut told = work(&memtrace, &tree, &[tree.pid()])?;
    told.extend(work(&memtrace, &tree, &tree.wait_family(3)?[1..])?);
    told.extend(work(&memtrace, &tree, &tree.wait_family(7)?[3..])?);
    let seconds = began.elapsed().as_secs_f64();
    compare_family(&told, &memtrace.final_report()?)?;
    Ok(Rate {
        calls: calls(&told),
        seconds,
    })
}

/// Children by vfork and posix_spawn, traced with these arguments.
fn spawn(args: &[&str]) -> Result<Rate> {
    let leak = programs::build("leak", Link::Dynamic)?;
    let parent = Workload::of("spawn")
        .args([leak.as_os_str(), "500".as_ref(), "24".as_ref()])
        .start()?;
    let memtrace = Memtrace::built()?
        .pid(parent.pid())
        .arg("--follow-children")
        .args(args)
        .start()?;
    let began = Instant::now();
    let mut told = work(&memtrace, &parent, &[parent.pid()])?;
    told.extend(work(&memtrace, &parent, &parent.wait_family(3)?[1..])?);
    let seconds = began.elapsed().as_secs_f64();
    compare_family(&told, &memtrace.final_report()?)?;
    Ok(Rate {
        calls: calls(&told),
        seconds,
    })
}

/// Programs that one process runs in turn, traced with these arguments.
fn chain(args: &[&str]) -> Result<Rate> {
    const PROGRAMS: u32 = 4;
    let chain = Workload::of("chain")
        .args([PROGRAMS.to_string().as_str(), "300"])
        .start()?;
    let pid = chain.pid();
    let memtrace = Memtrace::built()?.pid(pid).args(args).start()?;
    let began = Instant::now();
    let mut told = Vec::new();
    for exec in 0..PROGRAMS {
        chain.wait_ready(pid, exec)?;
        memtrace.wait_tracing_times(pid, exec as usize + 1)?;
        chain.go()?;
        told.push(chain.told_by(pid, exec, 0)?);
        if exec + 1 < PROGRAMS {
            chain.go()?;
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let report = memtrace.final_report()?;
    let generations = report.generations(pid);
    ensure!(
        generations.len() == told.len(),
        "{} generations of {}",
        generations.len(),
        told.len()
    );
    told.iter()
        .zip(generations)
        .try_for_each(|(told, process)| assert_equal_by_site(told, process))?;
    Ok(Rate {
        calls: calls(&told),
        seconds,
    })
}

#[test]
fn a_tree_of_forks() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    repeat(|| tree(&[]))
}

#[test]
fn children_by_vfork_and_posix_spawn() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    repeat(|| spawn(&[]))
}

#[test]
fn a_chain_of_execs() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    repeat(|| chain(&[]))
}

/// Whichever form a kernel gets by itself. A kernel that preempts the raw form may skip one, so there it is not judged.
#[test]
fn through_both_forms_of_tracepoints() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let forms: &[&str] = if procfs::kernel()? < (7, 0) {
        &["raw", "perf"]
    } else {
        &["perf"]
    };
    for form in forms {
        for scenario in [tree, spawn, chain] {
            for _ in 0..runs().min(3) {
                scenario(&["--tracepoints", form]).map_err(|error| error.context(*form))?;
            }
        }
    }
    Ok(())
}
