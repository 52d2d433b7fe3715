//! The arrays of rows and pages that the probe reads, and which object lies where in them.
//!
//! Owns the placing, the order of writing, and what is said of an object that finds no room. The probe may read at
//! any time, so an object's rows and pages are complete before anybody is told where they are, and their room is
//! given to another object only after [`unload`](Tables::unload), whose caller sees to it that nobody refers to
//! them.

use std::{collections::HashMap, ops::Range};

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
    loaded: HashMap<ObjectId, Loaded>,
    left_out: HashMap<ObjectId, Need>,
}

/// An array and its free ranges.
#[derive(Debug)]
struct Region<W> {
    words: W,
    space: Space,
}

/// An object that lies in the arrays, or that has no rows to lie there.
#[derive(Debug)]
struct Loaded {
    object: wire::Object,
    rows: Range<u32>,
    pages: Range<u32>,
}

/// What an object that found no room would need; kept so that it is not built again in vain.
#[derive(Debug, Clone, Copy)]
struct Need {
    rows: u32,
    pages: u32,
}

impl<W: Words> Tables<W> {
    /// Takes the probe's arrays.
    pub fn new(rows: W, pages: W) -> Self {
        Self {
            rows: Region::new(rows),
            pages: Region::new(pages),
            loaded: HashMap::new(),
            left_out: HashMap::new(),
        }
    }

    /// Puts an object's rows and pages where the probe reads them, unless they are there already, and says where
    /// that is. An object without rows, or without room for them, has no pages and a reason.
    pub fn load(&mut self, object: &Object) -> wire::Object {
        if let Some(loaded) = self.loaded.get(&object.id) {
            return loaded.object;
        }
        if self
            .left_out
            .get(&object.id)
            .is_some_and(|&need| !self.has_room(need))
        {
            return without_rows(object, CUT_TABLE_FULL);
        }
        let built = match ObjectRows::build(object) {
            Ok(built) => built,
            Err(reason) => {
                let nothing = Loaded {
                    object: without_rows(object, reason),
                    rows: 0..0,
                    pages: 0..0,
                };
                return self.loaded.entry(object.id).or_insert(nothing).object;
            }
        };
        let need = Need {
            rows: built.rows.len() as u32,
            pages: built.pages.len() as u32,
        };
        let Some(loaded) = self.place(object, &built, need) else {
            log::warn!("no room for the unwind rows of {}", object.path.display());
            self.left_out.insert(object.id, need);
            return without_rows(object, CUT_TABLE_FULL);
        };
        self.left_out.remove(&object.id);
        self.loaded.entry(object.id).or_insert(loaded).object
    }

    /// Gives an object's room to others. First every reference to it must be gone from the probe's maps, and every
    /// walk that may have read one must have ended.
    pub fn unload(&mut self, id: ObjectId) {
        self.left_out.remove(&id);
        if let Some(loaded) = self.loaded.remove(&id) {
            self.rows.space.give_back(loaded.rows);
            self.pages.space.give_back(loaded.pages);
        }
    }

    /// Objects that are left out because there is no room.
    #[must_use]
    pub fn left_out(&self) -> usize {
        self.left_out.len()
    }

    fn has_room(&self, need: Need) -> bool {
        self.rows.space.largest() >= need.rows && self.pages.space.largest() >= need.pages
    }

    fn place(&mut self, object: &Object, built: &ObjectRows, need: Need) -> Option<Loaded> {
        if !self.has_room(need) {
            return None;
        }
        let rows = self.rows.space.take(need.rows)?;
        let pages = self.pages.space.take(need.pages)?;
        self.rows.words.write(rows.start, &built.rows);
        let moved: Vec<u64> = built
            .pages
            .iter()
            .map(|&entry| move_page(entry, rows.start))
            .collect();
        self.pages.words.write(pages.start, &moved);
        let wire = wire::Object {
            page_base: pages.start,
            page_count: need.pages,
            ..without_rows(object, 0)
        };
        Some(Loaded {
            object: wire,
            rows,
            pages,
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
