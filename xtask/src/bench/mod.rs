//! `bench`: what memtrace costs.

mod peers;
mod python;

use std::{env, ffi::OsString, path::PathBuf, process::ExitCode};

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
    /// What tracing costs Python programs, beside memray, and what a Python frame costs; root.
    Python {
        /// Rounds in which each tracer is measured once.
        #[arg(long, default_value_t = 5)]
        rounds: u32,
        /// Interpreter that the benchmarks run in [default: a 3.12 of pyenv or in PATH]
        #[arg(long)]
        python: Option<PathBuf>,
        /// Only benchmarks whose name contains this; `frames` for what a frame costs.
        name: Option<String>,
    },
}

/// Runs the benchmarks.
pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    setup::build_tools()?;
    match &args.what {
        None => micro(&[])?,
        Some(What::Micro { args }) => micro(args)?,
        Some(What::Cost { rounds }) => cost(*rounds)?,
        Some(What::Python {
            rounds,
            python,
            name,
        }) => beside_memray(*rounds, python.as_ref(), name.as_deref())?,
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
    start("cost", None, rounds, [("MEMTRACE_PEERS", peers.into())])
}

/// The same on Python programs.
fn beside_memray(rounds: u32, python: Option<&PathBuf>, name: Option<&str>) -> Result<()> {
    // Counts the frames.
    apt::install(&["gdb"])?;
    let environment = python::environment(&python::base(python)?)?;
    let pythons = env::join_paths(python::all())?;
    let places = [
        ("MEMTRACE_PYTHON", environment.into()),
        ("MEMTRACE_PYTHONS", pythons),
    ];
    start("python", name, rounds, places)
}

/// Builds memtrace and starts a measure of it.
fn start<const N: usize>(
    bench: &str,
    name: Option<&str>,
    rounds: u32,
    places: [(&str, OsString); N],
) -> Result<()> {
    run::build()?;
    let mut cargo = shell::cargo();
    cargo.args(["bench", "--package=memtrace-tests", "--bench", bench]);
    if let Some(name) = name {
        cargo.args(["--", name]);
    }
    let mut environment = vec![
        ("MEMTRACE_BIN", shell::memtrace().into_os_string()),
        ("MEMTRACE_ROUNDS", rounds.to_string().into()),
    ];
    environment.extend(places);
    shell::run(shell::start_as_root(&mut cargo, &environment))
}
