//! What a probe costs on this machine, measured on memtrace itself.
//!
//! A function of this program is probed like an allocator's, called in a loop with and without the probe, and the
//! difference is what one hit costs a traced program. It also proves that a form of the programs really attaches: 6.1
//! takes programs for `uprobe_multi` but no links.

use std::{arch::naked_asm, fs::File, hint::black_box, os::fd::AsFd as _, time::Duration};

use anyhow::Context as _;
use memtrace_common::kind;
use nix::time::{ClockId, clock_gettime};

use super::{FileLinks, Maps, ProbeSite, link, program::Programs};
use crate::ids::Pid;

/// Calls of one measurement: a few milliseconds with a probe attached.
const CALLS: u32 = 4_000;
/// Pieces it is measured in.
const PIECES: u32 = 20;

/// Cost of one hit to the traced program.
#[derive(Clone, Copy, Debug, Default)]
pub struct Calibration {
    /// An entry whose return is skipped: `free`, and nested calls.
    pub entry: Duration,
    /// An entry and its return, with the shallowest stack.
    pub entry_and_return: Duration,
}

/// Begins like an allocator's function: with a push, which the kernel emulates. Returns 0.
#[unsafe(naked)]
extern "C" fn probed() -> u64 {
    naked_asm!("push rbp", "pop rbp", "xor eax, eax", "ret")
}

/// Attaches to this process, sees that a call is counted, and detaches again.
///
/// The call is made on another thread: `uprobe_multi` links of some kernels before 6.11 only see the thread whose id they are
/// given.
pub(super) fn try_attach(
    programs: &Programs,
    hits: impl Fn() -> anyhow::Result<u64>,
) -> anyhow::Result<()> {
    let before = hits()?;
    let links = attach_to_self(programs, kind::CALIBRATE)?;
    let called = std::thread::spawn(|| black_box(probed())).join();
    drop(links);
    anyhow::ensure!(called.is_ok(), "the thread of the trial has panicked");
    anyhow::ensure!(hits()? > before, "a call on another thread was not seen");
    Ok(())
}

/// Measures both kinds of hits.
pub(super) fn measure(programs: &Programs, maps: &Maps) -> anyhow::Result<Calibration> {
    let bare = time_calls();
    let per_hit = |kind| -> anyhow::Result<Duration> {
        let hits = || anyhow::Ok(maps.stats()?.entries[kind as usize]);
        let before = hits()?;
        let links = attach_to_self(programs, kind)?;
        let probed = time_calls();
        drop(links);
        anyhow::ensure!(
            hits()? - before == u64::from(CALLS),
            "a probe on memtrace itself was not hit once for each call"
        );
        Ok(probed.saturating_sub(bare) / CALLS)
    };
    Ok(Calibration {
        entry: per_hit(kind::CALIBRATE)?,
        entry_and_return: per_hit(kind::CALIBRATE_RETURN)?,
    })
}

/// CPU time of all calls. Measured in pieces and taken from the median one: the machine has other things to do.
fn time_calls() -> Duration {
    let mut pieces: Vec<Duration> = (0..PIECES)
        .map(|_| {
            let start = thread_cpu_time();
            for _ in 0..CALLS / PIECES {
                black_box(probed());
            }
            thread_cpu_time().saturating_sub(start)
        })
        .collect();
    pieces.sort_unstable();
    pieces[pieces.len() / 2] * PIECES
}

fn thread_cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

fn attach_to_self(programs: &Programs, kind: u32) -> anyhow::Result<FileLinks> {
    let own = File::open("/proc/self/exe").context("failed to open memtrace's own executable")?;
    let site = ProbeSite {
        file_off: file_offset_of(probed as *const () as u64)?,
        cookie: kind,
    };
    let pid = Pid(std::process::id());
    link::attach(programs, own.as_fd(), &[site], pid)
        .context("failed to attach a probe to memtrace itself")
}

/// Where an address of this program lies in its file.
fn file_offset_of(addr: u64) -> anyhow::Result<u64> {
    let maps = std::fs::read_to_string("/proc/self/maps").context("failed to read own mappings")?;
    maps.lines()
        .find_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let (start, end) = fields.next()?.split_once('-')?;
            let hex = |text| u64::from_str_radix(text, 16).ok();
            let offset = hex(fields.nth(1)?)?;
            let (start, end) = (hex(start)?, hex(end)?);
            (start..end).contains(&addr).then(|| addr - start + offset)
        })
        .context("failed to find memtrace's own code among its mappings")
}
