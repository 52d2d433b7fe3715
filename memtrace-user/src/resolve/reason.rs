//! Why something has no name, in the words of the report.

use std::{fmt, io, sync::Arc};

use memtrace_common::stack;

use crate::{python::name::Gone, target::object::Unusable};

/// Why a frame could not be named. The words are few and short: reports count frames by them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The file has no symbol table, and no debug file was found.
    Stripped,
    /// There are symbols, but none covers the address.
    NoSymbol,
    /// The file has symbols that make no sense.
    Damaged,
    /// The file could not be read.
    Unreadable(Arc<str>),
    /// The file is of no use, or could not be opened while it was mapped.
    Unusable(Unusable),
    /// Nothing is known of the object the frame lies in.
    ObjectUnknown,
    /// A Python frame whose code object has no name.
    Gone(Gone),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stripped => f.write_str("no symbols: stripped"),
            Self::NoSymbol => f.write_str("no symbol covers the address"),
            Self::Damaged => f.write_str("damaged symbols"),
            Self::Unreadable(error) => write!(f, "unreadable: {error}"),
            Self::Unusable(reason) => reason.fmt(f),
            Self::ObjectUnknown => f.write_str("object unknown"),
            Self::Gone(gone) => gone.fmt(f),
        }
    }
}

impl From<&io::Error> for Reason {
    fn from(error: &io::Error) -> Self {
        Self::Unreadable(error.kind().to_string().into())
    }
}

/// Why a stack was cut; `None` when it is complete.
#[must_use]
pub fn cut_words(cut: u8) -> Option<&'static str> {
    Some(match cut {
        stack::CUT_NONE => return None,
        stack::CUT_DEPTH => "deeper than 256 frames",
        stack::CUT_NO_MAPPING => "generated code or no mapped file",
        stack::CUT_NOT_LOADED => "unwind rows not loaded yet",
        stack::CUT_NO_ROW => "no unwind row",
        stack::CUT_UNSUPPORTED => "unwind rule not supported",
        stack::CUT_READ_FAULT => "stack memory not readable",
        stack::CUT_STALLED => "damaged stack or unwind rows",
        stack::CUT_TRAMPOLINE => "another tracer's return probe",
        stack::CUT_TABLE_FULL => "unwind tables full",
        stack::CUT_PYTHON_FAULT => "Python frame not readable",
        _ => "unknown reason",
    })
}

// The words above name the limit.
const _: () = assert!(memtrace_common::limits::MAX_FRAMES == 256);

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_cut_has_words_of_its_own() {
        let known = stack::CUT_DEPTH..=stack::CUT_PYTHON_FAULT;
        let words: HashSet<_> = known.clone().filter_map(cut_words).collect();
        assert_eq!(words.len(), known.count());
        assert!(!words.contains("unknown reason"));
        assert_eq!(cut_words(stack::CUT_NONE), None);
        assert_eq!(cut_words(200), Some("unknown reason"));
    }
}
