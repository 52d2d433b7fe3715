//! `run`: the release binary, built and started with root's rights.

use std::{ffi::OsString, os::unix::process::CommandExt as _, process::ExitCode};

use anyhow::{Context as _, Result};

use crate::{setup, shell};

/// Builds memtrace (release) and runs it, through sudo when not root.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Arguments of memtrace.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// Does not return when it succeeds: memtrace takes this process' place, so signals and the exit code are its own.
pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    setup::build_tools()?;
    build()?;
    let memtrace = shell::memtrace();
    let program = memtrace
        .to_str()
        .context("the path of the workspace is no UTF-8")?;
    let error = shell::as_root(program).args(&args.args).exec();
    Err(error).with_context(|| format!("failed to run `{program}`"))
}

/// Builds `target/release/memtrace`.
pub(crate) fn build() -> Result<()> {
    shell::run(shell::cargo().args([
        "build",
        "--quiet",
        "--release",
        "--package=memtrace-user",
        "--bin=memtrace",
    ]))
}
