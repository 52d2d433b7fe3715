//! CPython's allocator in a file: three interfaces ("domains") of four functions each, and where each is probed.
//!
//! Every build exports them, but only a build whose own calls go through them shows its blocks there; see
//! [`pools`](super::pools) for how that is told.

use std::collections::BTreeMap;

use memtrace_common::{cookie, domain, kind};

use super::file::File;
use crate::target::{
    allocator::probe_point::{self, ProbePoint},
    object::Object,
    symbols::Symbols,
};

/// Bytes of one function that are looked at; the longest known has 120.
const MAX_FUNCTION: u64 = 512;

/// The interfaces: what their functions' names begin with, and their domain.
const INTERFACES: [(&str, u32); 3] = [
    ("PyMem_Raw", domain::RAW),
    ("PyMem_", domain::MEM),
    ("PyObject_", domain::OBJECT),
];

/// What the names end with, and what the functions do. They call the C library's allocator inside, so what ends a block is
/// watched to its return.
const FUNCTIONS: [(&str, u32); 4] = [
    ("Malloc", kind::MALLOC),
    ("Calloc", kind::CALLOC),
    ("Realloc", kind::REALLOC),
    ("Free", kind::FREE_OUTER),
];

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
            kind::FREE_OUTER => kind::FREE,
            other => other,
        };
        let cookie = cookie::pack(kind, self.point.arguments) | cookie::TRIAL;
        (self.domain != domain::RAW).then_some(cookie)
    }
}

/// All twelve functions, or none: a domain of which a part is seen would hold blocks that are gone.
#[must_use]
pub fn functions(object: &Object) -> Option<Vec<Function>> {
    let file = File::of(object)?;
    let mut found = BTreeMap::new();
    for symbol in Symbols::read(file.image, file.elf).defined() {
        if symbol.is_function
            && let Some((domain, kind)) = known(symbol.name)
        {
            let size = match symbol.size {
                0 => MAX_FUNCTION,
                size => size.min(MAX_FUNCTION),
            };
            found.insert((domain, kind), (symbol.rel, size));
        }
    }
    if found.len() != INTERFACES.len() * FUNCTIONS.len() {
        return None;
    }
    let place = |((domain, kind), (rel, size)): ((u32, u32), (u64, u64))| {
        let bytes = file.bytes(rel, size)?;
        let point = probe_point::choose(&bytes, file.offset(rel)?, kind)?;
        Some(Function {
            domain,
            kind,
            point,
        })
    };
    found.into_iter().map(place).collect()
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
            Some((domain::RAW, kind::FREE_OUTER))
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
