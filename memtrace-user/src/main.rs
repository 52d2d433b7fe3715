//! The program `memtrace`: parse, run, print the error, exit code.

use std::process::ExitCode;

use memtrace::{
    cli::{self, Actions},
    probe::features,
    session,
};

fn main() -> ExitCode {
    cli::run(Actions {
        trace: session::trace,
        features: features::checks,
    })
}
