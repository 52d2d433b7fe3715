//! CPython's allocator in a file: three interfaces ("domains"), and where their functions are probed.
//!
//! Every build exports the functions, but only a build whose own calls go through them shows its blocks there; see
//! [`pools`](super::pools) for how that is told.
//!
//! Each domain has functions of its own to make a block. To end it, a raw block goes to the C library's `free`, which is
//! probed anyway; what the other two domains free ends in `_PyObject_Free`, if the file has a name for it and the probe is
//! cheap there, otherwise in `PyMem_Free` and `PyObject_Free`, which hold no instruction that the kernel emulates.

use std::collections::BTreeMap;

use memtrace_common::{cookie, domain, kind};

use super::file::{File, Place};
use crate::target::{
    allocator::probe_point::{self, Cost, ProbePoint},
    object::Object,
    symbols::Symbols,
};

/// Bytes of one function that are looked at; the longest that is exported has 120.
const MAX_FUNCTION: u64 = 1024;

/// The interfaces: what their functions' names begin with, and their domain.
const INTERFACES: [(&str, u32); 3] = [
    ("PyMem_Raw", domain::RAW),
    ("PyMem_", domain::MEM),
    ("PyObject_", domain::OBJECT),
];

/// What the names end with, and what the functions do.
const FUNCTIONS: [(&str, u32); 4] = [
    ("Malloc", kind::MALLOC),
    ("Calloc", kind::CALLOC),
    ("Realloc", kind::REALLOC),
    ("Free", kind::FREE_THROUGH),
];

/// What frees the blocks of two domains; its block is the second argument.
const INNER_FREE: &[u8] = b"_PyObject_Free";

/// A function of the allocator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    /// `memtrace_common::domain`
    pub domain: u32,
    /// `memtrace_common::kind`
    pub kind: u32,
    /// Where its probe goes.
    pub point: ProbePoint,
}

impl Function {
    /// What its probe must know to count.
    #[must_use]
    pub fn cookie(&self) -> u32 {
        cookie::with_domain(cookie::pack(self.kind, self.point.arguments), self.domain)
    }

    /// What its probe must know to be only listened to. None for the raw domain: its blocks are those of the C library's
    /// allocator, and lie in no pool.
    #[must_use]
    pub fn trial_cookie(&self) -> Option<u32> {
        let kind = match self.kind {
            kind::FREE_THROUGH => kind::FREE,
            other => other,
        };
        let cookie = cookie::pack(kind, self.point.arguments) | cookie::TRIAL;
        (self.domain != domain::RAW).then_some(cookie)
    }
}

/// What is probed, or nothing when a function is missing: of a domain that is seen in part no number would be right.
#[must_use]
pub fn functions(object: &Object) -> Option<Vec<Function>> {
    let file = File::of(object)?;
    let mut found = BTreeMap::new();
    let mut inner_free = None;
    for symbol in Symbols::read(file.image, file.elf).defined() {
        if !symbol.is_function {
            continue;
        }
        let place = Place {
            rel: symbol.rel,
            size: symbol.size,
        };
        if symbol.name == INNER_FREE {
            inner_free = Some(place);
        } else if let Some(key) = known(symbol.name) {
            found.insert(key, place);
        }
    }
    if found.len() != INTERFACES.len() * FUNCTIONS.len() {
        return None;
    }
    found.remove(&(domain::RAW, kind::FREE_THROUGH));
    let inner_free = inner_free.and_then(|place| inner(file, place));
    if inner_free.is_some() {
        found.retain(|(_, kind), _| *kind != kind::FREE_THROUGH);
    }
    let outer = found.into_iter().map(|((domain, kind), place)| {
        Some(Function {
            domain,
            kind,
            point: point(file, place, kind)?,
        })
    });
    outer.chain(inner_free.map(Some)).collect()
}

/// `_PyObject_Free`, where a probe on it is cheap.
fn inner(file: File<'_>, place: Place) -> Option<Function> {
    // As a function of two arguments, of which the second is the block.
    let point = point(file, place, kind::CALLOC).filter(|point| point.cost == Cost::Emulated)?;
    let [_, block, other] = point.arguments;
    Some(Function {
        domain: domain::OBJECT,
        kind: kind::FREE_THROUGH,
        point: ProbePoint {
            arguments: [block, block, other],
            ..point
        },
    })
}

fn point(file: File<'_>, place: Place, kind: u32) -> Option<ProbePoint> {
    let size = match place.size {
        0 => MAX_FUNCTION,
        size => size.min(MAX_FUNCTION),
    };
    let bytes = file.bytes(place.rel, size)?;
    probe_point::choose(&bytes, file.offset(place.rel)?, kind)
}

fn known(name: &[u8]) -> Option<(u32, u32)> {
    let name = std::str::from_utf8(name).ok()?;
    INTERFACES.iter().find_map(|(prefix, domain)| {
        let rest = name.strip_prefix(prefix)?;
        let (_, kind) = FUNCTIONS.iter().find(|(ending, _)| *ending == rest)?;
        Some((*domain, *kind))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        assert_eq!(
            known(b"PyMem_RawFree"),
            Some((domain::RAW, kind::FREE_THROUGH))
        );
        assert_eq!(known(b"PyMem_Realloc"), Some((domain::MEM, kind::REALLOC)));
        assert_eq!(
            known(b"PyObject_Malloc"),
            Some((domain::OBJECT, kind::MALLOC))
        );
        assert_eq!(known(b"PyObject_GC_Malloc"), None);
        assert_eq!(known(b"_PyObject_Malloc"), None);
    }
}
