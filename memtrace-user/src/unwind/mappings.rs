//! A process's executable mappings as the probe searches them.
//!
//! Owns the placing of a mapping in its object and the order and bound of the list. The list is the only part of the
//! unwind tables that belongs to a process.

use std::ops::Range;

use memtrace_common::{
    limits::MAPPING_SEARCH_STEPS,
    stack::{CUT_NO_MAPPING, CUT_NO_ROW, CUT_TABLE_FULL, CUT_TRAMPOLINE},
    unwind as wire,
};

use super::tables::{Tables, Words};
use crate::{
    ids::Pid,
    target::{
        elf::Elf,
        maps::{Backing, Mapping},
        object::Object,
        store::ObjectStore,
    },
};

/// Entries of one process's list: as many as the probe's search can tell apart.
pub const MAX_MAPPINGS: usize = (1 << MAPPING_SEARCH_STEPS) - 1;

/// The list of one process.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct MappingList {
    /// Sorted by address, without overlaps, at most [`MAX_MAPPINGS`].
    pub entries: Vec<wire::Mapping>,
    /// Executable mappings that found no place in the list.
    pub left_out: usize,
}

/// Places every executable mapping of a process; opens and loads the objects that are not loaded yet.
pub fn list<W: Words>(
    pid: Pid,
    mappings: &[Mapping],
    store: &mut ObjectStore,
    tables: &mut Tables<W>,
) -> MappingList {
    let executable = mappings.iter().filter(|mapping| mapping.access.execute);
    let entries = executable.map(|mapping| match store.object_of(pid, mapping) {
        Some(object) => with_object(mapping, &object, &tables.load(&object)),
        None => without_object(mapping),
    });
    bound(join(entries))
}

/// A mapping of an object.
fn with_object(mapping: &Mapping, object: &Object, loaded: &wire::Object) -> wire::Mapping {
    let entry = wire::Mapping {
        start: mapping.start,
        end: mapping.end,
        object: loaded.id,
        ..wire::Mapping::default()
    };
    match object.elf.as_ref().ok().and_then(|elf| bias(mapping, elf)) {
        Some(bias) => wire::Mapping {
            bias,
            page_base: loaded.page_base,
            page_count: loaded.page_count,
            reason: loaded.reason,
            ..entry
        },
        // Not code by the file's own word: a place in it is its offset.
        None => wire::Mapping {
            bias: mapping.start.wrapping_sub(mapping.offset),
            reason: CUT_NO_ROW.into(),
            ..entry
        },
    }
}

/// A mapping that has no object; the reason says what it is instead.
fn without_object(mapping: &Mapping) -> wire::Mapping {
    let reason = match mapping.backing() {
        // The store is full.
        Backing::File => CUT_TABLE_FULL,
        Backing::Uprobes => CUT_TRAMPOLINE,
        Backing::Vdso | Backing::Vsyscall | Backing::Memory => CUT_NO_MAPPING,
    };
    wire::Mapping {
        start: mapping.start,
        end: mapping.end,
        reason: reason.into(),
        ..wire::Mapping::default()
    }
}

/// What to subtract from an address to get `rel`. None when the mapping shows no code segment.
///
/// Only code segments count: a read-only segment may share its last page of the file with the first page of code,
/// and is mapped at another distance. Of several code segments the mapping belongs to the one it shows most of.
pub(crate) fn bias(mapping: &Mapping, elf: &Elf) -> Option<u64> {
    let shown = mapping.offset..mapping.offset.saturating_add(mapping.end - mapping.start);
    let segment = elf
        .code()
        .max_by_key(|segment| {
            overlap(
                &shown,
                &(segment.file_off..segment.file_off + segment.file_size),
            )
        })
        .filter(|segment| {
            overlap(
                &shown,
                &(segment.file_off..segment.file_off + segment.file_size),
            ) > 0
        })?;
    let rel_of_start = mapping
        .offset
        .wrapping_sub(segment.file_off)
        .wrapping_add(segment.rel);
    Some(mapping.start.wrapping_sub(rel_of_start))
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> u64 {
    a.end.min(b.end).saturating_sub(a.start.max(b.start))
}

/// Joins neighbours that say the same. Runtimes that generate code map it in many small pieces.
fn join(entries: impl Iterator<Item = wire::Mapping>) -> Vec<wire::Mapping> {
    let mut joined: Vec<wire::Mapping> = Vec::new();
    for entry in entries {
        match joined.last_mut() {
            Some(last)
                if *last
                    == (wire::Mapping {
                        start: last.start,
                        end: last.end,
                        ..entry
                    })
                    && last.end == entry.start =>
            {
                last.end = entry.end;
            }
            _ => joined.push(entry),
        }
    }
    joined
}

/// Keeps what the probe can search: first what has an object.
fn bound(mut entries: Vec<wire::Mapping>) -> MappingList {
    let all = entries.len();
    if all > MAX_MAPPINGS {
        entries.retain(|entry| entry.object != 0);
    }
    entries.truncate(MAX_MAPPINGS);
    MappingList {
        left_out: all - entries.len(),
        entries,
    }
}

#[cfg(test)]
mod tests;
