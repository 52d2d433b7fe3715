//! The interpreters that are tested: CPython 3.8 to 3.13 of pyenv, the system's, and those that `MEMTRACE_PYTHONS` lists with
//! colons between them.
//!
//! pyenv's get a virtual environment with greenlet each, below the target folder, once.

use std::{
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Result, ensure};

use crate::{privilege, programs};

/// Minor versions of pyenv that must be there.
const REQUIRED: std::ops::RangeInclusive<u32> = 8..=13;
const SYSTEM: &str = "/usr/bin/python3";
/// Times that greenlet is asked for.
const ATTEMPTS: usize = 3;

/// An interpreter.
#[derive(Clone, Debug)]
pub struct Interpreter {
    /// What it is called in tables.
    pub name: String,
    /// Its executable.
    pub path: PathBuf,
    /// The same with greenlet, where that could be had.
    pub with_greenlet: Option<PathBuf>,
}

/// Every interpreter. What is missing is said past the test runner's capture.
///
/// # Errors
///
/// Fails when there is none; in CI, when one is missing.
pub fn all() -> Result<Vec<Interpreter>> {
    let versions = pyenv().join("versions");
    let mut found = Vec::new();
    for minor in REQUIRED {
        match of_pyenv(&versions, minor) {
            Some(interpreter) => found.push(interpreter),
            None => privilege::skip(&format!("no Python 3.{minor} in {}", versions.display()))?,
        }
    }
    let further = env::var_os("MEMTRACE_PYTHONS").unwrap_or_default();
    let others = env::split_paths(&further).filter(|path| path.is_absolute());
    let others = std::iter::once(PathBuf::from(SYSTEM)).chain(others);
    for path in others.filter(|path| path.exists()) {
        let name = path
            .file_name()
            .unwrap_or(OsStr::new("?"))
            .to_string_lossy();
        found.push(Interpreter {
            name: name.into_owned(),
            path,
            with_greenlet: None,
        });
    }
    ensure!(!found.is_empty(), "no Python is installed");
    Ok(found)
}

/// One of pyenv's, of the version 3.`minor`.
///
/// # Errors
///
/// Fails in CI when there is none.
pub fn one(minor: u32) -> Result<Option<Interpreter>> {
    let found = of_pyenv(&pyenv().join("versions"), minor);
    if found.is_none() {
        privilege::skip(&format!("no Python 3.{minor}"))?;
    }
    Ok(found)
}

fn pyenv() -> PathBuf {
    env::var_os("PYENV_ROOT").map_or_else(
        || Path::new(&env::var_os("HOME").unwrap_or_default()).join(".pyenv"),
        PathBuf::from,
    )
}

/// The newest interpreter of 3.`minor`.
fn of_pyenv(versions: &Path, minor: u32) -> Option<Interpreter> {
    let prefix = format!("3.{minor}.");
    let folders = fs::read_dir(versions).into_iter().flatten().flatten();
    let names = folders.filter_map(|folder| folder.file_name().into_string().ok());
    let name = names
        .filter(|name| name.starts_with(&prefix))
        .max_by_key(|name| name[prefix.len()..].parse::<u32>().ok())?;
    let path = versions.join(&name).join("bin/python");
    path.exists().then(|| Interpreter {
        with_greenlet: greenlet(&path, &name),
        path,
        name,
    })
}

/// The interpreter of a virtual environment with greenlet; none when that cannot be had.
fn greenlet(python: &Path, version: &str) -> Option<PathBuf> {
    let folder = programs::target().join("greenlets").join(version);
    let inside = folder.join("bin/python");
    let succeeds = |program: &Path, args: &[&OsStr]| {
        let mut command = Command::new(program);
        command
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let has_it = || succeeds(&inside, &["-c", "import greenlet"].map(OsStr::new));
    let make = || {
        let environment = ["-m", "venv"].map(OsStr::new);
        let install = ["-m", "pip", "install", "--only-binary", ":all:", "greenlet"];
        succeeds(python, &[&environment[..], &[folder.as_os_str()]].concat())
            && succeeds(&inside, &install.map(OsStr::new))
            && has_it()
    };
    (has_it() || (0..ATTEMPTS).any(|_| make())).then_some(inside)
}
