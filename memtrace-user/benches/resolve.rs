//! How fast frames are named and reports are made.
//!
//! The object is the C library of this machine, with its debug file when that is installed; frames are the middles of
//! its exported functions.

#![expect(clippy::unwrap_used, reason = "a benchmark may panic")]

use std::{
    collections::HashMap,
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
    time::UNIX_EPOCH,
};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use memtrace::{
    ids::{Bytes, ObjectId, StackId},
    python::book::{BookLimits, CodeBook},
    report::{Measured, ProcessFacts, Report, ReportOptions, Sort, Sources},
    resolve::{ResolveOptions, Resolver},
    snapshot::{BlockFilter, ProcessSnapshot, SiteCounts, Snapshot, Stack},
    target::object::Object,
};
use memtrace_common::{stack::frame, unwind::FileKey};
use object::{Object as _, ObjectSymbol as _};

const FRAMES: usize = 30;
const SITES: u64 = 20_000;

fn libc() -> PathBuf {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|line| line.contains("/libc.so")).unwrap();
    PathBuf::from(line.split_whitespace().last().unwrap())
}

fn objects(path: &Path) -> HashMap<ObjectId, Arc<Object>> {
    let file = File::open(path).unwrap();
    let object = Object::new(ObjectId(1), FileKey::default(), path.to_owned(), Ok(file));
    HashMap::from([(ObjectId(1), Arc::new(object))])
}

fn frames(path: &Path) -> Vec<u64> {
    let bytes = fs::read(path).unwrap();
    let elf = object::File::parse(&*bytes).unwrap();
    let functions = elf.dynamic_symbols().filter(|symbol| symbol.size() > 16);
    let mut frames: Vec<u64> = functions
        .map(|symbol| {
            frame(
                1,
                u32::try_from(symbol.address() + symbol.size() / 2).unwrap(),
            )
        })
        .collect();
    frames.sort_unstable();
    frames.dedup();
    frames
}

fn resolve(criterion: &mut Criterion) {
    let path = libc();
    let objects = objects(&path);
    let frames = frames(&path);
    let stack = Stack {
        frames: frames.clone().into(),
        ..Stack::default()
    };
    let new = || Resolver::new(ResolveOptions::default());
    let mut group = criterion.benchmark_group("resolve");
    group
        .sample_size(10)
        .throughput(Throughput::Elements(frames.len() as u64));
    group.bench_function("cold", |bencher| {
        bencher.iter_batched(
            new,
            |mut resolver| resolver.resolve([&stack], &objects),
            BatchSize::PerIteration,
        );
    });
    let mut resolver = new();
    resolver.resolve([&stack], &objects);
    group.bench_function("cached", |bencher| {
        bencher.iter(|| resolver.resolve([&stack], &objects))
    });
    group.finish();
}

/// A process of many sites.
fn snapshot(frames: &[u64]) -> Snapshot {
    let stack = |site: u64| {
        let frame = |level: usize| frames[(site as usize * 7 + level * 13) % frames.len()];
        Arc::new(Stack {
            frames: (0..FRAMES).map(frame).collect(),
            ..Stack::default()
        })
    };
    let site = |site: u64| SiteCounts {
        stack: StackId(site),
        live_bytes: Bytes(site),
        live_blocks: 1,
        ..SiteCounts::default()
    };
    Snapshot {
        processes: vec![ProcessSnapshot {
            sites: (1..=SITES).map(site).collect(),
            ..ProcessSnapshot::default()
        }],
        stacks: (1..=SITES)
            .map(|site| (StackId(site), stack(site)))
            .collect(),
        ..Snapshot::default()
    }
}

fn report(criterion: &mut Criterion) {
    let path = libc();
    let objects = objects(&path);
    let snapshot = snapshot(&frames(&path));
    let sources = Sources {
        snapshot: &snapshot,
        facts: &|_| ProcessFacts::default(),
        objects: &objects,
        codes: &CodeBook::new(BookLimits::default()),
        measured: &Measured::default(),
        time: UNIX_EPOCH,
        is_final: false,
    };
    let mut resolver = Resolver::new(ResolveOptions::default());
    let mut group = criterion.benchmark_group("report of 20 000 sites of 30 frames");
    group.sample_size(10);
    for (name, top) in [("top 10", Some(10)), ("all", None)] {
        let options = ReportOptions {
            sort: Sort::LiveBytes,
            top,
            native: false,
            filter: BlockFilter::default(),
        };
        group.bench_function(name, |bencher| {
            bencher.iter(|| Report::build(&sources, &options, &mut resolver))
        });
    }
    group.finish();
}

criterion_group!(benches, resolve, report);
criterion_main!(benches);
