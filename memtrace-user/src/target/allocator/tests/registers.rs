//! At each point the arguments are where [`ProbePoint::arguments`] says: a debugger stops there and looks.

use std::{collections::HashMap, fmt::Write as _, path::Path, process::Command};

use memtrace_common::kind;
use tempfile::TempDir;

use super::{
    found_in,
    programs::compile,
    tools::{library, run},
};
use crate::target::allocator::{Allocator, AllocatorFunction};

/// Requests blocks of sizes that nobody else requests, and says which one it frees.
const PROGRAM: &str = "#define _GNU_SOURCE
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
int main(void) {
    void *volatile p = malloc(0x1111), *volatile q = calloc(0x21, 0x33), *r, *volatile s;
    p = realloc(p, 0x4444);
    if (posix_memalign(&r, 0x400, 0x5555)) return 1;
    s = aligned_alloc(0x80, 0x6680);
    printf(\"FREES %zu\\n\", (size_t)q);
    free(q);
    return 0;
}";
const SIZES: [u64; 5] = [0x1111, 0x21 * 0x33, 0x4444, 0x5555, 0x6680];

/// By their numbers in the instruction encoding.
const REGISTERS: &str = "rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15";

/// A script for gdb: prints function and registers whenever a point is reached.
fn script(preloaded: &Path, allocator: &Allocator) -> String {
    let preloaded = preloaded.display();
    let mut script = format!(
        "import gdb
class Point(gdb.Breakpoint):
    def stop(self):
        frame = gdb.selected_frame()
        values = [int(frame.read_register(name)) & (2**64 - 1) for name in '{REGISTERS}'.split()]
        print('HIT', self.name, *values)
        return False
gdb.execute('set exec-wrapper env LD_PRELOAD={preloaded}')
gdb.execute('break main')
gdb.execute('run')
maps = gdb.execute('info proc mappings', to_string=True)
base = min(int(line.split()[0], 16) for line in maps.splitlines() if '{}' in line)
",
        mapped_name(&preloaded.to_string())
    );
    for function in &allocator.functions {
        let at = function.rel + u64::from(function.point.skipped_bytes);
        writeln!(
            script,
            "Point('*%d' % (base + {at})).name = {:?}",
            function.name
        )
        .unwrap();
    }
    script.push_str("gdb.execute('continue')\n");
    script
}

/// The file that a link leads to: the name that mappings have.
fn mapped_name(path: &str) -> String {
    let file = std::fs::canonicalize(path).unwrap();
    file.file_name().unwrap().to_string_lossy().into_owned()
}

fn check(name: &str) {
    let path = library(name);
    let allocator = found_in(&path);
    let dir = TempDir::new().unwrap();
    let program = compile(&dir, "gcc", &["-O0", "-g"], PROGRAM);
    let script_path = dir.path().join("script.py");
    std::fs::write(&script_path, script(&path, &allocator)).unwrap();
    let output = run(Command::new("gdb")
        .args(["-batch", "-nx", "-x"])
        .arg(&script_path)
        .arg(&program));

    let functions: HashMap<&str, &AllocatorFunction> = allocator
        .functions
        .iter()
        .map(|function| (function.name.as_str(), function))
        .collect();
    let hits = output.lines().filter_map(hit);
    let seen: Vec<(u32, u64)> = hits
        .map(|(name, registers)| {
            let function = functions[name];
            let arguments = function
                .point
                .arguments
                .map(|register| registers[usize::from(register)]);
            (function.kind, essence(function.kind, arguments))
        })
        .collect();
    for size in SIZES {
        let is_seen = seen
            .iter()
            .any(|(kind, value)| kind::takes_return(*kind) && *value == size);
        assert!(
            is_seen,
            "{name}: no point saw the request of {size:#x} bytes\n{output}"
        );
    }
    let freed = output
        .lines()
        .find_map(|line| line.strip_prefix("FREES "))
        .unwrap();
    let freed = (kind::FREE, freed.parse().unwrap());
    assert!(
        seen.contains(&freed),
        "{name}: no point saw the block freed\n{output}"
    );
}

/// What a probe of `kind` wants to know: the size, or the block that is freed.
fn essence(kind: u32, [first, second, third]: [u64; 3]) -> u64 {
    match kind {
        kind::CALLOC => first.wrapping_mul(second),
        kind::REALLOC | kind::MEMALIGN => second,
        kind::REALLOCARRAY => second.wrapping_mul(third),
        kind::POSIX_MEMALIGN => third,
        _ => first,
    }
}

fn hit(line: &str) -> Option<(&str, Vec<u64>)> {
    let mut words = line.strip_prefix("HIT ")?.split(' ');
    let name = words.next()?;
    Some((name, words.map(|word| word.parse().unwrap()).collect()))
}

#[test]
fn arguments_are_where_the_point_says() {
    for name in [
        "libc.so.6",
        "libjemalloc.so.2",
        "libtcmalloc_minimal.so.4",
        "libmimalloc.so.2",
    ] {
        check(name);
    }
}
