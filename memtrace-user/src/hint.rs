//! Errors as users read them: what failed, how things are now, what to type.
//!
//! ```text
//! memtrace: not permitted to load the probes
//!   now:  uid 1000 without CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE
//!   try:  sudo memtrace -p 4711
//! ```
//!
//! Every failure that a user can do something about is a variant here, with its exit code.

use std::{fmt::Write as _, io, path::PathBuf};

use crate::{
    ids::Pid,
    plan::PlanError,
    report::OutputError,
    system::{Capability, Privileges},
    target::maps::MapsError,
};

/// The targets are gone, nothing matched, or the report could not be written.
pub const EXIT_NO_RESULT: u8 = 1;
/// The arguments make no sense.
pub const EXIT_USAGE: u8 = 2;
/// Not permitted, or the kernel lacks something.
pub const EXIT_NOT_POSSIBLE: u8 = 3;

/// What a user can do something about.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// A process that was asked for by its id.
    #[error("process {pid} does not exist")]
    PidGone {
        /// Which.
        pid: Pid,
    },
    /// `--no-wait`, and no process is selected.
    #[error("nothing matches {selectors}")]
    NothingMatched {
        /// The selectors as they were typed.
        selectors: String,
    },
    /// The last target has ended before the trace was to.
    #[error("no target is left: {who} ended")]
    TargetsGone {
        /// Names and process ids.
        who: String,
    },
    /// The program to trace cannot be started.
    #[error("failed to start `{}`", program.display())]
    CommandNotStarted {
        /// Which.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The arguments contradict each other.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The kernel refuses because of who asks.
    #[error("not permitted to {action}")]
    NotPermitted {
        /// What was tried: `load the probes`.
        action: String,
        /// Who tried.
        privileges: Option<Privileges>,
        /// What the kernel said.
        source: Option<anyhow::Error>,
    },
    /// The kernel does not tell its types.
    #[error("the kernel's types cannot be read from `{}`", path.display())]
    NoBtf {
        /// Where they should be.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The kernel is too old, or built without something.
    #[error("kernel {release} lacks {what}")]
    KernelLacks {
        /// The missing thing.
        what: String,
        /// The running kernel.
        release: String,
        /// What the kernel said.
        source: Option<anyhow::Error>,
    },
    /// A process cannot be looked into.
    #[error(transparent)]
    Maps(#[from] MapsError),
    /// A report could not be written.
    #[error(transparent)]
    Output(#[from] OutputError),
}

impl UserError {
    /// Not permitted, with the privileges there are.
    #[must_use]
    pub fn not_permitted(action: impl Into<String>, source: Option<anyhow::Error>) -> Self {
        Self::NotPermitted {
            action: action.into(),
            privileges: Privileges::read(&crate::system::System::here()).ok(),
            source,
        }
    }

    /// The exit code that goes with it.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::PidGone { .. }
            | Self::NothingMatched { .. }
            | Self::TargetsGone { .. }
            | Self::Maps(MapsError::Gone { .. } | MapsError::Read { .. })
            | Self::Output(OutputError::Write { .. }) => EXIT_NO_RESULT,
            Self::CommandNotStarted { .. }
            | Self::Plan(_)
            | Self::Output(OutputError::Create { .. }) => EXIT_USAGE,
            Self::NotPermitted { .. }
            | Self::NoBtf { .. }
            | Self::KernelLacks { .. }
            | Self::Maps(MapsError::NotPermitted { .. }) => EXIT_NOT_POSSIBLE,
        }
    }

    /// How things are.
    fn now(&self) -> Option<String> {
        match self {
            Self::NothingMatched { .. } => Some("no running process is selected".to_owned()),
            Self::NotPermitted { privileges, .. } => privileges.map(|privileges| {
                let missing = privileges.missing(&Capability::NEEDED);
                let missing = missing.map_or("all capabilities needed".to_owned(), |missing| {
                    format!("no {missing}")
                });
                format!("uid {} with {missing}", privileges.uid)
            }),
            Self::Output(OutputError::Write { .. }) => {
                Some("the probes are removed; the last report went to standard output".to_owned())
            }
            _ => None,
        }
    }

    /// What to type; the first is the best.
    fn remedies(&self, command_line: &str) -> Vec<String> {
        let sudo = format!("sudo {command_line}");
        match self {
            Self::PidGone { .. } => vec![
                "pgrep -a NAME".to_owned(),
                "memtrace --comm NAME".to_owned(),
            ],
            Self::NothingMatched { .. } => {
                vec![format!("{command_line}, without --no-wait, to wait for it")]
            }
            Self::Plan(PlanError::NothingSelected) => vec![
                "sudo memtrace --pid 4711".to_owned(),
                "sudo memtrace --comm NAME".to_owned(),
                "sudo memtrace -- COMMAND ARGS…".to_owned(),
                "memtrace --help".to_owned(),
            ],
            Self::Plan(_) => vec!["memtrace --help".to_owned()],
            Self::NotPermitted { privileges, .. } => match privileges {
                Some(privileges) if privileges.missing(&Capability::NEEDED).is_none() => {
                    vec!["memtrace doctor".to_owned()]
                }
                _ => vec![sudo],
            },
            Self::Maps(MapsError::NotPermitted { .. }) => vec![sudo],
            Self::NoBtf { .. } | Self::KernelLacks { .. } => vec!["memtrace doctor".to_owned()],
            Self::Output(error) => vec![format!(
                "-o FILE on another file system than that of `{}`",
                error.path().display()
            )],
            Self::TargetsGone { .. } | Self::CommandNotStarted { .. } | Self::Maps(_) => Vec::new(),
        }
    }
}

/// An error as it is printed, and the exit code.
#[must_use]
pub fn explain(error: anyhow::Error, command_line: &str) -> (String, u8) {
    let mut text = format!("memtrace: {error:#}\n");
    let Some(user_error) = user_error(error) else {
        return (text, EXIT_NOT_POSSIBLE);
    };
    if let Some(now) = user_error.now() {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  now:  {now}");
    }
    for (index, remedy) in user_error.remedies(command_line).iter().enumerate() {
        let label = if index == 0 { "try:" } else { "  or" };
        let _ = writeln!(text, "  {label}  {remedy}");
    }
    (text, user_error.exit_code())
}

/// The error below all context, if a user can do something about it.
fn user_error(error: anyhow::Error) -> Option<UserError> {
    error
        .downcast::<UserError>()
        .or_else(|error| error.downcast::<OutputError>().map(UserError::from))
        .or_else(|error| error.downcast::<MapsError>().map(UserError::from))
        .or_else(|error| error.downcast::<PlanError>().map(UserError::from))
        .ok()
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    fn text(error: impl Into<anyhow::Error>) -> String {
        explain(error.into(), "memtrace -p 4711").0
    }

    #[test]
    fn an_error_has_three_parts() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("proc/self")).unwrap();
        let status = "Uid:\t1000\t1000\t1000\t1000\nCapEff:\t0000000000000000\n";
        std::fs::write(folder.path().join("proc/self/status"), status).unwrap();
        let error = UserError::NotPermitted {
            action: "load the probes".to_owned(),
            privileges: Privileges::read(&crate::system::System::at(folder.path())).ok(),
            source: Some(anyhow::anyhow!("operation not permitted")),
        };
        insta::assert_snapshot!(text(error), @r"
        memtrace: not permitted to load the probes: operation not permitted
          now:  uid 1000 with no CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE
          try:  sudo memtrace -p 4711
        ");
    }

    #[test]
    fn a_bare_call_says_what_to_type() {
        insta::assert_snapshot!(text(UserError::from(PlanError::NothingSelected)), @r"
        memtrace: nothing to trace: name a process or give a command
          try:  sudo memtrace --pid 4711
            or  sudo memtrace --comm NAME
            or  sudo memtrace -- COMMAND ARGS…
            or  memtrace --help
        ");
    }

    #[test]
    fn a_full_disk_names_the_file_and_the_cause() {
        let error = anyhow::Error::from(OutputError::Write {
            path: PathBuf::from("/data/report.json"),
            source: io::Error::from_raw_os_error(libc::ENOSPC),
        });
        insta::assert_snapshot!(text(error), @r"
        memtrace: failed to write to `/data/report.json`: No space left on device (os error 28)
          now:  the probes are removed; the last report went to standard output
          try:  -o FILE on another file system than that of `/data/report.json`
        ");
    }

    #[test]
    fn the_code_is_found_under_any_context() {
        let error = anyhow::Error::from(UserError::PidGone { pid: Pid(7) });
        let wrapped = Err::<(), _>(error).context("failed to begin").unwrap_err();
        let (text, code) = explain(wrapped, "memtrace");
        assert_eq!(code, EXIT_NO_RESULT);
        assert!(
            text.starts_with("memtrace: failed to begin: process 7 does not exist\n"),
            "{text}"
        );
        assert_eq!(
            explain(anyhow::anyhow!("odd"), "memtrace"),
            ("memtrace: odd\n".to_owned(), EXIT_NOT_POSSIBLE)
        );
    }
}
