//! What happens at each limit, and what becomes of stacks, as sentences.

use std::time::Duration;

use memtrace_common::{event::Event, stack::StackHeader};

use super::{alloc, ample, exit, fork, free, generations, live, only, site, tracker};
use crate::{
    ids::{Bytes, Millis, Pid, StackId},
    snapshot::BlockFilter,
    track::{Limits, Tracker},
};

#[test]
fn at_the_limit_new_blocks_are_folded_and_frees_become_uncertain() {
    let limits = Limits {
        live_blocks: 2,
        ..ample()
    };
    let events = [
        alloc(1, 0x10, 100, 7),
        alloc(1, 0x20, 50, 7),
        alloc(1, 0x30, 8, 7),
        free(1, 0x30),
    ];
    let snapshot = tracker(limits, &events).freeze(BlockFilter::default(), Duration::ZERO);
    let process = only(&snapshot);
    assert_eq!((live(process), process.allocated_blocks), ((2, 150), 3));
    assert_eq!((process.folded_blocks, process.folded_bytes), (1, Bytes(8)));
    assert_eq!((process.unknown_frees, process.frees_uncertain), (1, true));
}

#[test]
fn a_fork_at_the_limit_folds_the_childs_inheritance() {
    let limits = Limits {
        live_blocks: 2,
        ..ample()
    };
    let events = [alloc(1, 0x10, 100, 7), alloc(1, 0x20, 50, 7), fork(1, 2)];
    let snapshot = tracker(limits, &events).freeze(BlockFilter::default(), Duration::ZERO);
    let (parent, child) = (generations(&snapshot, 1)[0], generations(&snapshot, 2)[0]);
    assert_eq!((live(parent), parent.frees_uncertain), ((2, 150), false));
    assert_eq!(
        (live(child), child.folded_blocks, child.folded_bytes),
        ((0, 0), 2, Bytes(150))
    );
    assert!(child.frees_uncertain);
}

#[test]
fn beyond_the_limit_of_sites_blocks_count_under_the_null_stack() {
    let limits = Limits {
        sites: 2,
        ..ample()
    };
    let events = [
        alloc(1, 0x10, 100, 7),
        alloc(1, 0x20, 50, 8),
        alloc(1, 0x30, 1, 7),
    ];
    let snapshot = tracker(limits, &events).freeze(BlockFilter::default(), Duration::ZERO);
    let process = only(&snapshot);
    assert_eq!((live(process), process.siteless_blocks), ((3, 151), 1));
    assert_eq!(
        (site(process, 7).live_blocks, site(process, 0).live_blocks),
        (2, 1)
    );
}

#[test]
fn beyond_the_limit_of_processes_events_are_refused() {
    let limits = Limits {
        processes: 1,
        ..ample()
    };
    let events = [
        alloc(1, 0x10, 100, 7),
        alloc(2, 0x20, 50, 8),
        fork(1, 3),
        exit(1),
        alloc(2, 0x30, 1, 7),
    ];
    let snapshot = tracker(limits, &events).freeze(BlockFilter::default(), Duration::ZERO);
    assert_eq!((snapshot.events, snapshot.refused_events), (5, 2));
    assert_eq!(live(generations(&snapshot, 2)[0]), (1, 1));
}

#[test]
fn beyond_the_limit_of_exited_processes_the_oldest_are_summed_up() {
    let limits = Limits {
        exited: 1,
        ..ample()
    };
    let events: Vec<Event> = (1..4)
        .flat_map(|pid| [alloc(pid, 0x10, 100, 7), free(pid, 1), exit(pid)])
        .collect();
    let snapshot = tracker(limits, &events).freeze(BlockFilter::default(), Duration::ZERO);
    assert_eq!(only(&snapshot).pid, Pid(3));
    let forgotten = snapshot.forgotten;
    assert_eq!(
        (
            forgotten.processes,
            forgotten.live_blocks,
            forgotten.live_bytes
        ),
        (2, 2, Bytes(200))
    );
    assert_eq!(
        (forgotten.allocated_blocks, forgotten.unknown_frees),
        (2, 2)
    );
}

#[test]
fn a_stack_comes_with_the_sites_that_refer_to_it_and_the_first_of_an_id_stays() {
    let mut tracker = tracker(ample(), &[alloc(1, 0x10, 100, 7), alloc(1, 0x20, 50, 8)]);
    let header = |id, cut| StackHeader {
        id,
        cut,
        count: 2,
        ..StackHeader::default()
    };
    tracker.add_stack(&header(7, 3), &[1, 2]);
    tracker.add_stack(&header(7, 0), &[5, 6]);
    tracker.add_stack(&header(9, 0), &[3, 4]);
    let snapshot = tracker.freeze(BlockFilter::default(), Duration::ZERO);
    assert_eq!(snapshot.distinct_stacks, 2);
    let stacks: Vec<_> = snapshot.stacks.iter().collect();
    assert_eq!(stacks.len(), 1);
    assert_eq!(
        (*stacks[0].0, &*stacks[0].1.frames, stacks[0].1.cut),
        (StackId(7), &[1, 2][..], 3)
    );
    assert_eq!(only(&snapshot).sites.len(), 2);
}

#[test]
fn beyond_the_limit_of_the_dictionary_stacks_are_dropped_and_counted() {
    let mut tracker = Tracker::new(
        Limits {
            stack_bytes: 200,
            ..ample()
        },
        BlockFilter::default(),
    );
    for id in 1..4 {
        tracker.add_stack(
            &StackHeader {
                id,
                count: 1,
                ..StackHeader::default()
            },
            &[id],
        );
    }
    let snapshot = tracker.freeze(BlockFilter::default(), Duration::ZERO);
    assert_eq!((snapshot.dropped_stacks, snapshot.distinct_stacks), (2, 1));
}

#[test]
fn a_tracker_at_all_its_limits_stays_within_the_memory_it_was_given() {
    let memory = Bytes(8 << 20);
    let limits = Limits::from_memory(memory);
    let mut tracker = Tracker::new(limits, BlockFilter::default());
    for n in 1..200_000 {
        tracker.apply(&alloc(n as u32 % 100, n * 16, 100, n), Millis(0));
        tracker.add_stack(
            &StackHeader {
                id: n,
                count: 20,
                ..StackHeader::default()
            },
            &[n; 20],
        );
        assert!(tracker.memory_used() <= memory, "{n}");
    }
    for pid in 0..100 {
        tracker.apply(&exit(pid), Millis(0));
        assert!(tracker.memory_used() <= memory, "{pid}");
    }
    let snapshot = tracker.freeze(BlockFilter::default(), Duration::ZERO);
    assert!(
        snapshot
            .processes
            .iter()
            .any(|process| process.folded_blocks > 0)
    );
    assert!(
        snapshot
            .processes
            .iter()
            .any(|process| process.siteless_blocks > 0)
    );
    assert!(snapshot.dropped_stacks > 0);
}
