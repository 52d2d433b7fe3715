//! `lint`: what a reviewer should not have to say.

mod files;
mod layers;

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::{setup, shell, tally::Tally};

/// Checks format, clippy, the layers, sizes, and that no host is named.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Runs every check.
pub(crate) fn main(_args: &Args) -> Result<ExitCode> {
    setup::build_tools()?;
    let tally = lint()?;
    println!("{tally}");
    Ok(tally.exit_code())
}

/// Runs every check; each counts as one.
pub(crate) fn lint() -> Result<Tally> {
    let files = files::tracked(&shell::root())?;
    let mut tally = Tally::default();
    tally += command("format", shell::cargo().args(["fmt", "--all", "--check"]));
    tally += command("clippy", &mut clippy_host());
    tally += command("clippy of the probes", &mut clippy_probes());
    tally += rule(
        "layers",
        &layers::breaches(&shell::root().join("memtrace-user/src"))?,
    );
    tally += rule("file sizes", &files::too_long(&files));
    tally += rule("host names", &files::hosts(&files));
    Ok(tally)
}

/// Everything but the probes, which do not compile for the host.
fn clippy_host() -> Command {
    let mut cargo = shell::cargo();
    cargo.args([
        "clippy",
        "--quiet",
        "--workspace",
        "--exclude=memtrace-ebpf",
        "--all-targets",
    ]);
    cargo.args(["--", "--deny=warnings"]);
    cargo
}

/// The probes. In a target directory of their own, because `RUSTC_BOOTSTRAP` makes cargo rebuild much of the host's.
fn clippy_probes() -> Command {
    let mut cargo = shell::cargo();
    cargo.args(["clippy", "--quiet", "--release", "--package=memtrace-ebpf"]);
    cargo.args([
        "--target=bpfel-unknown-none",
        "-Zbuild-std=core",
        "--target-dir",
    ]);
    cargo.arg(shell::target_dir().join("probes"));
    cargo
        .args(["--", "--deny=warnings"])
        .env("RUSTC_BOOTSTRAP", "1");
    cargo
}

/// A check that another program makes.
fn command(name: &str, command: &mut Command) -> Tally {
    let outcome = shell::run(command);
    rule(
        name,
        &outcome
            .err()
            .map(|error| format!("{error:#}"))
            .into_iter()
            .collect::<Vec<_>>(),
    )
}

/// Prints a check's result and counts it.
fn rule(name: &str, breaches: &[String]) -> Tally {
    for breach in breaches {
        println!("{breach}");
    }
    println!(
        "lint {name} ... {}",
        if breaches.is_empty() { "ok" } else { "FAILED" }
    );
    Tally::of(breaches.is_empty())
}
