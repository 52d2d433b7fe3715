//! The interpreter for the comparison with memray: a virtual environment with fixed versions of what is compared.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::shell;

/// What is compared on what. memray brings what it needs; pyperformance is only a folder of benchmarks here.
const MEMRAY: &str = "memray==1.20.0";
const PYPERFORMANCE: &str = "pyperformance==1.14.0";

/// The distribution's interpreter.
const SYSTEM: &str = "/usr/bin/python3";

/// The interpreter of the environment for `base`, which is made when it is not there yet.
pub(crate) fn environment(base: &Path) -> Result<PathBuf> {
    let version = shell::capture(Command::new(base).arg("--version"))?;
    let name = format!("bench-{}", version.trim().replace(' ', "-").to_lowercase());
    let folder = shell::target_dir().join(name);
    if !folder.exists() {
        shell::say(&format!(
            "making an environment with {MEMRAY} and {PYPERFORMANCE}"
        ));
        let fresh = folder.with_extension(std::process::id().to_string());
        shell::run(Command::new(base).args(["-m", "venv"]).arg(&fresh))?;
        install(&fresh, &[MEMRAY])?;
        install(&fresh, &["--no-deps", PYPERFORMANCE])?;
        fs::rename(&fresh, &folder)?;
    }
    Ok(interpreter(&folder))
}

fn install(folder: &Path, what: &[&str]) -> Result<()> {
    // Not by the `pip` script, which holds the path that the folder has only now.
    let words = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ];
    shell::retry(|| shell::run(Command::new(interpreter(folder)).args(words).args(what)))
}

fn interpreter(folder: &Path) -> PathBuf {
    folder.join("bin/python")
}

/// Every interpreter that pyenv has for CPython 3.8 and newer, oldest first, and the system's.
pub(crate) fn all() -> Vec<PathBuf> {
    let mut found: Vec<([u32; 3], PathBuf)> = Vec::new();
    for entry in pyenv()
        .and_then(|folder| fs::read_dir(folder).ok())
        .into_iter()
        .flatten()
        .flatten()
    {
        let version = entry.file_name();
        let path = entry.path().join("bin/python3");
        if let Some(version) = version
            .to_str()
            .and_then(parse)
            .filter(|version| *version >= [3, 8, 0])
            && path.exists()
        {
            found.push((version, path));
        }
    }
    found.sort();
    let found = found.into_iter().map(|(_, path)| path);
    let system = PathBuf::from(SYSTEM);
    found.chain(system.exists().then_some(system)).collect()
}

/// The interpreter to compare on: the one named, or a 3.12.
pub(crate) fn base(named: Option<&PathBuf>) -> Result<PathBuf> {
    if let Some(path) = named {
        return Ok(path.clone());
    }
    let of_pyenv = all()
        .into_iter()
        .find(|path| path.to_string_lossy().contains("/3.12."));
    of_pyenv
        .or_else(|| shell::find("python3.12"))
        .context("no Python 3.12, neither of pyenv nor in PATH; name an interpreter with --python")
}

fn pyenv() -> Option<PathBuf> {
    let root = env::var_os("PYENV_ROOT").map(PathBuf::from);
    let root = root.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".pyenv")));
    Some(root?.join("versions"))
}

/// Reads `3.12.1`.
fn parse(name: &str) -> Option<[u32; 3]> {
    let mut numbers = name.splitn(3, '.').map(str::parse);
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
    fn versions_are_ordered_by_number() {
        assert_eq!(parse("3.12.1"), Some([3, 12, 1]));
        assert!(parse("3.9.18") < parse("3.10.2"));
        assert_eq!(parse("miniconda3-4.7"), None);
    }
}
