//! memtrace: which code allocates the memory that stays, on processes that are already running.
//!
//! ```text
//!  kernel │ probes ─ stack walk ─ emit                                     memtrace-ebpf
//!  ═══════╪═══ rings: types of memtrace-common ════════════════════════════════════════
//!  user   │ drain ─► track ─► snapshot ─► resolve ─► report
//!         │ bytes    live     frozen,     names      table / json / collapsed
//!         │ →Event   blocks   ids only
//!         │
//!         │   session, sole owner of the BPF handles:
//!         │     notices (exec, fork, exit, unknown mapping) ─► target ─► attach / detach
//!         │                                                └► unwind ─► rows into maps
//! ```
//!
//! A module uses only modules that stand above it in the list below: the list is the data's path.

pub mod ids;
pub mod system;
pub mod probe;
pub mod target;
pub mod unwind;
pub mod python;
pub mod drain;
pub mod snapshot;
pub mod track;
pub mod resolve;
pub mod report;
pub mod plan;
pub mod hint;
pub mod session;
pub mod cli;
