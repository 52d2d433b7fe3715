//! The interpreters that are asked: CPython 3.8 to 3.13 of pyenv, and the system's.
//!
//! `MEMTRACE_PYTHONS` names further ones, with colons between them.

use std::{
    env, fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Mutex,
    thread,
};

/// Minor versions that must be there.
const REQUIRED: std::ops::RangeInclusive<u32> = 8..=13;
const SYSTEM: &str = "/usr/bin/python3";

/// Does something with every interpreter, as many at a time as there are processors; results are in order.
pub(crate) fn each<T: Send>(task: impl Fn(&Path) -> T + Sync) -> Vec<(PathBuf, T)> {
    let rest = Mutex::new(all().into_iter().enumerate());
    let done = Mutex::new(Vec::new());
    let work = || {
        loop {
            let next = rest.lock().unwrap().next();
            let Some((number, python)) = next else { break };
            let result = task(&python);
            done.lock().unwrap().push((number, python, result));
        }
    };
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .for_each(|worker| worker.join().unwrap());
    });
    let mut done = done.into_inner().unwrap();
    done.sort_by_key(|(number, ..)| *number);
    done.into_iter()
        .map(|(_, python, result)| (python, result))
        .collect()
}

/// Starts a script of this folder, with pipes to it.
pub(crate) fn start(python: &Path, script: &str) -> Child {
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/python")
        .join(script);
    Command::new(python)
        .args(["-I", "-B", "-W", "ignore"])
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", python.display()))
}

/// Every interpreter. A missing one is said past the test runner's capture, and in CI it fails the test.
fn all() -> Vec<PathBuf> {
    let versions = pyenv().join("versions");
    let mut found = Vec::new();
    let mut missing = Vec::new();
    for minor in REQUIRED {
        match pythons(&versions, minor) {
            pythons if pythons.is_empty() => {
                missing.push(format!("3.{minor} in {}", versions.display()))
            }
            pythons => found.extend(pythons),
        }
    }
    match Path::new(SYSTEM) {
        system if system.exists() => found.push(system.to_owned()),
        _ => missing.push(SYSTEM.to_owned()),
    }
    let further = env::var_os("MEMTRACE_PYTHONS").unwrap_or_default();
    found.extend(env::split_paths(&further).filter(|path| path.exists()));
    if !missing.is_empty() {
        let missing = missing.join(", ");
        assert!(env::var("CI").is_err(), "CI lacks Python {missing}");
        let test = thread::current().name().unwrap_or("?").to_owned();
        let mut terminal = std::io::stderr();
        writeln!(terminal, "SKIPPED {test} for a part: no Python {missing}").unwrap();
    }
    found
}

fn pyenv() -> PathBuf {
    env::var_os("PYENV_ROOT").map_or_else(
        || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".pyenv"),
        PathBuf::from,
    )
}

/// The interpreters of 3.`minor`.
fn pythons(versions: &Path, minor: u32) -> Vec<PathBuf> {
    let prefix = format!("3.{minor}.");
    let folders = fs::read_dir(versions).into_iter().flatten().flatten();
    let folders =
        folders.filter(|folder| folder.file_name().to_string_lossy().starts_with(&prefix));
    let mut found: Vec<PathBuf> = folders
        .map(|folder| folder.path().join("bin/python"))
        .filter(|python| python.exists())
        .collect();
    found.sort();
    found
}
