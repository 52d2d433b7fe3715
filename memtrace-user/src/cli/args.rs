//! What can be typed. Turned into a [`Plan`] and then forgotten; see [`Args::plan`].

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{ArgAction, Parser, Subcommand};

use super::values;
use crate::{
    ids::{Bytes, Pid},
    plan::{Pace, Plan, PlanError, Selection},
    probe::{AttachLevel, ProbeOptions, TracepointForm, Unwinder},
    report::{Destination, Format, ReportOptions, Sort},
    resolve::ResolveOptions,
    snapshot::BlockFilter,
    target::rule::{CommPattern, Rule},
};

/// Sites of each process in a table when nothing else is asked for.
const TABLE_TOP: usize = 10;
/// Between live reports when nothing else is asked for.
const INTERVAL: Duration = Duration::from_secs(5);
/// Where the cgroup-2 hierarchy is mounted; rules have paths below it. The first where systemd keeps the old controllers
/// beside it (its "hybrid" layout).
const CGROUP_MOUNTS: [&str; 2] = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];

const USAGE: &str = "\
memtrace [SELECTORS] [OPTIONS] [-- COMMAND ARGS...]
       memtrace doctor";

const EXAMPLES: &str = "\
Examples:
  sudo memtrace --pid 4711                     what a process allocates and keeps
  sudo memtrace --comm python --min-age 60s    blocks that live for a minute, in every python3.x
  sudo memtrace -d 30 -p 4711 --format json    half a minute, for a program to read
  sudo memtrace --format collapsed -o out.txt -- ./server --port 80
                                               a program from its first instruction, as a flame graph
  memtrace doctor                              what this kernel and this user can do

Stop with Ctrl-C: the final report is printed. SIGUSR1: a report now.

Exit codes:
  0  done
  1  the targets are gone, nothing matched, or a report could not be written
  2  wrong usage
  3  not permitted, or the kernel lacks something";

/// Shows who allocates the memory that stays, in processes that are already running.
///
/// Give one or more selectors, which are united, or a command after `--`.
#[derive(Debug, Parser)]
#[command(name = "memtrace", version, after_help = EXAMPLES, args_conflicts_with_subcommands = true, override_usage = USAGE,
          disable_help_subcommand = true)]
pub struct Args {
    /// Other things to do.
    #[command(subcommand)]
    pub verb: Option<Verb>,
    /// The trace.
    #[command(flatten)]
    pub trace: TraceArgs,
}

/// Other things to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub enum Verb {
    /// Say what this kernel and this user can do, with the remedy where something is missing
    Doctor,
}

/// A trace.
#[derive(Debug, clap::Args)]
pub struct TraceArgs {
    /// Trace this process (repeatable)
    #[arg(short, long = "pid", value_name = "PID", help_heading = "Selectors", value_delimiter = ',',
          value_parser = clap::value_parser!(u32).range(1..))]
    pub pids: Vec<u32>,
    /// Trace processes of this name: `python` takes python3.12 too, and globs work (repeatable)
    #[arg(short, long = "comm", value_name = "NAME", help_heading = "Selectors", value_parser = values::comm)]
    pub comms: Vec<CommPattern>,
    /// Trace processes in this cgroup and below (repeatable)
    #[arg(long = "cgroup", value_name = "PATH", help_heading = "Selectors")]
    pub cgroups: Vec<PathBuf>,
    /// Trace every process that runs a CPython, whatever its name
    #[arg(long, help_heading = "Selectors")]
    pub python: bool,
    /// Trace every process
    #[arg(long, help_heading = "Selectors")]
    pub all: bool,
    /// Trace the children of selected processes too
    #[arg(long, help_heading = "Selectors")]
    pub follow_children: bool,
    /// Exit with 1 when nothing matches, instead of waiting for it
    #[arg(long, help_heading = "Selectors")]
    pub no_wait: bool,

    /// Trace every call of the allocator (the only way yet), CPython's too
    #[arg(long, help_heading = "Tracing")]
    pub exact: bool,
    /// Do not ask before tracing what may be costly
    #[arg(long, help_heading = "Tracing")]
    pub yes: bool,
    /// End after this time
    #[arg(short, long, value_name = "TIME", help_heading = "Tracing", value_parser = values::duration)]
    pub duration: Option<Duration>,
    /// Memory for the table of live blocks; blocks beyond it are only counted
    #[arg(long, value_name = "SIZE", default_value = "1GiB", help_heading = "Tracing", value_parser = values::size)]
    pub memory_limit: Bytes,

    /// Report this often; 0 = only at the end [default: 5s; at the end for collapsed]
    #[arg(short, long, value_name = "TIME", help_heading = "Reports", value_parser = values::duration)]
    pub interval: Option<Duration>,
    /// Show this many sites of each process; 0 = all [default: 10 in a table, else all]
    #[arg(short = 'n', long, value_name = "N", help_heading = "Reports")]
    pub top: Option<usize>,
    /// Order sites by
    #[arg(long, value_enum, default_value_t, help_heading = "Reports")]
    pub sort: Sort,
    /// Count only live blocks at least this old
    #[arg(long, value_name = "TIME", help_heading = "Reports", value_parser = values::duration)]
    pub min_age: Option<Duration>,
    /// Count only live blocks of at least this size
    #[arg(long, value_name = "SIZE", help_heading = "Reports", value_parser = values::size)]
    pub min_size: Option<Bytes>,
    /// Count only live blocks of at most this size
    #[arg(long, value_name = "SIZE", help_heading = "Reports", value_parser = values::size)]
    pub max_size: Option<Bytes>,
    /// Show what the interpreter does between Python functions too
    #[arg(long, help_heading = "Reports")]
    pub native: bool,
    /// Form of the reports
    #[arg(long, value_enum, default_value_t, help_heading = "Reports")]
    pub format: Format,
    /// Write reports to a file
    #[arg(short, long, value_name = "FILE", help_heading = "Reports")]
    pub output: Option<PathBuf>,
    /// Say more on standard error: the probes' diagnostics (repeatable)
    #[arg(short, long, action = ArgAction::Count, help_heading = "Reports")]
    pub verbose: u8,
    /// Say nothing but errors on standard error
    #[arg(short, long, conflicts_with = "verbose", help_heading = "Reports")]
    pub quiet: bool,

    /// Attach in this way, though the kernel may know a better one
    #[arg(long, value_enum, hide = true)]
    pub attach_level: Option<AttachLevel>,
    /// Walk stacks in this way, though the kernel may know a better one
    #[arg(long, value_enum, hide = true)]
    pub unwinder: Option<Unwinder>,
    /// Hear of processes in this way, though another suits the kernel better
    #[arg(long, value_enum, hide = true)]
    pub tracepoints: Option<TracepointForm>,
    /// Size of the event ring
    #[arg(long, value_name = "SIZE", hide = true, value_parser = values::small_size)]
    pub ring_bytes: Option<u32>,
    /// Unwind rows of all objects together
    #[arg(long, value_name = "N", hide = true, value_parser = clap::value_parser!(u32).range(1..))]
    pub unwind_rows: Option<u32>,

    /// Start this program and trace it
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

impl TraceArgs {
    /// What will be done.
    pub fn plan(self) -> Result<Plan, PlanError> {
        let verbosity = self.verbosity();
        Plan {
            wait: !self.no_wait,
            domains: self.exact,
            probes: self.probes(verbosity),
            memory_limit: self.memory_limit,
            resolve: ResolveOptions::default(),
            report: self.report(),
            format: self.format,
            destination: self.destination(),
            pace: self.pace(),
            verbosity,
            selection: Selection {
                rules: self.rules(),
                follow_children: self.follow_children,
            },
            command: (!self.command.is_empty()).then_some(self.command),
        }
        .checked()
    }

    fn rules(&self) -> Vec<Rule> {
        let pids = self.pids.iter().map(|&pid| Rule::Pid(Pid(pid)));
        let comms = self.comms.iter().cloned().map(Rule::Comm);
        let cgroups = self
            .cgroups
            .iter()
            .map(|path| Rule::Cgroup(in_hierarchy(path)));
        let python = self.python.then_some(Rule::Python);
        let all = self.all.then_some(Rule::All);
        let wide = python.into_iter().chain(all);
        pids.chain(comms).chain(cgroups).chain(wide).collect()
    }

    fn probes(&self, verbosity: log::LevelFilter) -> ProbeOptions {
        let default = ProbeOptions::default();
        ProbeOptions {
            event_ring_bytes: self.ring_bytes.unwrap_or(default.event_ring_bytes),
            unwind_rows: self.unwind_rows.unwrap_or(default.unwind_rows),
            level: self.attach_level,
            unwinder: self.unwinder,
            tracepoints: self.tracepoints,
            watch_all: self.rules().iter().any(Rule::is_open),
            // The probes pay for every line they may say.
            log_level: if self.verbose == 0 {
                0
            } else {
                verbosity as u8
            },
        }
    }

    fn report(&self) -> ReportOptions {
        let table_top = (self.format == Format::Table).then_some(TABLE_TOP);
        ReportOptions {
            sort: self.sort,
            top: match (self.top, self.format) {
                // A flame graph of a part would lie about the whole.
                (_, Format::Collapsed) | (Some(0), _) => None,
                (top, _) => top.or(table_top),
            },
            native: self.native,
            filter: BlockFilter {
                min_age: self.min_age.unwrap_or_default(),
                min_size: self.min_size,
                max_size: self.max_size,
            },
        }
    }

    fn destination(&self) -> Destination {
        match &self.output {
            Some(path) if path.as_os_str() != "-" => Destination::File(path.clone()),
            _ => Destination::Stdout,
        }
    }

    fn pace(&self) -> Pace {
        // Collapsed stacks of several moments would be added up by whoever reads them.
        let default = (self.format != Format::Collapsed).then_some(INTERVAL);
        Pace {
            interval: self.interval.map_or(default, |interval| {
                (!interval.is_zero()).then_some(interval)
            }),
            duration: self.duration,
        }
    }

    fn verbosity(&self) -> log::LevelFilter {
        match self.verbose {
            _ if self.quiet => log::LevelFilter::Error,
            0 => log::LevelFilter::Warn,
            1 => log::LevelFilter::Info,
            2 => log::LevelFilter::Debug,
            _ => log::LevelFilter::Trace,
        }
    }
}

/// A cgroup's path below the root of the hierarchy, whichever way it was given.
fn in_hierarchy(path: &Path) -> PathBuf {
    let below = CGROUP_MOUNTS
        .iter()
        .find_map(|mount| path.strip_prefix(mount).ok());
    Path::new("/").join(below.unwrap_or(path))
}
