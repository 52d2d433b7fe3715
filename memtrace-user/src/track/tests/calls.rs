//! What the calls of an allocator mean, each rule as a sentence.

use std::time::Duration;

use super::{after, alloc, by, free, generations, live, only, realloc_enter, realloc_return, site};
use crate::{
    ids::{Bytes, StackId},
    snapshot::SiteCounts,
};

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
        binding: crate::ids::BindingId::NONE,
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
