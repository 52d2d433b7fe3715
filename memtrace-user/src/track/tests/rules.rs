//! Each rule of what an event means, as a sentence.

use std::time::Duration;

use memtrace_common::{event::Event, stack::StackHeader};

use super::{
    after, alloc, ample, by, exec, exit, fork, free, realloc_enter, realloc_return, tracker, vfork,
};
use crate::{
    ids::{Bytes, Millis, Pid, StackId},
    snapshot::{BlockFilter, ProcessSnapshot, SiteCounts, Snapshot},
    track::{Limits, Tracker},
};

/// The processes with this id: exited generations last, in the order in which they ended.
fn generations(snapshot: &Snapshot, pid: u32) -> Vec<&ProcessSnapshot> {
    let processes = snapshot.processes.iter();
    processes
        .filter(|process| process.pid == Pid(pid))
        .collect()
}

/// The only process.
fn only(snapshot: &Snapshot) -> &ProcessSnapshot {
    assert_eq!(snapshot.processes.len(), 1, "{:?}", snapshot.processes);
    &snapshot.processes[0]
}

fn live(process: &ProcessSnapshot) -> (u64, u64) {
    (process.live_blocks, process.live_bytes.0)
}

fn site(process: &ProcessSnapshot, stack: u64) -> SiteCounts {
    let site = process
        .sites
        .iter()
        .find(|site| site.stack == StackId(stack));
    site.copied().unwrap_or_default()
}

#[test]
fn an_allocation_is_live_until_it_is_freed() {
    let snapshot = after(&[alloc(1, 0x10, 100, 7), alloc(1, 0x20, 50, 7), free(1, 0x10)]);
    let process = only(&snapshot);
    assert_eq!(live(process), (1, 50));
    assert_eq!(
        (process.allocated_blocks, process.allocated_bytes),
        (2, Bytes(150))
    );
    assert_eq!(process.peak_bytes, Bytes(150));
    let expected = SiteCounts {
        stack: StackId(7),
        live_bytes: Bytes(50),
        live_blocks: 1,
        allocated_bytes: Bytes(150),
        allocated_blocks: 2,
        oldest: Duration::from_secs(2),
    };
    assert_eq!(process.sites, [expected]);
}

#[test]
fn a_block_of_no_bytes_is_a_block() {
    assert_eq!(live(only(&after(&[alloc(1, 0x10, 0, 7)]))), (1, 0));
}

#[test]
fn a_free_of_an_unknown_address_is_counted() {
    let snapshot = after(&[free(1, 0x10)]);
    assert_eq!(only(&snapshot).unknown_frees, 1);
}

#[test]
fn an_address_that_is_handed_out_again_supersedes_the_old_block() {
    let snapshot = after(&[alloc(1, 0x10, 100, 7), alloc(1, 0x10, 30, 8)]);
    let process = only(&snapshot);
    assert_eq!((live(process), process.superseded_blocks), ((1, 30), 1));
    assert_eq!(
        (site(process, 7).live_blocks, site(process, 8).live_blocks),
        (0, 1)
    );
}

#[test]
fn equal_addresses_of_two_processes_are_two_blocks() {
    let snapshot = after(&[alloc(1, 0x10, 100, 7), alloc(2, 0x10, 30, 7), free(2, 0x10)]);
    assert_eq!(live(generations(&snapshot, 1)[0]), (1, 100));
    assert_eq!(live(generations(&snapshot, 2)[0]), (0, 0));
}

#[test]
fn a_block_that_is_being_reallocated_is_live() {
    let snapshot = after(&[alloc(1, 0x10, 100, 7), realloc_enter(1, 0x10)]);
    let process = only(&snapshot);
    assert_eq!(live(process), (1, 100));
    assert_eq!(site(process, 7).oldest, Duration::from_secs(2));
}

#[test]
fn a_reallocation_moves_the_block_to_its_own_site() {
    let snapshot = after(&[
        alloc(1, 0x10, 100, 7),
        realloc_enter(1, 0x10),
        realloc_return(1, 0x20, 150, 8),
    ]);
    let process = only(&snapshot);
    assert_eq!(live(process), (1, 150));
    assert_eq!(
        (process.allocated_blocks, process.allocated_bytes),
        (2, Bytes(250))
    );
    assert_eq!(process.peak_bytes, Bytes(150));
    assert_eq!(
        (site(process, 7).live_blocks, site(process, 8).live_bytes),
        (0, Bytes(150))
    );
    assert_eq!((process.superseded_blocks, process.unknown_frees), (0, 0));
}

#[test]
fn a_reallocation_in_place_supersedes_nothing() {
    let snapshot = after(&[
        alloc(1, 0x10, 100, 7),
        realloc_enter(1, 0x10),
        realloc_return(1, 0x10, 150, 8),
    ]);
    let process = only(&snapshot);
    assert_eq!((live(process), process.superseded_blocks), ((1, 150), 0));
}

#[test]
fn a_failed_reallocation_leaves_the_block_as_it_was() {
    let snapshot = after(&[
        alloc(1, 0x10, 100, 7),
        realloc_enter(1, 0x10),
        realloc_return(1, 0, 1 << 50, 8),
        free(1, 0x20),
    ]);
    let process = only(&snapshot);
    assert_eq!((live(process), process.allocated_blocks), ((1, 100), 1));
    assert_eq!(site(process, 7).oldest, Duration::from_secs(4));
    assert_eq!(process.unknown_frees, 1);
}

#[test]
fn a_reallocation_to_nothing_frees_the_block() {
    let snapshot = after(&[
        alloc(1, 0x10, 100, 7),
        realloc_enter(1, 0x10),
        realloc_return(1, 0, 0, 8),
    ]);
    assert_eq!(live(only(&snapshot)), (0, 0));
}

#[test]
fn a_reallocation_of_an_unknown_block_is_an_unknown_free_only_if_it_succeeds() {
    let failed = after(&[realloc_enter(1, 0x10), realloc_return(1, 0, 100, 8)]);
    assert_eq!(only(&failed).unknown_frees, 0);
    let moved = after(&[realloc_enter(1, 0x10), realloc_return(1, 0x20, 100, 8)]);
    assert_eq!(
        (only(&moved).unknown_frees, live(only(&moved))),
        (1, (1, 100))
    );
    let freed = after(&[realloc_enter(1, 0x10), realloc_return(1, 0, 0, 8)]);
    assert_eq!(only(&freed).unknown_frees, 1);
}

#[test]
fn a_reallocation_of_nothing_is_an_allocation() {
    let snapshot = after(&[realloc_return(1, 0x10, 100, 8)]);
    assert_eq!(live(only(&snapshot)), (1, 100));
    let snapshot = after(&[realloc_return(1, 0, 100, 8)]);
    assert_eq!(
        (live(only(&snapshot)), only(&snapshot).allocated_blocks),
        ((0, 0), 0)
    );
}

#[test]
fn another_thread_may_take_the_old_address_during_a_reallocation() {
    let snapshot = after(&[
        alloc(1, 0x10, 100, 7),
        by(11, realloc_enter(1, 0x10)),
        by(12, alloc(1, 0x10, 30, 9)),
        by(11, realloc_return(1, 0x20, 150, 8)),
    ]);
    let process = only(&snapshot);
    assert_eq!((live(process), process.superseded_blocks), ((2, 180), 0));
}

#[test]
fn a_block_whose_reallocation_failed_yields_to_a_newer_one_at_its_address() {
    let snapshot = after(&[
        alloc(1, 0x10, 100, 7),
        by(11, realloc_enter(1, 0x10)),
        by(12, alloc(1, 0x10, 30, 9)),
        by(11, realloc_return(1, 0, 150, 8)),
    ]);
    let process = only(&snapshot);
    assert_eq!((live(process), process.superseded_blocks), ((1, 30), 1));
}

#[test]
fn a_thread_that_reallocates_again_has_lost_a_return() {
    let snapshot = after(&[
        alloc(1, 0x10, 100, 7),
        realloc_enter(1, 0x10),
        alloc(1, 0x20, 30, 7),
        realloc_enter(1, 0x20),
        realloc_return(1, 0x30, 40, 7),
    ]);
    let process = only(&snapshot);
    assert_eq!((live(process), process.superseded_blocks), ((1, 40), 1));
}

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
