//! What the tracker costs at scale, in one run: memory for a live block while the table grows, the longest pause
//! of the drain, and what freezing, forking and exiting take.
//!
//! Times are CPU time of this thread, so that a busy machine does not look like a slow tracker. Prints a table; the
//! argument is the number of live blocks in millions (10 when absent).

#[expect(
    unreachable_pub,
    reason = "shared by the benches, each of which is a crate of its own"
)]
#[expect(dead_code, reason = "the other benches use the rest")]
mod common;

use std::{fs, time::Duration};

use common::{PID, Random, address, alloc, free, tracker};
use memtrace::{
    ids::{Bytes, Millis},
    snapshot::BlockFilter,
    track::Tracker,
};
use memtrace_common::event::{self, Event};
use nix::time::ClockId;

/// Resident memory of this process in bytes (`/proc/self/status`, in kB).
fn resident() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next());
    1024.0
        * kilobytes
            .and_then(|number| number.parse().ok())
            .unwrap_or(f64::NAN)
}

/// CPU time that this thread has used; zero where the clock is missing.
fn cpu_time() -> Duration {
    let clock = ClockId::CLOCK_THREAD_CPUTIME_ID;
    clock.now().map_or(Duration::ZERO, Duration::from)
}

fn timed<T>(act: impl FnOnce() -> T) -> (T, Duration) {
    let start = cpu_time();
    let result = act();
    (result, cpu_time() - start)
}

/// Allocates `live` blocks one by one. Gives back the worst bytes for a block once a million are live, and the
/// longest pause.
fn grow(tracker: &mut Tracker, live: u64) -> (f64, Duration) {
    let empty = resident();
    let mut random = Random(1);
    let (mut worst_bytes, mut worst_pause) = (0_f64, Duration::ZERO);
    for n in 0..live {
        let event = alloc(address(n), &mut random);
        let ((), pause) = timed(|| tracker.apply(&event, Millis((n / 1_000) as u32)));
        worst_pause = worst_pause.max(pause);
        if n >= 1_000_000 && n % 50_000 == 0 {
            worst_bytes = worst_bytes.max((resident() - empty) / n as f64);
        }
    }
    let bytes = (resident() - empty) / live as f64;
    print(
        "resident bytes a live block, at the end",
        format!("{bytes:.1}"),
    );
    (worst_bytes, worst_pause)
}

/// Freezes once with and once without a filter that needs sizes.
fn freeze(tracker: &Tracker, what: &str) {
    let elapsed = Duration::from_secs(20);
    let (snapshot, time) = timed(|| tracker.freeze(BlockFilter::default(), elapsed));
    let blocks: u64 = snapshot
        .processes
        .iter()
        .map(|process| process.live_blocks)
        .sum();
    print(
        &format!("freeze, {what} ({blocks} blocks)"),
        format!("{time:.1?}"),
    );
    let filter = BlockFilter {
        min_size: Some(Bytes(100)),
        ..BlockFilter::default()
    };
    let (_, time) = timed(|| tracker.freeze(filter, elapsed));
    print(&format!("freeze by size, {what}"), format!("{time:.1?}"));
}

/// A child is forked, both sides go on for a while, the child exits, and the parent goes on.
fn fork(tracker: &mut Tracker, live: u64) {
    let child = PID + 1;
    let about = |kind, tgid, addr| Event {
        kind_and_size: Event::pack(kind, 0),
        tgid,
        tid: tgid,
        addr,
        stack: 0,
    };
    let before = resident();
    let fork = about(event::FORK, PID, child.into());
    let ((), time) = timed(|| tracker.apply(&fork, Millis(0)));
    print("fork", format!("{time:.1?}"));
    let churned = live / 100;
    let worst = churn(tracker, PID, churned, 0);
    print(
        "longest pause of the parent beside its child",
        format!("{worst:.1?}"),
    );
    let worst = churn(tracker, child, churned, 0);
    print("longest pause of the child", format!("{worst:.1?}"));
    let shared = (resident() - before) / churned as f64;
    print(
        "resident bytes a block that both sides replaced",
        format!("{shared:.1}"),
    );
    freeze(tracker, "with the child");
    let ((), time) = timed(|| tracker.apply(&about(event::EXIT, child, 0), Millis(0)));
    print("exit of the child", format!("{time:.1?}"));
    let worst = churn(tracker, PID, churned, churned);
    print(
        "longest pause of the parent after it (merging)",
        format!("{worst:.1?}"),
    );
    let ((), time) = timed(|| tracker.apply(&about(event::EXIT, PID, 0), Millis(0)));
    print("exit of the parent", format!("{time:.1?}"));
}

/// Replaces `count` of the process's blocks from block `from` on.
fn churn(tracker: &mut Tracker, pid: u32, count: u64, from: u64) -> Duration {
    let mut random = Random(2);
    let mut worst = Duration::ZERO;
    for n in from..from + count {
        let addr = address(n * 50);
        for event in [free(addr), alloc(addr + 8, &mut random)] {
            let event = Event { tgid: pid, ..event };
            let ((), pause) = timed(|| tracker.apply(&event, Millis(0)));
            worst = worst.max(pause);
        }
    }
    worst
}

#[expect(clippy::print_stdout, reason = "printing is what this program is for")]
fn print(what: &str, value: String) {
    println!("{what:55} {value:>12}");
}

fn main() {
    let millions = std::env::args().find_map(|argument| argument.parse::<u64>().ok());
    let live = millions.unwrap_or(10) * 1_000_000;
    let mut tracker = tracker();
    let ((worst_bytes, worst_pause), time) = timed(|| grow(&mut tracker, live));
    print(
        "resident bytes a live block, at worst",
        format!("{worst_bytes:.1}"),
    );
    let known = tracker.memory_used().0 as f64 / live as f64;
    print(
        "bytes a live block, as the tracker knows it",
        format!("{known:.1}"),
    );
    print(
        "time to grow, with the clock read twice an event",
        format!("{time:.1?}"),
    );
    print("longest pause while growing", format!("{worst_pause:.1?}"));
    freeze(&tracker, "one process");
    fork(&mut tracker, live);
}
