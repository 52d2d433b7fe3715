//! `bench`: what memtrace costs.

mod peers;

use std::process::ExitCode;

use anyhow::Result;

use crate::{apt, run, setup, shell};

/// What only the comparison with other tracers calls, by Debian's names.
const PEER_PACKAGES: [&str; 3] = ["heaptrack", "redis-server", "redis-tools"];

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
    /// What tracing costs the traced program, beside the bare floor, memleak and heaptrack; root.
    Cost {
        /// Rounds in which each tracer is measured once.
        #[arg(long, default_value_t = 7)]
        rounds: u32,
    },
}

/// Runs the benchmarks.
pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    setup::build_tools()?;
    match &args.what {
        None => micro(&[])?,
        Some(What::Micro { args }) => micro(args)?,
        Some(What::Cost { rounds }) => cost(*rounds)?,
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

/// The side-by-side measure of memtrace-tests, with the release binary.
fn cost(rounds: u32) -> Result<()> {
    apt::install(&PEER_PACKAGES)?;
    let peers = peers::memleak()?;
    run::build()?;
    let mut cargo = shell::cargo();
    cargo.args(["bench", "--package=memtrace-tests", "--bench=cost"]);
    let environment = [
        ("MEMTRACE_BIN", shell::memtrace().into_os_string()),
        ("MEMTRACE_PEERS", peers.into_os_string()),
        ("MEMTRACE_ROUNDS", rounds.to_string().into()),
    ];
    shell::run(shell::start_as_root(&mut cargo, &environment))
}
