//! Pools made by hand, and those of real interpreters, which count their blocks themselves.

use std::{io, iter};

use super::*;
use crate::python::tests::processes::{Program, series, supported};

const POOL: usize = 4 << 10;
/// Where the pool lies.
const AT: u64 = 0x10_0000;

/// One pool of 4 KiB.
struct OnePool(Vec<u8>);

impl Memory for OnePool {
    fn read_into(&self, addr: u64, bytes: &mut [u8]) -> io::Result<()> {
        let from = usize::try_from(addr - AT).unwrap();
        bytes.copy_from_slice(&self.0[from..from + bytes.len()]);
        Ok(())
    }
}

/// A pool of blocks of 32 bytes, `carved` of them cut off and those in `free` free.
fn pool(carved: usize, free: &[usize]) -> OnePool {
    let (size, class) = (32, 1_u32);
    let mut bytes = vec![0; POOL];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    let block = |index: usize| HEAD + index * size;
    put(0, &((carved - free.len()) as u32).to_le_bytes());
    put(36, &class.to_le_bytes());
    put(40, &(block(carved) as u32).to_le_bytes());
    put(44, &((POOL - size) as u32).to_le_bytes());
    let mut link = 8;
    for &index in free {
        put(link, &(AT + block(index) as u64).to_le_bytes());
        link = block(index);
    }
    put(link, &[0; 8]);
    OnePool(bytes)
}

fn scan(pool: &OnePool) -> Scan {
    Scan::of(pool, iter::once(AT..AT + POOL as u64).collect(), POOL)
}

#[test]
fn what_is_carved_and_not_free_is_in_use() {
    let scan = scan(&pool(70, &[3, 68]));
    assert_eq!(scan.live_blocks(), 68);
    let pool = &scan.pools[&AT];
    assert!(pool.has(2) && !pool.has(3) && !pool.has(68) && pool.has(69) && !pool.has(70));
}

#[test]
fn a_pool_whose_parts_do_not_agree_is_left_out() {
    let mut torn = pool(70, &[3, 68]);
    torn.0[0] += 1;
    let mut circle = pool(70, &[3, 68]);
    let link = HEAD + 68 * 32;
    circle.0.copy_within(8..16, link);
    for pool in [torn, circle] {
        let scan = scan(&pool);
        assert!(scan.pools.is_empty() && scan.unsettled.contains(&AT));
    }
}

#[test]
fn other_memory_is_no_pool() {
    for bytes in [vec![0; POOL], vec![0xff; POOL], vec![1; POOL]] {
        assert!(scan(&OnePool(bytes)).is_empty());
    }
}

#[test]
fn changes_are_what_one_scan_has_and_the_other_has_not() {
    let (before, now) = (scan(&pool(4, &[1])), scan(&pool(6, &[0])));
    let mut changes: Vec<(u64, bool)> = now
        .changes_since(&before)
        .map(|change| ((change.start - AT - HEAD as u64) / 32, change.is_made))
        .collect();
    changes.sort_unstable();
    assert_eq!(changes, [(0, false), (1, true), (4, true), (5, true)]);
    assert_eq!(now.changes_since(&now).count(), 0);
    // A pool that came up where nothing was has only new blocks; one that was not looked at says nothing.
    assert_eq!(now.changes_since(&Scan::default()).count(), 5);
    let unread = Scan {
        mapped: iter::once(AT..AT + 1).collect(),
        ..Scan::default()
    };
    assert_eq!(now.changes_since(&unread).count(), 0);
}

const GROWING: &str = "
import sys
kept = []
def say():
    print(sys.getallocatedblocks(), flush=True)
    sys.stdin.readline()
say()
for _ in range(20000):
    kept.append((object(), {}, [None], b'x' * (_ % 400)))
say()
del kept[5000:]
say()
";

/// Growth as the interpreter counts it, and as the pools show it.
#[test]
fn growth_is_what_the_interpreter_says() {
    for interpreter in supported() {
        let version = series(&interpreter);
        let bytes = pool_bytes(Version {
            major: version.0,
            minor: version.1,
            micro: None,
        });
        let mut program = Program::start(&interpreter, GROWING);
        let mut moments = Vec::new();
        for _ in 0..3 {
            let told: i64 = program.line().trim().parse().unwrap();
            // The program waits, or is about to.
            std::thread::sleep(std::time::Duration::from_millis(20));
            moments.push((told, Scan::of_process(program.pid(), bytes).unwrap()));
            program.tell();
        }
        for pair in moments.windows(2) {
            let [(told_before, before), (told_now, now)] = pair else {
                unreachable!()
            };
            let seen = now.live_blocks() as i64 - before.live_blocks() as i64;
            let told = told_now - told_before;
            let name = interpreter.display();
            assert!(
                (seen - told).abs() < 100,
                "{name}: {seen} seen, {told} told"
            );
            assert!(told.abs() > 20_000, "{name}: {told} told");
            // Arenas that are given back take their pools along; what grows is seen block by block.
            let (made, ended): (Vec<_>, Vec<_>) =
                now.changes_since(before).partition(|change| change.is_made);
            let changed = made.len() as i64 - ended.len() as i64;
            assert!(
                told < 0 || changed == seen,
                "{name}: {changed} changes, {seen} seen"
            );
        }
    }
}
