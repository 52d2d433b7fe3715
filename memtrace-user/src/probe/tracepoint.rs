//! The tracepoints that tell of processes: which form of them, and the programs that stand there.
//!
//! Raw tracepoints need nothing but BPF. Perf tracepoints need tracefs, but the kernel never preempts their programs
//! (`probes/process.rs` says why that matters). Until 7.0 it does not preempt those of raw ones either, so perf ones are
//! taken from there on. This alone is decided by the kernel's version: no trial shows in reasonable time that a program
//! can be preempted.
//!
//! Programs of perf tracepoints have a gap of their own: the kernel skips them on a CPU where a task was preempted in a
//! system call on a map. memtrace makes none for a process or a file (`memtrace_common::edit`), one a second for its
//! counters. Other programs that use BPF make them too; what they cost is counted like every skip.

use std::{
    fmt,
    os::fd::{AsFd as _, OwnedFd},
};

use anyhow::Context as _;
use aya::{
    Ebpf,
    programs::{RawTracePoint, TracePoint},
};
use memtrace_common::process::RecordOffsets;

use super::{
    sys,
    tracefs::{Event, Tracefs},
};
use crate::system::System;

/// The first kernel that preempts the programs of raw tracepoints.
const FIRST_PREEMPTING: (u32, u32) = (7, 0);

/// Program and tracepoint.
const RAW: [(&str, &str); 4] = [
    ("fork_raw", "sched_process_fork"),
    ("exec_raw", "sched_process_exec"),
    ("exit_raw", "sched_process_exit"),
    ("rename_raw", "task_rename"),
];

/// How process tracepoints are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum TracepointForm {
    /// Through perf events: their programs are not preempted.
    Perf,
    /// By name.
    Raw,
}

impl fmt::Display for TracepointForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Perf => "perf",
            Self::Raw => "raw",
        })
    }
}

/// The form that suits this kernel, with what it needs.
#[derive(Debug)]
pub(super) enum Choice {
    Perf(Box<Records>),
    /// Why it is not the other, where the kernel preempts.
    Raw(Option<anyhow::Error>),
}

/// The events that perf tracepoints stand on.
#[derive(Debug)]
pub(super) struct Records {
    newtask: Event,
    exec: Event,
    exit: Event,
    rename: Event,
}

impl Choice {
    /// The form that was asked for, or else the one that suits the kernel and can be had.
    pub(super) fn make(asked: Option<TracepointForm>) -> anyhow::Result<Self> {
        match asked {
            Some(TracepointForm::Raw) => Ok(Self::Raw(None)),
            Some(TracepointForm::Perf) => Ok(Self::Perf(Records::read()?.into())),
            None if !preempts_raw() => Ok(Self::Raw(None)),
            None => Ok(Records::read().map_or_else(
                |error| Self::Raw(Some(error)),
                |records| Self::Perf(records.into()),
            )),
        }
    }

    /// Which form it is.
    pub(super) fn form(&self) -> TracepointForm {
        match self {
            Self::Perf(_) => TracepointForm::Perf,
            Self::Raw(_) => TracepointForm::Raw,
        }
    }

    /// What the programs must know of the records.
    pub(super) fn offsets(&self) -> RecordOffsets {
        match self {
            Self::Perf(records) => records.offsets(),
            Self::Raw(_) => RecordOffsets::default(),
        }
    }
}

impl Records {
    fn read() -> anyhow::Result<Self> {
        let tracefs = Tracefs::open()?;
        let records = Self {
            newtask: tracefs.event("task/task_newtask")?,
            exec: tracefs.event("sched/sched_process_exec")?,
            exit: tracefs.event("sched/sched_process_exit")?,
            rename: tracefs.event("task/task_rename")?,
        };
        let offsets = records.offsets();
        anyhow::ensure!(
            [
                offsets.newtask_pid,
                offsets.newtask_flags,
                offsets.rename_comm
            ]
            .iter()
            .all(|offset| *offset > 0),
            "the kernel's records of processes lack a field"
        );
        Ok(records)
    }

    fn offsets(&self) -> RecordOffsets {
        let of = |event: &Event, field| event.field(field).unwrap_or(0);
        RecordOffsets {
            newtask_pid: of(&self.newtask, "pid"),
            newtask_flags: of(&self.newtask, "clone_flags"),
            exec_old_pid: of(&self.exec, "old_pid"),
            rename_pid: of(&self.rename, "pid"),
            rename_comm: of(&self.rename, "newcomm"),
        }
    }
}

/// Attached tracepoints; dropping it removes them.
#[derive(Debug)]
pub(super) struct Tracepoints {
    programs: Vec<OwnedFd>,
    /// Perf events; those of raw tracepoints are aya's.
    _events: Vec<OwnedFd>,
    /// Why they are raw where the kernel preempts.
    pub(super) fallback: Option<anyhow::Error>,
}

impl Tracepoints {
    /// Loads and attaches the programs of one form.
    pub(super) fn attach(ebpf: &mut Ebpf, choice: Choice) -> anyhow::Result<Self> {
        match choice {
            Choice::Raw(fallback) => Self::attach_raw(ebpf, fallback),
            Choice::Perf(records) => Self::attach_perf(ebpf, &records),
        }
    }

    fn attach_raw(ebpf: &mut Ebpf, fallback: Option<anyhow::Error>) -> anyhow::Result<Self> {
        let mut programs = Vec::new();
        for (name, tracepoint) in RAW {
            let context = || format!("failed to attach to tracepoint `{tracepoint}`");
            let program: &mut RawTracePoint = find(ebpf, name)?.try_into()?;
            program.load().with_context(context)?;
            program.attach(tracepoint).with_context(context)?;
            programs.push(program.fd()?.as_fd().try_clone_to_owned()?);
        }
        Ok(Self {
            programs,
            _events: Vec::new(),
            fallback,
        })
    }

    fn attach_perf(ebpf: &mut Ebpf, records: &Records) -> anyhow::Result<Self> {
        let mut programs = Vec::new();
        let mut events = Vec::new();
        for (name, event) in [
            ("fork_perf", &records.newtask),
            ("exec_perf", &records.exec),
            ("exit_perf", &records.exit),
            ("rename_perf", &records.rename),
        ] {
            let context = || format!("failed to attach to tracepoint `{}`", event.name());
            let program: &mut TracePoint = find(ebpf, name)?.try_into()?;
            program.load().with_context(context)?;
            let program = program.fd()?.as_fd().try_clone_to_owned()?;
            let perf = sys::open_tracepoint(event.id()).with_context(context)?;
            sys::run_at(perf.as_fd(), program.as_fd()).with_context(context)?;
            programs.push(program);
            events.push(perf);
        }
        Ok(Self {
            programs,
            _events: events,
            fallback: None,
        })
    }

    /// How often the kernel has skipped one of the programs.
    pub(super) fn skipped(&self) -> anyhow::Result<u64> {
        let skipped = self
            .programs
            .iter()
            .map(|program| sys::skipped_runs(program.as_fd()));
        skipped
            .sum::<Result<u64, _>>()
            .context("failed to read what the kernel has skipped")
    }
}

fn find<'a>(ebpf: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut aya::programs::Program> {
    ebpf.program_mut(name)
        .with_context(|| format!("the probe object has no program `{name}`"))
}

/// An unknown version counts as one that does.
fn preempts_raw() -> bool {
    System::here()
        .kernel_release()
        .is_none_or(|(_, version)| version >= FIRST_PREEMPTING)
}
