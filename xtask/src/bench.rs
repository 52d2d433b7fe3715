//! `bench`: what memtrace costs.

use std::process::ExitCode;

use anyhow::Result;

use crate::{run, setup, shell, test};

/// Measures memtrace.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: Option<What>,
}

/// What is measured; `micro` when nothing is said.
#[derive(Debug, clap::Subcommand)]
enum What {
    /// The collector's own steps, with criterion.
    Micro {
        /// Only benchmarks whose name contains this, and criterion's other arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// What memtrace costs the traced program, beside its peers; root.
    Cost {
        /// Arguments of the benchmark.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

/// Runs the benchmarks.
pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    setup::build_tools()?;
    match &args.what {
        None => micro(&[])?,
        Some(What::Micro { args }) => micro(args)?,
        Some(What::Cost { args }) => cost(args)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Criterion's benchmarks of memtrace-user.
fn micro(args: &[String]) -> Result<()> {
    let mut cargo = shell::cargo();
    // Without `--benches` the library's own (empty) libtest bench would be handed criterion's arguments.
    cargo.args(["bench", "--package=memtrace-user", "--bench=*", "--"]);
    shell::run(cargo.args(args))
}

/// The benchmark of `memtrace-tests`, which traces programs with the release binary and with other tools.
fn cost(args: &[String]) -> Result<()> {
    run::build()?;
    let mut cargo = shell::cargo();
    cargo.args(["bench", "--package=memtrace-tests", "--bench=cost"]);
    test::as_root(&mut cargo);
    shell::run(cargo.arg("--").args(args))
}
