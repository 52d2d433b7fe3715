//! What the image carries besides memtrace: the test binaries and the programs they trace.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::shell;

/// Programs that the tests named in `tests/vm/test` start.
const PROGRAMS: [&str; 12] = [
    "chain", "deep", "every", "frames", "jit", "leak", "loop", "new", "spawn", "storm", "threads",
    "tree",
];

/// A line that cargo prints for each thing it has built.
#[derive(Deserialize)]
struct Built {
    target: Option<Target>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
}

/// Builds the integration tests of `memtrace-tests` and gives the binaries' paths.
pub(super) fn tests() -> Result<Vec<PathBuf>> {
    let mut cargo = shell::cargo();
    cargo.args([
        "test",
        "--quiet",
        "--package=memtrace-tests",
        "--tests",
        "--no-run",
        "--message-format=json",
    ]);
    let said = shell::capture(&mut cargo)?;
    said.lines()
        .filter_map(|line| binary(line).transpose())
        .collect()
}

/// The binary of an integration test, if this line is about one.
fn binary(line: &str) -> Result<Option<PathBuf>> {
    let built: Built = serde_json::from_str(line).context("cargo printed no JSON")?;
    let is_test = built.target.is_some_and(|target| target.kind == ["test"]);
    Ok(built.executable.filter(|_| is_test))
}

/// Compiles the programs; gives their paths and those of their sources, which tell the tests that they are fresh.
pub(super) fn programs() -> Result<Vec<PathBuf>> {
    let mut cargo = shell::cargo();
    cargo
        .args([
            "run",
            "--quiet",
            "--package=memtrace-tests",
            "--bin=workloads",
            "--",
        ])
        .args(PROGRAMS);
    let mut files: Vec<_> = shell::capture(&mut cargo)?
        .lines()
        .map(PathBuf::from)
        .collect();
    let sources = shell::root().join("tests/workloads");
    for entry in sources
        .read_dir()
        .with_context(|| format!("failed to list `{}`", sources.display()))?
    {
        let path = entry?.path();
        // The programs in Python have a folder; the guest has no Python.
        if path.is_file() {
            files.push(path);
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_integration_tests_are_taken() {
        let line =
            |kind: &str| format!(r#"{{"target":{{"kind":["{kind}"]}},"executable":"/t/x-1"}}"#);
        assert_eq!(binary(&line("test")).unwrap(), Some("/t/x-1".into()));
        assert_eq!(binary(&line("lib")).unwrap(), None);
        assert_eq!(
            binary(r#"{"reason":"build-finished","success":true}"#).unwrap(),
            None
        );
        assert!(binary("warning: no JSON").is_err());
    }
}
