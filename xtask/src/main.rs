//! What a developer of memtrace types: `cargo xtask VERB`. A verb is a file.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "xtask speaks to the terminal"
)]

mod apt;
mod bench;
mod lint;
mod pythons;
mod run;
mod setup;
mod shell;
mod tally;
mod test;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

/// Builds, runs, tests and measures memtrace.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Verb {
    Setup(setup::Args),
    Run(run::Args),
    Test(test::Args),
    Lint(lint::Args),
    Bench(bench::Args),
    Vm(vm::Args),
}

fn main() -> ExitCode {
    let done: Result<ExitCode> = match Verb::parse() {
        Verb::Setup(args) => setup::main(&args),
        Verb::Run(args) => run::main(&args),
        Verb::Test(args) => test::main(&args),
        Verb::Lint(args) => lint::main(&args),
        Verb::Bench(args) => bench::main(&args),
        Verb::Vm(args) => vm::main(&args),
    };
    done.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}
