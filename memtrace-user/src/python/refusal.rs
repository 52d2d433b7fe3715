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
    /// What was found does not lead to frames in this process.
    #[error("CPython {version}: the self-test failed: {fault}")]
    SelfTest {
        /// Which.
        version: Version,
        /// What was met.
        fault: Fault,
    },
}
