//! Which allocator functions an object defines, and where each is probed.
//!
//! [`discover`] takes one opened ELF object and gives an [`Allocator`] or the reason why there is none. An object that
//! merely imports `malloc` has none; neither has libstdc++, whose `operator new` is a caller of `malloc` like any
//! other. The steps: `survey` reads the names, `selection` decides which of them count, [`probe_point`] finds the
//! instruction.
//!
//! Of a process, every allocator it maps counts, not only the one that the dynamic linker resolves `malloc` to.
//! Preloaded allocators and interposers are called by the program; libc's own is called by the interposer and, as
//! `__libc_malloc`, by libc itself; prefixed families are called by those who linked them; and a library can be bound
//! to another `malloc` than the program (`RTLD_DEEPBIND`, `-Bsymbolic`, `dlmopen`). The outermost call of a thread is
//! the one that counts, so nothing is counted twice.

mod code;
mod names;
pub mod probe_point;
mod registers;
mod routing;
mod selection;
mod survey;

use memtrace_common::cookie;

use self::{
    code::Code, probe_point::ProbePoint, routing::Router, selection::Selected, survey::Survey,
};
use super::{
    elf::{Elf, ElfKind},
    image::Image,
    symbols::Symbols,
};

/// Bytes of a function that are searched for branches back to its beginning; a longer one is cut here.
const MAX_FUNCTION_BYTES: u64 = 64 << 10;
/// Bytes that are looked at where the symbol does not say how long the function is.
const UNKNOWN_FUNCTION_BYTES: u64 = 256;

/// Who wrote the allocator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flavour {
    /// The GNU C library.
    Glibc,
    /// musl.
    Musl,
    /// jemalloc.
    Jemalloc,
    /// tcmalloc, of gperftools or Google.
    Tcmalloc,
    /// mimalloc.
    Mimalloc,
    /// Defines `malloc` on top of another object's.
    Interposer,
    /// glibc's dynamic linker: tells when objects are loaded, allocates nothing that outlives start-up.
    Linker,
    /// An allocator of its own that none of the above describes.
    Other,
}

/// One function to probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllocatorFunction {
    /// Its name; the most familiar of several.
    pub name: String,
    /// `memtrace_common::kind`.
    pub kind: u32,
    /// Address of its first byte, relative to the object's load base.
    pub rel: u64,
    /// Offset of its first byte in the file.
    pub file_off: u64,
    /// Where the probe goes.
    pub point: ProbePoint,
    /// Whether it throws an exception when it fails (`memtrace_common::cookie::THROWS` says what that means).
    pub throws: bool,
}

impl AllocatorFunction {
    /// What its probe must know (`memtrace_common::cookie`).
    #[must_use]
    pub fn cookie(&self) -> u32 {
        let throws = if self.throws { cookie::THROWS } else { 0 };
        cookie::pack(self.kind, self.point.arguments) | throws
    }
}

/// The allocator (or, rarely, the allocators) in one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocator {
    /// Who wrote it.
    pub flavour: Flavour,
    /// What to probe, by ascending address; each address once, never empty.
    pub functions: Vec<AllocatorFunction>,
    /// What was left out and why, in words for the user.
    pub notes: Vec<String>,
}

/// Why an object has no allocator that could be probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Absence {
    /// It uses the allocator of another object, or none.
    #[error("uses the allocator of another object")]
    Imported,
    /// It is a program that uses no other object: its allocator is inside, and without a name.
    #[error("no allocator symbols found: linked statically and stripped of symbols")]
    Stripped,
    /// As before, but its functions have names: it allocates in a way of its own (Go programs do).
    #[error("no known allocator found: linked statically with one of its own")]
    Unknown,
}

/// What [`discover`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Discovery {
    /// An allocator.
    Found(Allocator),
    /// None.
    Absent(Absence),
}

/// Finds the allocator functions of an object.
///
/// Of the file only symbol tables, relocations and the looked-at code are read. Damage in them hides functions, but
/// is no error.
#[must_use]
pub fn discover(image: &Image, elf: &Elf) -> Discovery {
    let symbols = Symbols::read(image, elf);
    let survey = Survey::of(&symbols);
    let services = survey.services(&symbols);
    let flavour = survey.flavour();
    let code = Code::new(image, elf);
    let mut functions = Vec::new();
    let mut notes = survey.notes();
    for selected in selection::select(&survey, flavour, &Router::new(&code, &services)) {
        match place(&code, &selected) {
            Some(function) => functions.push(function),
            None => notes.push(format!("`{}` cannot be probed", selected.candidate.name)),
        }
    }
    notes.extend_from_slice(symbols.notes());
    if functions.is_empty() {
        return Discovery::Absent(absence(elf, &symbols));
    }
    Discovery::Found(Allocator {
        flavour,
        functions,
        notes,
    })
}

fn absence(elf: &Elf, symbols: &Symbols) -> Absence {
    let is_program = elf.kind == ElfKind::Executable || symbols.is_pie();
    match (
        is_program && !symbols.needs_others(),
        symbols.has_own_names(),
    ) {
        (false, _) => Absence::Imported,
        (true, false) => Absence::Stripped,
        (true, true) => Absence::Unknown,
    }
}

/// Finds the function in the file and chooses the point.
fn place(code: &Code<'_>, selected: &Selected<'_>) -> Option<AllocatorFunction> {
    let candidate = selected.candidate;
    let len = match candidate.size {
        0 => UNKNOWN_FUNCTION_BYTES,
        size => size.min(MAX_FUNCTION_BYTES),
    };
    let file_off = code.file_off(candidate.rel)?;
    let bytes = code.bytes(candidate.rel, len)?;
    Some(AllocatorFunction {
        name: candidate.name.clone(),
        kind: selected.kind,
        rel: candidate.rel,
        file_off,
        point: probe_point::choose(&bytes, file_off, selected.kind)?,
        throws: candidate.known.throws,
    })
}

#[cfg(test)]
mod tests;
