//! A change of the probes' tables that the session asks for: what lies in the map `DESK` when it runs the program `edit`.
//!
//! The session does not use the system calls that change maps. While one runs, the kernel skips the programs of perf
//! tracepoints on that CPU; where it preempts, others run on that CPU meanwhile, and their forks, execs and exits would
//! pass unseen. A program that changes a map has no such effect.

use crate::{
    process::Process,
    unwind::{FileKey, Object},
};

wire! {
    /// The change.
    pub struct Edit (160) {
        /// One of the constants below.
        pub operation: u32,
        /// The process it is about.
        pub tgid: u32,
        /// What is known of it.
        pub process: Process,
        /// The file it is about.
        pub file: FileKey,
        /// What is known of it.
        pub object: Object,
    }
}

/// A process is entered, unless it is there.
pub const INTRODUCE: u32 = 1;
/// A process that is there is changed.
pub const UPDATE: u32 = 2;
/// A process is taken out.
pub const FORGET: u32 = 3;
/// An object is entered or changed.
pub const OBJECT: u32 = 4;
