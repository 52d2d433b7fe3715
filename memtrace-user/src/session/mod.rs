//! A trace from its beginning to its end: the only place where the parts are wired together.
//!
//! ```text
//! drain thread     rings ─► tracker                      answers "freeze"
//! report thread    snapshot ─► names ─► output           answers "delivered"
//! session (tokio)  signals, timers, notices ─► targets (attach, detach, unwind tables)
//! ```
//!
//! Way out: freeze, then detach (probes go one by one, so what is seen meanwhile does not fit together), then report.

mod attach;
mod command;
mod domains;
mod library;
mod listener;
mod measure;
mod names;
mod notices;
mod preview;
mod pythons;
mod reporter;
mod run;
mod signals;
mod sink;
mod target;
mod targets;
mod trial;

use std::sync::Arc;

use anyhow::Context as _;

use self::{
    command::{Command, ExitStatus},
    run::Session,
};
use crate::{
    hint::UserError,
    ids::Pid,
    plan::{Plan, Selection},
    probe::{BtfError, Guard, VMLINUX},
    report::Output,
    system::{Capability, Privileges, System},
    target::{procfs, rule::Rule},
};

/// Threads that wait for the kernel to attach and detach are made by the runtime; these two only pass things on.
const RUNTIME_THREADS: usize = 2;

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// The last report is written.
    Done {
        /// How the command ended, when there was one and it has.
        command: Option<ExitStatus>,
    },
    /// Nobody reads the reports any more.
    ReaderGone,
    /// No process matched, and waiting was not wanted.
    NothingMatched,
    /// The last report is written, and all targets have ended.
    TargetsGone {
        /// Names and process ids.
        who: Vec<String>,
    },
}

/// Carries a plan out, to the last report. Must be called before the process has a second thread.
///
/// # Errors
/// [`UserError`] where a user can do something about it. What was gathered until then has been printed.
pub fn trace(mut plan: Plan) -> anyhow::Result<()> {
    if let Some(pid) = only_gone_pids(&plan.selection) {
        return Err(UserError::PidGone { pid }.into());
    }
    // Before any thread, and dropped after the runtime, when all links are gone.
    let guard = start_guard();
    let selectors = selectors_of(&plan.selection);
    let output = Output::open(&plan.destination, plan.format).map_err(UserError::from)?;
    let command = plan.command.as_deref().map(hold).transpose()?;
    plan.selection
        .rules
        .extend(command.as_ref().map(|command| Rule::Pid(command.pid)));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    let outcome = runtime.block_on(async {
        let session = Session::begin(plan, command, output, guard.clone()).map_err(explain)?;
        session.run().await
    })?;
    match outcome {
        Outcome::Done { command } => {
            if let Some(status) = command {
                measure::say(&format!("the command {status}"));
            }
            Ok(())
        }
        Outcome::ReaderGone => Ok(()),
        Outcome::NothingMatched => Err(UserError::NothingMatched { selectors }.into()),
        Outcome::TargetsGone { who } => {
            let who = if who.is_empty() {
                selectors
            } else {
                some_of(&who)
            };
            Err(UserError::TargetsGone { who }.into())
        }
    }
}

/// The first few, and how many more there are.
fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Without a guard everything works, but SIGKILL may leave breakpoints.
fn start_guard() -> Option<Arc<Guard>> {
    Guard::start()
        .inspect_err(|error| log::warn!("no guard against SIGKILL: {error}"))
        .ok()
        .map(Arc::new)
}

fn hold(arguments: &[std::ffi::OsString]) -> anyhow::Result<Command> {
    let program = arguments.first().map(Into::into).unwrap_or_default();
    Ok(Command::hold(arguments)
        .map_err(|source| UserError::CommandNotStarted { program, source })?)
}

/// A process that was asked for by its id and is not there, when nothing else was asked for either.
fn only_gone_pids(selection: &Selection) -> Option<Pid> {
    let pids: Option<Vec<Pid>> = selection
        .rules
        .iter()
        .map(|rule| {
            if let Rule::Pid(pid) = rule {
                Some(*pid)
            } else {
                None
            }
        })
        .collect();
    let pids = pids?;
    let gone = pids.iter().all(|pid| procfs::process(*pid).is_none());
    pids.first().copied().filter(|_| gone)
}

fn selectors_of(selection: &Selection) -> String {
    let rules: Vec<String> = selection.rules.iter().map(ToString::to_string).collect();
    rules.join(" or ")
}

/// What a user can do about probes that do not load.
fn explain(error: anyhow::Error) -> anyhow::Error {
    let system = System::here();
    let permitted = Privileges::read(&system)
        .is_ok_and(|privileges| privileges.missing(&Capability::NEEDED).is_none());
    if !permitted {
        return UserError::not_permitted("load the probes", Some(error)).into();
    }
    match error.downcast::<BtfError>() {
        Ok(BtfError::Read(source)) => UserError::NoBtf {
            path: VMLINUX.into(),
            source,
        }
        .into(),
        Ok(other) => kernel_lacks("types that the probes can use", other.into()),
        Err(error) => kernel_lacks("what the probes need", error),
    }
}

fn kernel_lacks(what: &str, source: anyhow::Error) -> anyhow::Error {
    UserError::KernelLacks {
        what: what.to_owned(),
        release: nix::sys::utsname::uname().map_or_else(
            |_| String::new(),
            |name| name.release().to_string_lossy().into_owned(),
        ),
        source: Some(source),
    }
    .into()
}
