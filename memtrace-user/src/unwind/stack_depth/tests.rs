//! The oracle for code without call frame information is code that has it: the same functions, once decoded as if
//! nothing were known, once as the compiler describes them. For musl, which has none, the oracle is gdb's own
//! decoding, and a walk over real stacks.

use std::path::Path;

use memtrace_common::unwind::{
    ROW_CFA_AT_RBP, ROW_END, ROW_NONE, ROW_RBP, ROW_RSP, ROW_SIGNAL, ROW_UNSUPPORTED,
    row_cfa_words, row_kind, row_rbp_words, row_rel,
};

use super::*;
use crate::unwind::{
    eh_frame::{
        self,
        tests::{compile, open},
    },
    object_rows::ObjectRows,
};

/// What two ways to the same rule say of one byte of code.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// The compiler says nothing: padding.
    NoOracle,
    /// Decoding gives nothing.
    Unknown,
    /// Both find the same frame.
    Agree,
    /// They find different frames.
    Differ,
    /// They count from different registers, which says nothing.
    Incomparable,
}

fn verdict(oracle: u64, ours: u64) -> Verdict {
    let (oracle_kind, our_kind) = (row_kind(oracle), row_kind(ours));
    match (oracle_kind, our_kind) {
        (ROW_NONE | ROW_UNSUPPORTED, _) => Verdict::NoOracle,
        (_, ROW_NONE) => Verdict::Unknown,
        _ if oracle as u32 == ours as u32 => Verdict::Agree,
        // Compilers do not say when rbp holds the caller's value again: the word below rsp still has it.
        (ROW_RSP, ROW_RSP)
            if row_cfa_words(oracle) == row_cfa_words(ours) && row_rbp_words(ours) == 0 =>
        {
            Verdict::Agree
        }
        (ROW_RSP | ROW_RBP | ROW_CFA_AT_RBP, ROW_RSP | ROW_RBP) if oracle_kind != our_kind => {
            Verdict::Incomparable
        }
        _ => Verdict::Differ,
    }
}

/// Bytes of `.text` by what decoding says of them: agreeing, differing, unknown.
fn compare(path: &Path) -> [u32; 3] {
    let object = open(path);
    let (image, elf) = object.contents().unwrap();
    let [mut described, mut decoded] = [RowsBuilder::default(), RowsBuilder::default()];
    eh_frame::add_rows(image, elf, &mut described);
    add_rows(image, elf, &mut decoded);
    let (described, decoded) = (described.finish(), decoded.finish());
    let text = elf.section(b".text").unwrap();
    let first = (text.vaddr - elf.base) as u32;
    let end = first + (text.file.end - text.file.start) as u32;
    let in_force = |rows: &[u64], rel| {
        rows[..rows.partition_point(|&row| row_rel(row) <= rel)]
            .last()
            .copied()
    };
    let mut counts = [0; 3];
    for rel in first..end {
        match verdict(
            in_force(&described, rel).unwrap_or(0),
            in_force(&decoded, rel).unwrap_or(0),
        ) {
            Verdict::Agree => counts[0] += 1,
            Verdict::Differ => counts[1] += 1,
            Verdict::Unknown => counts[2] += 1,
            Verdict::NoOracle | Verdict::Incomparable => {}
        }
    }
    counts
}

/// Stripped programs and libraries in C. In libc the few bytes that differ are multi-precision arithmetic whose
/// description leaves out its pushes, and the entry point.
#[test]
fn decoding_finds_what_the_compiler_describes() {
    for (path, least_known) in [
        ("/usr/lib/x86_64-linux-gnu/libsqlite3.so.0", 0.90),
        ("/usr/lib/x86_64-linux-gnu/libc.so.6", 0.80),
        ("/usr/bin/redis-server", 0.85),
    ] {
        if !Path::new(path).exists() {
            continue;
        }
        let [agree, differ, unknown] = compare(path.as_ref()).map(f64::from);
        println!("{path}: {agree} bytes agree, {differ} differ, {unknown} are unknown");
        assert!(
            differ / agree < 0.0005,
            "{path}: {differ} of {agree} bytes differ"
        );
        assert!(
            agree / (agree + unknown) > least_known,
            "{path}: {unknown} bytes are unknown"
        );
    }
}
