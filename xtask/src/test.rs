//! `test`: everything that can fail, from format to other kernels, and one sum at the end.

use std::process::ExitCode;

use anyhow::Result;
use clap::ValueEnum;

use crate::{
    lint, pythons, run, setup, shell,
    tally::{self, Tally},
    vm,
};

/// Runs all tests.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this stage.
    #[arg(long)]
    only: Option<Stage>,
    /// Only tests whose name contains this; of the kernels, only those of this version. Without `--only`, the stages
    /// that know no names are left out.
    filter: Option<String>,
}

/// Stages, in the order they run: the quick ones first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Stage {
    /// Format, clippy, layers, sizes.
    Lint,
    /// The pure parts; no root.
    Unit,
    /// Real probes on real processes; root.
    Real,
    /// The same on other kernels, emulated.
    Vm,
}

/// Runs the stages; the last line is the sum over all of them.
pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    setup::build_tools()?;
    setup::test_packages()?;
    let mut sum = Tally::default();
    for stage in Stage::value_variants() {
        if args.wants(*stage) {
            shell::say(&format!("test stage: {stage:?}"));
            sum += stage.run(args.filter.as_deref()).unwrap_or_else(|error| {
                eprintln!("xtask: {error:#}");
                Tally::of(false)
            });
        }
    }
    println!("{sum}");
    Ok(sum.exit_code())
}

impl Args {
    fn wants(&self, stage: Stage) -> bool {
        match self.only {
            Some(only) => only == stage,
            None => self.filter.is_none() || matches!(stage, Stage::Unit | Stage::Real),
        }
    }
}

impl Stage {
    fn run(self, filter: Option<&str>) -> Result<Tally> {
        match self {
            Self::Lint => lint::lint(),
            Self::Unit => unit(filter),
            Self::Real => real(filter),
            Self::Vm => vm::matrix(filter.map(str::to_owned).as_slice()),
        }
    }
}

/// The default members' own tests.
fn unit(filter: Option<&str>) -> Result<Tally> {
    let mut cargo = shell::cargo();
    if shell::is_root() {
        cargo.env("MEMTRACE_PYTHONS", pythons::further());
    }
    tally::libtest(cargo.args(["test", "--no-fail-fast"]).args(filter))
}

/// The tests that load probes, run as root with the release binary.
fn real(filter: Option<&str>) -> Result<Tally> {
    run::build()?;
    let mut cargo = shell::cargo();
    cargo
        .args(["test", "--no-fail-fast", "--package=memtrace-tests"])
        .args(filter);
    let ci = shell::is_ci().to_string();
    let environment = [
        ("MEMTRACE_BIN", shell::memtrace().into_os_string()),
        ("CI", ci.into()),
        ("MEMTRACE_PYTHONS", pythons::further().into()),
    ];
    tally::libtest(shell::start_as_root(&mut cargo, &environment))
}
