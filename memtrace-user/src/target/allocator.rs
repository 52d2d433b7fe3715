//! Which allocator functions an object defines, and where each is probed.
//!
//! [`discover`] takes one ELF object (bytes, or a reader over an open file) and gives an [`Allocator`] or the
//! reason why there is none. An object that merely imports `malloc` has none; neither has libstdc++, whose
//! `operator new` is a caller of `malloc` like any other. Which objects a process has, and opening them, is
//! not done here.
//!
//! All allocators of a process are probed, not only the one that the dynamic linker resolves `malloc` to: a preloaded one is
//! called by the program, libc's own by an interposer, a prefixed family by those who linked it, and a library can be
//! bound to another `malloc` than the program. The outermost call of a thread counts, so nothing counts twice.
//!
//! The steps: [`survey`] reads the names, [`selection`] decides which of them
//! count, [`probe_point`] finds the instruction.

mod binary;
mod names;
pub mod probe_point;
mod routing;
mod selection;
mod survey;

use object::ReadRef;

pub use self::binary::ElfError;
use self::{
    binary::Binary,
    probe_point::ProbePoint,
    routing::Router,
    selection::Selected,
    survey::Survey,
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
    /// It is linked statically and its symbols were stripped: whatever it allocates cannot be found.
    #[error("no allocator symbols found: statically linked and stripped")]
    Stripped,
}

/// What [`discover`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Discovery {
    /// An allocator.
    Found(Allocator),
    /// None.
    Absent(Absence),
}

/// Finds the allocator functions of the x86-64 ELF object in `data`.
///
/// `data` is a slice, or a `&object::ReadCache` over a file: only tables and the looked-at code are read then.
///
/// # Errors
///
/// [`ElfError`] when the file is no x86-64 executable or shared library, or its headers are damaged. Damage
/// further in hides functions, but is no error.
pub fn discover<'data, R: ReadRef<'data>>(data: R) -> Result<Discovery, ElfError> {
    let binary = Binary::parse(data)?;
    let survey = Survey::of(&binary);
    let services = survey.services(&binary);
    let flavour = survey.flavour();
    let selected = selection::select(&survey, flavour, &Router::new(&binary, &services));
    let mut functions = Vec::new();
    let mut notes = survey.notes();
    for function in selected {
        match place(&binary, &function) {
            Some(placed) => functions.push(placed),
            None => notes.push(format!("`{}` cannot be probed", function.candidate.name)),
        }
    }
    notes.extend(binary.notes().iter().cloned());
    Ok(if !functions.is_empty() {
        Discovery::Found(Allocator {
            flavour,
            functions,
            notes,
        })
    } else if binary.is_opaque() {
        Discovery::Absent(Absence::Stripped)
    } else {
        Discovery::Absent(Absence::Imported)
    })
}

/// Finds the function in the file and chooses the point.
fn place<'data, R: ReadRef<'data>>(
    binary: &Binary<'data, R>,
    selected: &Selected<'_>,
) -> Option<AllocatorFunction> {
    let candidate = selected.candidate;
    let len = match candidate.size {
        0 => UNKNOWN_FUNCTION_BYTES,
        size => size.min(MAX_FUNCTION_BYTES),
    };
    let file_off = binary.file_off(candidate.rel)?;
    let code = binary.code(candidate.rel, len)?;
    Some(AllocatorFunction {
        name: candidate.name.clone(),
        kind: selected.kind,
        rel: candidate.rel,
        file_off,
        point: probe_point::choose(code, file_off, selected.kind)?,
    })
}
