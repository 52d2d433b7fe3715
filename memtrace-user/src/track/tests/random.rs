//! Random sequences of valid and invalid events: the tracker's snapshots equal the model's.

use std::time::Duration;

use memtrace_common::event::{self, Event, MAX_SIZE};
use proptest::prelude::*;

use super::{
    super::{Limits, Tracker, block::Key},
    ample, exit,
    model::Model,
};
use crate::{
    ids::{Bytes, Millis, Pid},
    snapshot::{BlockFilter, ProcessSnapshot},
};

/// One step of a trace, and the milliseconds that pass before it.
#[derive(Clone, Debug)]
struct Step {
    wait: u32,
    action: Action,
}

#[derive(Clone, Debug)]
enum Action {
    Apply(Event),
    Begin(u32),
    End(u32),
    Compare(BlockFilter),
}

/// Sizes that tests ask for. The largest is that of an event that was clipped; 250 of them fit a `u64`.
const SIZES: [u64; 6] = [0, 1, 2, 100, 4096, MAX_SIZE];
const MAX_STEPS: usize = 250;

/// Few addresses, so that they meet again; most of them share a shard, so that its layers do.
fn addresses() -> Vec<u64> {
    let crowded = (1_u64..)
        .map(|n| n * 16)
        .filter(|addr| Key::new(*addr).shard(64) == 0);
    crowded.take(9).chain([16, 32, 48]).collect()
}

fn a_block_event() -> impl Strategy<Value = Event> {
    let kind = prop_oneof![
        6 => Just(event::ALLOC),
        4 => Just(event::FREE),
        3 => Just(event::REALLOC_ENTER),
        4 => Just(event::REALLOC_RETURN),
        1 => Just(99),
    ];
    let addr = prop_oneof![9 => prop::sample::select(addresses()), 1 => Just(0)];
    let size = prop::sample::select(&SIZES[..]);
    (kind, 1..6_u32, 1..4_u32, addr, size, 0..4_u64).prop_map(
        |(kind, tgid, tid, addr, size, stack)| Event {
            kind_and_size: Event::pack(kind, size),
            tgid,
            tid,
            addr,
            stack,
        },
    )
}

fn a_process_event() -> impl Strategy<Value = Event> {
    let kind = prop_oneof![5 => Just(event::FORK), 1 => Just(event::EXEC), 2 => Just(event::EXIT)];
    let child = prop_oneof![20 => 1..6_u64, 1 => Just(u64::MAX)];
    (kind, 1..6_u32, child, 0..3_u64).prop_map(|(kind, tgid, child, size)| Event {
        kind_and_size: Event::pack(kind, size),
        tgid,
        tid: tgid,
        addr: child,
        stack: 0,
    })
}

fn a_filter() -> impl Strategy<Value = BlockFilter> {
    let size = || prop::option::of(prop::sample::select(&SIZES[..]).prop_map(Bytes));
    // Ages that blocks really have, and those just below and above.
    let age =
        (0..30_u64, 0..3_u64).prop_map(|(waits, off)| (waits * 100_000 + off).saturating_sub(1));
    let age = prop_oneof![Just(0), age].prop_map(Duration::from_micros);
    let filter = (age, size(), size());
    filter.prop_map(|(min_age, min_size, max_size)| BlockFilter {
        min_age,
        min_size,
        max_size,
    })
}

fn an_action() -> impl Strategy<Value = Action> {
    prop_oneof![
        40 => a_block_event().prop_map(Action::Apply),
        5 => a_process_event().prop_map(Action::Apply),
        1 => (1..6_u32).prop_map(Action::Begin),
        1 => (1..6_u32).prop_map(Action::End),
        3 => a_filter().prop_map(Action::Compare),
    ]
}

fn steps(action: impl Strategy<Value = Action>) -> impl Strategy<Value = Vec<Step>> {
    let wait = prop_oneof![Just(0), Just(100), Just(300)];
    let step = (wait, action).prop_map(|(wait, action)| Step { wait, action });
    prop::collection::vec(step, 0..MAX_STEPS)
}

/// A snapshot whose sites stand in the model's order.
fn frozen(tracker: &Tracker, filter: BlockFilter, now: u32) -> Vec<ProcessSnapshot> {
    let mut processes = tracker.freeze(filter, Millis(now).into()).processes;
    for process in &mut processes {
        process.sites.sort_by_key(|site| site.stack);
    }
    processes
}

/// Takes the steps on both sides, and compares where a step says so and at the end.
fn run(steps: &[Step], limits: Limits) -> Result<(), TestCaseError> {
    let mut tracker = Tracker::new(limits, BlockFilter::default());
    let mut model = Model::new(limits.live_blocks);
    let mut now = 0;
    for Step { wait, action } in steps {
        now += wait;
        match action {
            Action::Apply(event) => {
                tracker.apply(event, Millis(now));
                model.apply(event, Millis(now));
            }
            Action::Begin(pid) => {
                tracker.begin(Pid(*pid), Millis(now));
                model.begin(*pid, now);
            }
            Action::End(pid) => {
                tracker.end(Pid(*pid), Millis(now));
                model.end(*pid, now);
            }
            Action::Compare(filter) => {
                prop_assert_eq!(frozen(&tracker, *filter, now), model.freeze(filter, now));
            }
        }
    }
    let all = BlockFilter::default();
    prop_assert_eq!(frozen(&tracker, all, now), model.freeze(&all, now));
    prop_assert_eq!(
        tracker.freeze(all, Duration::ZERO).malformed,
        model.malformed
    );
    Ok(())
}

/// The same steps without forks that copy memory: how a child's share of a full table is folded is no concern of
/// the model.
fn without_copies(mut steps: Vec<Step>) -> Vec<Step> {
    for step in &mut steps {
        if let Action::Apply(event) = &mut step.action
            && event.kind() == event::FORK
        {
            event.kind_and_size = Event::pack(event::FORK, 1);
        }
    }
    steps
}

proptest! {
    #[test]
    fn snapshots_equal_the_models(steps in steps(an_action())) {
        run(&steps, ample())?;
    }

    #[test]
    fn snapshots_equal_the_models_at_the_limit_of_blocks(
        steps in steps(an_action()).prop_map(without_copies),
        live_blocks in 0..12_usize,
    ) {
        run(&steps, Limits { live_blocks, ..ample() })?;
    }

    #[test]
    fn nothing_exceeds_its_limit_and_all_that_was_stored_is_given_back(
        steps in steps(an_action()),
        live_blocks in 0..12_usize,
        sites in 0..20_usize,
        processes in 0..6_usize,
        exited in 0..4_usize,
        exited_sites in 0..8_usize,
    ) {
        let limits = Limits { live_blocks, sites, processes, exited, exited_sites, ..ample() };
        let mut tracker = Tracker::new(limits, BlockFilter::default());
        for Step { action, .. } in steps {
            if let Action::Apply(event) = action {
                tracker.apply(&event, Millis(0));
            }
            check_limits(&tracker, &limits)?;
        }
        for pid in 1..6 {
            tracker.apply(&exit(pid), Millis(0));
        }
        prop_assert_eq!(tracker.processes.stored(), (0, 0, 0));
    }
}

fn check_limits(tracker: &Tracker, limits: &Limits) -> Result<(), TestCaseError> {
    let snapshot = tracker.freeze(BlockFilter::default(), Duration::ZERO);
    let (exited, running): (Vec<_>, Vec<_>) = snapshot
        .processes
        .iter()
        .partition(|process| process.exited);
    prop_assert!(running.len() <= limits.processes);
    prop_assert!(exited.len() <= limits.exited);
    let exited_sites: usize = exited.iter().map(|process| process.sites.len()).sum();
    prop_assert!(exited_sites <= limits.exited_sites);
    for process in &snapshot.processes {
        let blocks: u64 = process.sites.iter().map(|site| site.live_blocks).sum();
        prop_assert_eq!(process.live_blocks, blocks);
        prop_assert_eq!(process.frees_uncertain || process.folded_blocks == 0, true);
    }
    let (blocks, ..) = tracker.processes.stored();
    prop_assert!(
        blocks <= 2 * (limits.live_blocks + limits.live_blocks / 4 + 1),
        "{blocks}"
    );
    Ok(())
}
