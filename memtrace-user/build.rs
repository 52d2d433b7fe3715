//! Builds the probes (`memtrace-ebpf`, for the BPF target) into `OUT_DIR/memtrace-ebpf`.
//!
//! A compiler of its own is not needed: stable rustc with `RUSTC_BOOTSTRAP=1` compiles `core` for the target from
//! `rust-src`, and bpf-linker makes the object. `cargo xtask setup` installs both. With `MEMTRACE_SKIP_EBPF=1` the
//! object is an empty file, which serves documentation and tests that load no probe.
//!
//! aya-build does nearly the same, but cannot pass [`RUSTFLAGS`]' last argument.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

const TARGET: &str = "bpfel-unknown-none";
const SKIP: &str = "MEMTRACE_SKIP_EBPF";

/// What aya-build passes, and one more: `check_cfg` of kernels before 6.8 refuses a back edge that is a
/// fall-through ("back-edge from insn 54 to 55"), which is what LLVM's block placement makes of a loop.
const RUSTFLAGS: [&str; 4] = [
    "--cfg=bpf_target_arch=\"x86_64\"",
    "-Cdebuginfo=2",
    "-Clink-arg=--btf",
    "-Clink-arg=--llvm-args=-disable-block-placement",
];

/// Everything the object is made of, relative to this package. Cargo's own dependency tracking ends at the
/// build script, because the probes are no dependency of the host's crate.
const SOURCES: [&str; 6] = [
    "../memtrace-ebpf/src",
    "../memtrace-ebpf/Cargo.toml",
    "../memtrace-common/src",
    "../memtrace-common/Cargo.toml",
    "../Cargo.toml",
    "../Cargo.lock",
];

/// An error is what cargo shows of it: any `cargo::error` fails the build.
fn main() {
    if let Err(error) = run() {
        println!("cargo::error={error:#}");
    }
}

fn run() -> Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={SKIP}");
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
    }
    let out_dir = PathBuf::from(variable("OUT_DIR")?);
    let object = out_dir.join("memtrace-ebpf");
    if env::var_os(SKIP).is_some_and(|skip| skip == "1") {
        println!("cargo::warning={SKIP}=1: this memtrace has no probes");
        return fs::write(&object, []).context("failed to write the empty object");
    }
    // Cargo locks its target directory for the whole build, so the inner one has its own.
    let target_dir = out_dir.join("target");
    build(&target_dir)?;
    let built = target_dir.join(TARGET).join("release/memtrace-ebpf");
    fs::copy(&built, &object).with_context(|| format!("failed to copy `{}`", built.display()))?;
    Ok(())
}

/// Runs cargo for the BPF target. What the compiler says is shown in any case.
fn build(target_dir: &Path) -> Result<()> {
    let output = Command::new(variable("CARGO")?)
        .args(["build", "--quiet", "--release", "--package=memtrace-ebpf"])
        .args(["--target", TARGET, "-Zbuild-std=core", "--target-dir"])
        .arg(target_dir)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", RUSTFLAGS.join("\x1f"))
        // Set by the outer cargo or by clippy for the host's compilation.
        .env_remove("RUSTC")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .output()
        .context("failed to run cargo for the probes")?;
    let built = output.status.success();
    let kind = if built { "warning" } else { "error" };
    for line in String::from_utf8_lossy(&output.stderr).lines() {
        println!("cargo::{kind}={line}");
    }
    if built {
        return Ok(());
    }
    for missing in missing_tools() {
        println!("cargo::error={missing} is missing: run `cargo xtask setup`");
    }
    bail!("failed to build the probes ({})", output.status)
}

/// What `cargo xtask setup` would install.
fn missing_tools() -> impl Iterator<Item = &'static str> {
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output();
    let has_source = sysroot.is_ok_and(|output| {
        let sysroot = String::from_utf8_lossy(&output.stdout);
        Path::new(sysroot.trim())
            .join("lib/rustlib/src/rust/library/core")
            .is_dir()
    });
    let path = env::var_os("PATH").unwrap_or_default();
    let has_linker = env::split_paths(&path).any(|dir| dir.join("bpf-linker").is_file());
    let tools = [
        ("rust-src (the source of `core`)", has_source),
        ("bpf-linker", has_linker),
    ];
    tools
        .into_iter()
        .filter(|(_, found)| !found)
        .map(|(tool, _)| tool)
}

/// A variable that cargo sets for every build script.
fn variable(name: &str) -> Result<String> {
    env::var(name).with_context(|| format!("`{name}` is not set: not run by cargo"))
}
