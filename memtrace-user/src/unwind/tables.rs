//! The arrays of rows and pages that the probe reads, and which object lies where in them.
//!
//! Owns the placing, the order of writing, and what is said of an object that finds no room. The probe may read at
//! any time, so an object's rows and pages are complete before anybody is told where they are, and their room is
//! theirs as long as the tables last.

use std::collections::HashMap;

use memtrace_common::{
    limits::MAX_SEGMENTS,
    stack::CUT_TABLE_FULL,
    unwind::{self as wire, Segment},
};

use super::{object_rows::ObjectRows, space::Space};
use crate::{ids::ObjectId, target::object::Object};

/// An array of words that the probe reads; in production a memory-mapped BPF array.
pub trait Words {
    /// Number of words.
    fn capacity(&self) -> u32;

    /// Writes words from index `at` on. The range lies within the capacity.
    fn write(&mut self, at: u32, words: &[u64]);
}

impl Words for Vec<u64> {
    fn capacity(&self) -> u32 {
        self.len() as u32
    }

    fn write(&mut self, at: u32, words: &[u64]) {
        self[at as usize..][..words.len()].copy_from_slice(words);
    }
}

/// Both arrays and what lies in them.
#[derive(Debug)]
pub struct Tables<W> {
    rows: Region<W>,
    pages: Region<W>,
    /// Also those that have no rows or found no room: the room never grows.
    loaded: HashMap<ObjectId, wire::Object>,
}

/// An array and its free ranges.
#[derive(Debug)]
struct Region<W> {
    words: W,
    space: Space,
}

impl<W: Words> Tables<W> {
    /// Takes the probe's arrays.
    pub fn new(rows: W, pages: W) -> Self {
        Self {
            rows: Region::new(rows),
            pages: Region::new(pages),
            loaded: HashMap::new(),
        }
    }

    /// Puts an object's rows and pages where the probe reads them, unless they are there already, and says where
    /// that is. An object without rows, or without room for them, has no pages and a reason.
    pub fn load(&mut self, object: &Object) -> wire::Object {
        if let Some(loaded) = self.loaded.get(&object.id) {
            return *loaded;
        }
        let loaded = match ObjectRows::build(object) {
            Ok(built) => self.place(object, &built).unwrap_or_else(|| {
                log::warn!("no room for the unwind rows of {}", object.path.display());
                without_rows(object, CUT_TABLE_FULL)
            }),
            Err(reason) => without_rows(object, reason),
        };
        *self.loaded.entry(object.id).or_insert(loaded)
    }

    fn place(&mut self, object: &Object, built: &ObjectRows) -> Option<wire::Object> {
        let (row_count, page_count) = (built.rows.len() as u32, built.pages.len() as u32);
        if self.rows.space.largest() < row_count || self.pages.space.largest() < page_count {
            return None;
        }
        let rows = self.rows.space.take(row_count)?;
        let pages = self.pages.space.take(page_count)?;
        self.rows.words.write(rows.start, &built.rows);
        let moved: Vec<u64> = built
            .pages
            .iter()
            .map(|&entry| move_page(entry, rows.start))
            .collect();
        self.pages.words.write(pages.start, &moved);
        Some(wire::Object {
            page_base: pages.start,
            page_count,
            ..without_rows(object, 0)
        })
    }
}

impl<W: Words> Region<W> {
    fn new(words: W) -> Self {
        let space = Space::new(words.capacity());
        Self { words, space }
    }
}

/// A page entry whose rows begin at `by` instead of 0.
fn move_page(entry: u64, by: u32) -> u64 {
    wire::page(entry as u32 + by, (entry >> 32) as u32 + by)
}

/// An object as the probe knows it, without pages.
fn without_rows(object: &Object, reason: u8) -> wire::Object {
    let mut segments = [Segment::default(); MAX_SEGMENTS];
    let code = object.elf.iter().flat_map(|elf| elf.code());
    for (place, segment) in segments.iter_mut().zip(code) {
        *place = Segment {
            file_off: segment.file_off,
            size: segment.file_size,
            rel: segment.rel,
        };
    }
    wire::Object {
        id: object.id.0,
        reason: reason.into(),
        segments,
        ..wire::Object::default()
    }
}

#[cfg(test)]
mod tests;
