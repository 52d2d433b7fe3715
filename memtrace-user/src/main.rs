//! The program `memtrace`: parse, run, print the error, exit code.

use std::process::ExitCode;

use memtrace::cli::{self, Actions};

fn main() -> ExitCode {
    cli::run(Actions {
        trace: |_plan| anyhow::bail!("this build cannot trace"),
        features: Vec::new,
    })
}
