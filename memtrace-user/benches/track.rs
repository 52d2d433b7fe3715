//! Events a second from bytes to the tracker's tables, on one core.
//!
//! `random` frees any live block with the same chance, which no program does: it is the floor. `recent` frees the
//! blocks in the order of a stack some hundred deep, as most programs do.

#[expect(
    unreachable_pub,
    reason = "shared by the benches, each of which is a crate of its own"
)]
mod common;

use std::{hint::black_box, time::Duration};

use common::{Random, address, alloc, bytes, drain, free, tracker};
use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use memtrace::drain::decode;
use memtrace_common::event::Event;

const LIVE: [(&str, u64); 3] = [("1k", 1_000), ("1M", 1_000_000), ("10M", 10_000_000)];

fn events_in(trace: &[u8]) -> u64 {
    (trace.len() / size_of::<Event>()) as u64
}

/// Frees blocks at random and puts one at an address that is not in use for each; then the reverse. Leaves the
/// live set as it was.
fn random_churn(live: u64, random: &mut Random) -> Vec<u8> {
    let pairs = live.min(1 << 20);
    let stride = live / pairs;
    let mut order: Vec<u64> = (0..pairs).collect();
    for last in (1..order.len()).rev() {
        order.swap(last, random.below(last as u64 + 1) as usize);
    }
    let mut events = Vec::new();
    for n in &order {
        events.push(free(address(n * stride)));
        events.push(alloc(address(live + n * stride), random));
    }
    for n in &order {
        events.push(free(address(live + n * stride)));
        events.push(alloc(address(n * stride), random));
    }
    bytes(events)
}

/// Allocates and frees blocks at the top of a heap, like the frames of calls.
fn recent_churn(live: u64, random: &mut Random) -> Vec<u8> {
    let mut events = Vec::new();
    let mut depth = 0;
    while events.len() < 1 << 20 {
        let calls = random.below(16);
        for _ in 0..calls {
            events.push(alloc(address(live + depth), random));
            depth += 1;
        }
        for _ in 0..random.below(18).min(depth) {
            depth -= 1;
            events.push(free(address(live + depth)));
        }
    }
    events.extend((0..depth).rev().map(|n| free(address(live + n))));
    bytes(events)
}

fn churn(group: &mut BenchmarkGroup<'_, WallTime>, (name, live): (&str, u64)) {
    let mut random = Random(1);
    let mut tracker = tracker();
    let fill = bytes((0..live).map(|n| alloc(address(n), &mut random)));
    drain(&mut tracker, &fill);
    drop(fill);
    for (kind, trace) in [
        ("random", random_churn(live, &mut random)),
        ("recent", recent_churn(live, &mut random)),
    ] {
        group.throughput(Throughput::Elements(events_in(&trace)));
        group.bench_function(format!("{kind}/{name}_live"), |bencher| {
            bencher.iter(|| drain(&mut tracker, &trace));
        });
    }
}

fn track(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("track");
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(8));
    for live in LIVE {
        churn(&mut group, live);
    }
    group.finish();
}

fn decode(criterion: &mut Criterion) {
    let mut random = Random(1);
    let trace = bytes((0..1 << 16).map(|n| alloc(address(n), &mut random)));
    let mut group = criterion.benchmark_group("decode");
    group.throughput(Throughput::Elements(events_in(&trace)));
    group.bench_function("events", |bencher| {
        bencher.iter(|| {
            let records = trace.chunks_exact(size_of::<Event>());
            let sizes = records.filter_map(|record| decode::event(black_box(record)).ok());
            sizes.map(|event| event.size()).sum::<u64>()
        });
    });
    group.finish();
}

criterion_group!(benches, decode, track);
criterion_main!(benches);
