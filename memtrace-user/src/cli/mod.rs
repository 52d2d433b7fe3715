//! The command line: arguments → [`Plan`] → exit code.
//!
//! Owns what can be typed and what is said about it. What is done is decided by the [`Plan`] and happens elsewhere.

mod args;
pub mod doctor;
mod values;

use std::{
    env,
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::Result;
use clap::Parser as _;

pub use self::args::{Args, TraceArgs, Verb};
use crate::{
    hint::{self, EXIT_NOT_POSSIBLE, UserError},
    plan::Plan,
    python::survey,
    system::{Check, System, checks},
};

/// What the verbs do beyond reading arguments.
#[derive(Clone, Copy, Debug)]
pub struct Actions {
    /// Carries a plan out.
    pub trace: fn(Plan) -> Result<()>,
    /// What the kernel can do, by trial.
    pub features: fn() -> Vec<Check>,
}

/// Does what was typed. Wrong usage ends the process with code 2 (clap's own way).
#[must_use]
pub fn run(actions: Actions) -> ExitCode {
    let args = Args::parse();
    let done = match args.verb {
        Some(Verb::Doctor) => doctor(actions.features),
        None => trace(args.trace, actions.trace),
    };
    done.unwrap_or_else(fail)
}

fn trace(args: TraceArgs, carry_out: fn(Plan) -> Result<()>) -> Result<ExitCode> {
    let plan = args.plan().map_err(UserError::from)?;
    env_logger::Builder::new()
        .filter_level(plan.verbosity)
        .format(|out, record| writeln!(out, "memtrace: {}", record.args()))
        .init();
    carry_out(plan)?;
    Ok(ExitCode::SUCCESS)
}

fn doctor(features: fn() -> Vec<Check>) -> Result<ExitCode> {
    let mut all = checks(&System::here());
    // Trials would only fail for the reason already found.
    if doctor::can_trace(&all) {
        all.extend(features());
        all.extend(survey::checks());
    }
    match doctor::render(&all, &mut io::stdout().lock()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error.into()),
        _ => {}
    }
    let code = if doctor::can_trace(&all) {
        0
    } else {
        EXIT_NOT_POSSIBLE
    };
    Ok(ExitCode::from(code))
}

#[expect(clippy::print_stderr, reason = "the last word of the program")]
fn fail(error: anyhow::Error) -> ExitCode {
    let words: Vec<String> = env::args().collect();
    let (text, code) = hint::explain(error, &words.join(" "));
    eprint!("{text}");
    ExitCode::from(code)
}

#[cfg(test)]
mod tests;
