//! Why a process's Python frames cannot be told.

use super::{selftest::Fault, version::Version};

/// Why a Python is left alone, in words for the report.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Its frames are not what is described here.
    #[error("CPython {0}: Python frames need 3.8 or newer")]
    TooOld(Version),
    /// Objects and threads of these builds are laid out differently.
    #[error("CPython {0}, free-threaded: Python frames need a build with the GIL")]
    FreeThreaded(Version),
    /// Another interpreter.
    #[error("PyPy: Python frames need CPython")]
    PyPy,
    /// Nothing in the file says which version it is.
    #[error("CPython of unknown version")]
    UnknownVersion,
    /// The file is a CPython's, but something in it has no name.
    #[error("CPython without symbols: {0} is not found")]
    Stripped(&'static str),
    /// A 3.13 or newer that does not publish its offsets where these versions do, or publishes what cannot be.
    #[error("CPython {version}: {what}")]
    Offsets {
        /// Which.
        version: Version,
        /// What is wrong with them.
        what: &'static str,
    },
    /// As many are walked as the probes have room for.
    #[error("too many processes with Python at once")]
    TooMany,
    /// The end of code objects could not be watched, so that a name could become another's.
    #[error("the end of code objects cannot be watched: {0}")]
    NotWatched(String),
    /// What was found does not lead to frames in this process.
    #[error("CPython {version}: the self-test failed: {fault}")]
    SelfTest {
        /// Which.
        version: Version,
        /// What was met.
        fault: Fault,
    },
}

impl Refusal {
    /// Which version was refused, where that is known.
    #[must_use]
    pub fn version(&self) -> Option<Version> {
        match self {
            Self::TooOld(version)
            | Self::FreeThreaded(version)
            | Self::Offsets { version, .. }
            | Self::SelfTest { version, .. } => Some(*version),
            Self::PyPy
            | Self::UnknownVersion
            | Self::Stripped(_)
            | Self::TooMany
            | Self::NotWatched(_) => None,
        }
    }

    /// Whether it will be the same at every look.
    #[must_use]
    pub fn is_final(&self) -> bool {
        !matches!(
            self,
            Self::TooMany | Self::NotWatched(_) | Self::SelfTest { .. }
        )
    }
}
