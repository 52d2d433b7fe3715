//! Helpers of the tests that drive real probes on real processes.
//!
//! ```text
//!  programs ─► workload ─► truth ─┐
//!                                 ├─► compare
//!  memtrace ─────────────► report ┘
//! ```
//!
//! A test starts a [`workload::Workload`], a program that knows what it holds; lets [`memtrace::Memtrace`], the built
//! binary, attach; lets the program work; and [`compare`]s the tracer's report with the program's own truth. Both
//! processes are killed when their values are dropped, so that a failing test leaves nothing behind. The programs in Python
//! ([`python_program::PythonProgram`]) know the stacks of their blocks instead ([`python_truth::PythonTruth`]).
//!
//! Nothing here links memtrace's code: what is tested is the binary and the words it prints.

pub mod compare;
mod compile;
pub mod figure;
pub mod gdb;
pub mod http;
pub mod interpreters;
pub mod memtrace;
pub mod privilege;
pub mod procfs;
pub mod programs;
pub mod python;
pub mod python_program;
pub mod python_truth;
pub mod pythons;
pub mod report;
pub mod run_time;
pub mod script;
pub mod truth;
pub mod wait;
pub mod workload;

#[cfg(test)]
mod selftest;
