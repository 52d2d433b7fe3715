//! bpf-linker, which links the probes. It uses the LLVM that comes with rustc.

use std::process::Command;

use anyhow::{Context as _, Result};

use crate::shell;

/// The version memtrace is built and tested with; newer ones are accepted.
const VERSION: [u32; 3] = [0, 10, 2];

/// Installs bpf-linker unless one that is new enough is found in `PATH`.
pub(crate) fn install() -> Result<()> {
    if shell::find("bpf-linker").is_some() && installed().is_some_and(|version| version >= VERSION)
    {
        return Ok(());
    }
    let [major, minor, patch] = VERSION;
    let version = format!("{major}.{minor}.{patch}");
    shell::say(&format!(
        "installing bpf-linker {version} from source (about two minutes)"
    ));
    shell::retry(|| {
        let mut cargo = shell::cargo();
        shell::run(cargo.args([
            "install",
            "--quiet",
            "--locked",
            "--force",
            "bpf-linker",
            "--version",
            &version,
        ]))
    })
    .with_context(|| {
        format!("install by hand: cargo install --locked bpf-linker --version {version}")
    })?;
    shell::find("bpf-linker")
        .map(|_| ())
        .context("bpf-linker is installed, but cargo's `bin` directory is not in PATH")
}

/// The version of the bpf-linker in `PATH`.
fn installed() -> Option<[u32; 3]> {
    let output = Command::new("bpf-linker").arg("--version").output().ok()?;
    parse(std::str::from_utf8(&output.stdout).ok()?)
}

/// Reads `bpf-linker 0.10.2`.
fn parse(line: &str) -> Option<[u32; 3]> {
    let mut numbers = line
        .trim()
        .strip_prefix("bpf-linker ")?
        .splitn(3, '.')
        .map(str::parse);
    Some([
        numbers.next()?.ok()?,
        numbers.next()?.ok()?,
        numbers.next()?.ok()?,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        assert_eq!(parse("bpf-linker 0.10.2\n"), Some([0, 10, 2]));
        assert!(parse("bpf-linker 0.9.15") < Some(VERSION));
        assert_eq!(parse("ld 2.40"), None);
    }
}
