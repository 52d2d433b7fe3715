//! When processes begin and end and what they share, each rule as a sentence.

use std::time::Duration;

use super::{
    after, alloc, ample, by, exec, exit, fork, free, generations, live, only, realloc_enter,
    realloc_return, site, tracker, vfork,
};
use crate::{
    ids::{Bytes, Millis, Pid},
    snapshot::BlockFilter,
    track::Tracker,
};

#[test]
fn a_program_that_begins_another_starts_anew() {
    let snapshot = after(&[alloc(1, 0x10, 100, 7), exec(1), alloc(1, 0x20, 30, 8)]);
    let [running, exited] = generations(&snapshot, 1)[..] else {
        panic!("{:?}", snapshot.processes);
    };
    assert_eq!(
        (live(running), running.exec_count, running.exited),
        ((1, 30), 1, false)
    );
    assert_eq!(
        (live(exited), exited.exec_count, exited.exited),
        ((1, 100), 0, true)
    );
    assert_eq!(exited.sites.len(), 1);
    assert_eq!(running.begun, Duration::from_secs(1));
}

#[test]
fn a_generation_that_did_nothing_before_it_began_a_program_leaves_no_trace() {
    let snapshot = after(&[exec(1), exec(1)]);
    assert_eq!(
        (only(&snapshot).exec_count, only(&snapshot).exited),
        (2, false)
    );
}

#[test]
fn a_process_that_exits_keeps_its_last_state() {
    let snapshot = after(&[alloc(1, 0x10, 100, 7), exit(1), exit(1)]);
    let process = only(&snapshot);
    assert_eq!((live(process), process.exited), ((1, 100), true));
    assert_eq!(site(process, 7).oldest, Duration::from_secs(1));
}

#[test]
fn a_process_id_that_is_used_again_is_another_generation() {
    let events = [
        alloc(1, 0x10, 100, 7),
        exit(1),
        free(1, 0x10),
        alloc(1, 0x20, 30, 7),
    ];
    let snapshot = after(&events);
    let [running, exited] = generations(&snapshot, 1)[..] else {
        panic!("{:?}", snapshot.processes);
    };
    assert_eq!((live(running), running.unknown_frees), ((1, 30), 1));
    assert_eq!(live(exited), (1, 100));
    assert_eq!(running.begun, Duration::from_secs(2));
}

#[test]
fn a_forked_process_id_that_is_still_in_use_has_lost_its_exit() {
    let snapshot = after(&[alloc(2, 0x10, 100, 7), alloc(1, 0x20, 30, 7), fork(1, 2)]);
    let [running, exited] = generations(&snapshot, 2)[..] else {
        panic!("{:?}", snapshot.processes);
    };
    assert_eq!((live(running), running.inherited_blocks), ((1, 30), 1));
    assert_eq!((live(exited), exited.exited), ((1, 100), true));
}

#[test]
fn a_forked_child_inherits_what_is_live() {
    let snapshot = after(&[
        alloc(1, 0x10, 100, 7),
        alloc(1, 0x20, 50, 7),
        fork(1, 2),
        free(2, 0x10),
        alloc(2, 0x30, 1, 7),
        free(1, 0x20),
    ]);
    let parent = generations(&snapshot, 1)[0];
    assert_eq!((live(parent), parent.inherited_blocks), ((1, 100), 0));
    let child = generations(&snapshot, 2)[0];
    assert_eq!((live(child), child.inherited_blocks), ((2, 51), 1));
    assert_eq!(
        (child.allocated_blocks, child.allocated_bytes),
        (1, Bytes(1))
    );
    assert_eq!(child.peak_bytes, Bytes(150));
    assert_eq!((child.unknown_frees, parent.unknown_frees), (0, 0));
    assert_eq!(child.sites.len(), 1);
}

#[test]
fn an_inherited_block_is_as_old_as_its_process() {
    let snapshot = after(&[alloc(1, 0x10, 100, 7), fork(1, 2)]);
    assert_eq!(
        site(generations(&snapshot, 1)[0], 7).oldest,
        Duration::from_secs(2)
    );
    assert_eq!(
        site(generations(&snapshot, 2)[0], 7).oldest,
        Duration::from_secs(1)
    );
}

#[test]
fn a_block_that_another_thread_reallocates_during_a_fork_stays_as_it_is_in_the_child() {
    let snapshot = after(&[
        alloc(1, 0x10, 100, 7),
        by(11, realloc_enter(1, 0x10)),
        fork(1, 2),
        by(11, realloc_return(1, 0x20, 150, 8)),
        free(2, 0x10),
    ]);
    assert_eq!(live(generations(&snapshot, 1)[0]), (1, 150));
    let child = generations(&snapshot, 2)[0];
    assert_eq!((live(child), child.unknown_frees), ((0, 0), 0));
}

#[test]
fn a_grandchild_inherits_from_both() {
    let snapshot = after(&[
        alloc(1, 0x10, 100, 7),
        fork(1, 2),
        alloc(2, 0x20, 50, 8),
        fork(2, 3),
        exit(1),
        exit(2),
        free(3, 0x10),
    ]);
    let grandchild = generations(&snapshot, 3)[0];
    assert_eq!(
        (live(grandchild), grandchild.inherited_blocks),
        ((1, 50), 1)
    );
    assert_eq!(
        (
            site(grandchild, 7).live_blocks,
            site(grandchild, 8).live_blocks
        ),
        (0, 1)
    );
}

#[test]
fn a_child_that_shares_memory_acts_on_its_parents_until_it_begins_a_program() {
    let snapshot = after(&[
        alloc(1, 0x10, 100, 7),
        vfork(1, 2),
        free(2, 0x10),
        alloc(2, 0x20, 30, 8),
        exec(2),
        alloc(2, 0x20, 5, 9),
    ]);
    assert_eq!(live(generations(&snapshot, 1)[0]), (1, 30));
    let child = generations(&snapshot, 2);
    assert_eq!(
        (child.len(), live(child[0]), child[0].exec_count),
        (1, (1, 5), 1)
    );
}

#[test]
fn a_child_that_shares_memory_leaves_no_trace_when_it_exits() {
    let snapshot = after(&[alloc(1, 0x10, 100, 7), vfork(1, 2), free(2, 0x10), exit(2)]);
    assert_eq!(live(only(&snapshot)), (0, 0));
}

#[test]
fn what_a_child_that_shares_memory_was_reallocating_stays_with_its_parent() {
    let snapshot = after(&[
        alloc(1, 0x10, 100, 7),
        vfork(1, 2),
        realloc_enter(2, 0x10),
        exit(2),
        free(1, 0x10),
    ]);
    assert_eq!(
        (live(only(&snapshot)), only(&snapshot).unknown_frees),
        ((0, 0), 0)
    );
}

#[test]
fn a_fork_of_a_child_that_shares_memory_copies_its_parents() {
    let snapshot = after(&[alloc(1, 0x10, 100, 7), vfork(1, 2), fork(2, 3), exit(1)]);
    assert_eq!(live(generations(&snapshot, 3)[0]), (1, 100));
}

#[test]
fn a_process_appears_as_soon_as_it_is_begun() {
    let mut tracker = Tracker::new(ample(), BlockFilter::default());
    tracker.begin(Pid(5), Millis(3_000));
    let snapshot = tracker.freeze(BlockFilter::default(), Duration::from_secs(4));
    assert_eq!(
        (only(&snapshot).pid, only(&snapshot).begun),
        (Pid(5), Duration::from_secs(3))
    );
}

#[test]
fn an_exited_process_counts_what_passed_the_exit_filter() {
    let large = BlockFilter {
        min_size: Some(Bytes(60)),
        ..BlockFilter::default()
    };
    let mut tracker = Tracker::new(ample(), large);
    for event in [alloc(1, 0x10, 100, 7), alloc(1, 0x20, 50, 7), exit(1)] {
        tracker.apply(&event, Millis(0));
    }
    let snapshot = tracker.freeze(large, Duration::ZERO);
    assert_eq!(live(only(&snapshot)), (1, 100));
}

#[test]
fn an_exec_that_was_not_seen_begins_a_program_once() {
    let mut tracker = tracker(
        ample(),
        &[alloc(1, 0x10, 100, 7), exec(1), alloc(1, 0x20, 50, 7)],
    );
    // Its first program after the one it was found with has been seen to begin, its second has not.
    tracker.exec(Pid(1), 1, Millis(0));
    tracker.exec(Pid(1), 2, Millis(0));
    tracker.exec(Pid(1), 2, Millis(0));
    tracker.apply(&alloc(1, 0x30, 5, 7), Millis(0));
    let snapshot = tracker.freeze(BlockFilter::default(), Duration::ZERO);
    let lives: Vec<_> = generations(&snapshot, 1)
        .iter()
        .map(|process| (process.exec_count, process.exited, live(process)))
        .collect();
    assert_eq!(
        lives,
        [(2, false, (1, 5)), (0, true, (1, 100)), (1, true, (1, 50))]
    );
}
