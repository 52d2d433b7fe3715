//! `vm`: the tests on other kernels than this machine's, booted under emulation.

mod cpio;
mod guest;
mod image;
mod kernel;
mod payload;

use std::{fs, path::Path, process::ExitCode};

use anyhow::Result;

use self::{
    guest::{Orders, Outcome},
    kernel::Kernel,
};
use crate::{run, setup, shell, tally::Tally};

/// 6.1 and newer are promised. 5.10 stands for 5.15, which no mirror has, and is stricter.
const DEFAULT: [&str; 4] = ["5.10", "6.1", "6.12", "newest"];

/// Lines of the console that are shown when something has failed there.
const CONSOLE_LINES: usize = 200;

/// Boots other kernels under qemu and runs the tests there.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Versions such as `6.1`, or `newest`; all that are tested when none is named.
    kernels: Vec<String>,
    #[command(flatten)]
    orders: Orders,
}

/// Runs the matrix.
pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    setup::build_tools()?;
    setup::test_packages()?;
    let tally = boot_each(&args.kernels, &args.orders)?;
    println!("{tally}");
    Ok(tally.exit_code())
}

/// Every test on these kernels.
pub(crate) fn matrix(kernels: &[String]) -> Result<Tally> {
    boot_each(kernels, &Orders::default())
}

/// Boots each kernel in turn and prints what passed where. No kernel named means all of [`DEFAULT`].
fn boot_each(kernels: &[String], orders: &Orders) -> Result<Tally> {
    let mut names: Vec<_> = kernels.iter().map(String::as_str).collect();
    if names.is_empty() {
        names.extend(DEFAULT);
    }
    let wanted = names.iter().map(|name| name.parse());
    let wanted: Vec<_> = wanted.collect::<Result<_>>()?;
    let dir = shell::target_dir().join("vm");
    fs::create_dir_all(&dir)?;
    let image = dir.join("image.cpio");
    build_image(&image)?;
    let mut tally = Tally::default();
    for kernel in kernel::prepare(&wanted, &dir)? {
        tally += test(kernel, &image, &dir, orders).unwrap_or_else(|error| {
            println!("vm: {error:#} ... FAILED");
            Tally::of(false)
        });
    }
    Ok(tally)
}

/// Boots one kernel; a second time when the guest did not come to its end and no fault of the kernel says why, which
/// emulation alone can cause.
fn test(kernel: Result<Kernel>, image: &Path, dir: &Path, orders: &Orders) -> Result<Tally> {
    let kernel = kernel?;
    let log = dir.join(format!("{}.log", kernel.version));
    let mut outcome = guest::boot(&kernel.vmlinuz, image, &log, orders)?;
    if !outcome.ended && !outcome.crashed {
        fs::rename(&log, log.with_extension("first.log"))?;
        shell::say(&format!(
            "{} did not come to its end; once more",
            kernel.version
        ));
        outcome = guest::boot(&kernel.vmlinuz, image, &log, orders)?;
    }
    let tally = print(&kernel, &outcome);
    if tally.failed > 0 {
        let console = fs::read_to_string(&log)?;
        let lines: Vec<_> = console.lines().collect();
        println!(
            "{}",
            lines[lines.len().saturating_sub(CONSOLE_LINES)..].join("\n")
        );
    }
    println!(
        "vm {}: {tally} in {:.0} s, console in {}",
        kernel.version,
        outcome.took.as_secs_f32(),
        log.display()
    );
    Ok(tally)
}

/// Prints a kernel's results and counts them; not to have come to the end is a failure of its own.
fn print(kernel: &Kernel, outcome: &Outcome) -> Tally {
    let mut tally = Tally::default();
    for result in &outcome.results {
        tally += Tally::of(result.passed);
        let word = if result.passed { "ok" } else { "FAILED" };
        println!("vm {} {} ... {word}", kernel.version, result.name);
    }
    if !outcome.ended {
        tally += Tally::of(false);
        let why = if outcome.crashed {
            "the kernel crashed"
        } else {
            "hang or time limit"
        };
        println!("vm {} end ... FAILED: {why}", kernel.version);
    }
    tally
}

/// memtrace as it is released, the test binaries, and the programs they trace.
fn build_image(out: &Path) -> Result<()> {
    run::build()?;
    image::build(out, &payload::tests()?, &payload::programs()?)
}
