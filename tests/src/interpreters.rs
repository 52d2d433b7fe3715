//! The Pythons that tests trace: pyenv's, the system's, and environments with packages.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{privilege, programs};

/// What an environment holds. A change makes environments anew.
const PACKAGES: [&str; 3] = ["flask==3.1.0", "gunicorn==23.0.0", "aiohttp==3.11.11"];
/// Times that packages are asked for.
const ATTEMPTS: u32 = 4;

/// The system's Python.
#[must_use]
pub fn system() -> PathBuf {
    PathBuf::from("/usr/bin/python3")
}

/// pyenv's Python of a version such as `3.12`; `None` when there is none, which is counted as skipped.
///
/// # Errors
///
/// Fails instead of skipping when `CI` is `true`.
pub fn pyenv(version: &str) -> Result<Option<PathBuf>> {
    let versions = root().join("versions");
    let prefix = format!("{version}.");
    let found = fs::read_dir(&versions)
        .into_iter()
        .flatten()
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
    let python = found.map(|entry| entry.path().join("bin/python"));
    if python.is_none() {
        let missing = format!("no Python {version} in `{}`", versions.display());
        privilege::skip(&missing)?;
    }
    Ok(python)
}

/// The libpython that belongs to one of pyenv's Pythons, such as `3.12`.
///
/// # Errors
///
/// Fails when it was built without.
pub fn library(python: &Path, version: &str) -> Result<PathBuf> {
    let lib = python
        .parent()
        .and_then(Path::parent)
        .context("no folder")?;
    let library = lib.join(format!("lib/libpython{version}.so"));
    library
        .canonicalize()
        .with_context(|| format!("no `{}`", library.display()))
}

fn root() -> PathBuf {
    env::var_os("PYENV_ROOT").map_or_else(
        || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".pyenv"),
        PathBuf::from,
    )
}

/// The folder of the programs of an environment with web servers in it, made for a Python when it is first asked for.
///
/// # Errors
///
/// Fails when packages cannot be had, with the words of pip.
pub fn with_packages(python: &Path) -> Result<PathBuf> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let name = python.to_string_lossy().replace('/', "-");
    let folder = programs::target().join(format!("environments/python{name}"));
    let (bin, label) = (folder.join("bin"), folder.join("packages"));
    let wanted = PACKAGES.join("\n");
    if fs::read_to_string(&label).is_ok_and(|held| held == wanted) {
        return Ok(bin.canonicalize()?);
    }
    let mut make = Command::new(python);
    run(make.args(["-m", "venv", "--clear"]).arg(&folder)).context(
        "an environment needs venv; for the system's Python: apt-get install python3-venv",
    )?;
    install(&bin.join("python"))?;
    fs::write(label, wanted)?;
    Ok(bin.canonicalize()?)
}

fn install(python: &Path) -> Result<()> {
    let mut attempt = 1;
    loop {
        let mut pip = Command::new(python);
        match run(pip.args(["-m", "pip", "install", "--quiet"]).args(PACKAGES)) {
            Ok(()) => return Ok(()),
            Err(error) if attempt == ATTEMPTS => return Err(error),
            Err(_) => thread::sleep(Duration::from_secs(5) * attempt),
        }
        attempt += 1;
    }
}

fn run(command: &mut Command) -> Result<()> {
    let done = command.stdin(Stdio::null()).output();
    let done = done.with_context(|| format!("failed to run {command:?}"))?;
    if !done.status.success() {
        let words = String::from_utf8_lossy(&done.stderr);
        bail!("{command:?} failed:\n{words}");
    }
    Ok(())
}
