//! Time to build the rows and pages of an object: what a process waits for before its first complete stack.

use std::{fs::File, hint::black_box, path::Path};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use memtrace::{ids::ObjectId, target::object::Object, unwind::object_rows::ObjectRows};
use memtrace_common::unwind::FileKey;

/// Small, middling, large; code without call frame information. Those that are not installed are left out.
const OBJECTS: [&str; 4] = [
    "/lib/x86_64-linux-gnu/libc.so.6",
    "/usr/bin/gdb",
    "/usr/lib/x86_64-linux-gnu/libLLVM-14.so.1",
    "/usr/lib/x86_64-linux-musl/libc.so",
];

fn build(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("unwind/build");
    group.sample_size(20);
    for path in OBJECTS.map(Path::new) {
        let Ok(file) = File::open(path) else { continue };
        let object = Object::new(ObjectId(1), FileKey::default(), path.into(), Ok(file));
        let rows = ObjectRows::build(&object).map_or(0, |built| built.rows.len());
        group.throughput(Throughput::Elements(rows as u64));
        group.bench_function(path.display().to_string(), |bencher| {
            bencher.iter(|| ObjectRows::build(black_box(&object)));
        });
    }
    group.finish();
}

criterion_group!(benches, build);
criterion_main!(benches);
