//! `setup`: installs what building and testing need, says so, and is silent when all is there.

mod bpf_linker;
mod rust_src;

use std::process::ExitCode;

use anyhow::Result;

use crate::apt;

/// Everything the tests call, by Debian's names. In one place: a test that needs more adds it here.
const TEST_PACKAGES: [&str; 19] = [
    // Oracles.
    "binutils",
    "gdb",
    "libc6-dbg",
    // Compilers of the workloads.
    "g++",
    "gcc",
    "musl-tools",
    // Allocators.
    "libjemalloc-dev",
    "libjemalloc2",
    "libmimalloc2.0",
    "libtcmalloc-minimal4",
    // Programs to trace.
    "git",
    "python3",
    "python3-venv",
    "redis-server",
    "redis-tools",
    "sqlite3",
    // Other kernels.
    "busybox-static",
    "cpio",
    "qemu-system-x86",
];

/// Installs what is missing: the source of `core` and bpf-linker, and what the tests call.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Also what the tests need, with apt.
    #[arg(long)]
    tests: bool,
}

/// Installs.
pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    build_tools()?;
    if args.tests {
        test_packages()?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What `cargo build` needs.
pub(crate) fn build_tools() -> Result<()> {
    rust_src::install()?;
    bpf_linker::install()
}

/// What the tests need.
pub(crate) fn test_packages() -> Result<()> {
    apt::install(&TEST_PACKAGES)
}
