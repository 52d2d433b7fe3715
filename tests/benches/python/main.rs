//! What tracing costs Python programs, side by side with memray in one run: `cargo xtask bench python`.
//!
//! Rounds are interleaved: in every round each tracer is measured once on a benchmark, so that a slow minute of the
//! machine slows all of them. A figure is the median over the rounds.
//!
//! Needs root. `MEMTRACE_BIN` names the binary, `MEMTRACE_PYTHON` an interpreter with memray and pyperformance,
//! `MEMTRACE_PYTHONS` (separated by colons) those whose frames are measured; `MEMTRACE_ROUNDS` sets the number of rounds
//! (5). An argument measures only the benchmarks whose name contains it; `frames` is what a Python frame costs.

#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]

mod frames;
mod program;
mod suite;
mod table;
mod tracer;

use std::{env, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use memtrace_tests::{privilege, run_time::Counting};

fn main() -> Result<()> {
    ensure!(privilege::turn()?.is_some(), "tracing needs root");
    let rounds = env::var("MEMTRACE_ROUNDS")
        .ok()
        .and_then(|rounds| rounds.parse().ok())
        .unwrap_or(5);
    let wanted = env::args()
        .skip(1)
        .find(|argument| !argument.starts_with('-'));
    let is_wanted = |name: &str| wanted.as_deref().is_none_or(|wanted| name.contains(wanted));
    if wanted.as_deref() != Some("frames") {
        let python = env::var_os("MEMTRACE_PYTHON").context("MEMTRACE_PYTHON is not set")?;
        println!(
            "{}",
            suite::table(&PathBuf::from(python), rounds, is_wanted)?
        );
    }
    if is_wanted("frames") {
        let pythons = env::var_os("MEMTRACE_PYTHONS").context("MEMTRACE_PYTHONS is not set")?;
        let pythons: Vec<PathBuf> = env::split_paths(&pythons).collect();
        let _counting = Counting::begin()?;
        println!("{}", frames::table(&pythons, rounds)?);
    }
    Ok(())
}

/// The middle one.
fn median(figures: impl IntoIterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.into_iter().collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}
