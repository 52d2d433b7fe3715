//! Places of the workspace and commands of the system, as every verb uses them.

use std::{
    env,
    ffi::OsString,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

/// Attempts of whatever needs the network.
const ATTEMPTS: u32 = 3;

/// The workspace's top directory.
pub(crate) fn root() -> PathBuf {
    let package =
        env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let package = PathBuf::from(package);
    package.parent().map_or(package.clone(), Path::to_path_buf)
}

/// Where cargo puts what it builds.
pub(crate) fn target_dir() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// The release binary.
pub(crate) fn memtrace() -> PathBuf {
    target_dir().join("release/memtrace")
}

/// The cargo that runs this, in the workspace's top directory.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    cargo
}

/// `program` with root's rights: through sudo only when this process has not got them.
pub(crate) fn as_root(program: &str) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut sudo = Command::new("sudo");
    sudo.arg(program);
    sudo
}

/// Lets a cargo command, which stays an ordinary user's, start the binaries that it builds with root's rights and with
/// these variables. sudo drops the environment, so they are named again.
pub(crate) fn start_as_root<'a>(
    cargo: &'a mut Command,
    environment: &[(&str, OsString)],
) -> &'a mut Command {
    if !is_root() {
        let words = environment
            .iter()
            .map(|(name, value)| format!(", '{name}={}'", value.display()));
        let words: String = words.collect();
        cargo.arg(format!(
            "--config=target.x86_64-unknown-linux-gnu.runner=['sudo', 'env'{words}]"
        ));
    }
    cargo.envs(environment.iter().map(|(name, value)| (name, value)))
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0)
}

/// Whether this is a CI run, where nothing may be left out.
pub(crate) fn is_ci() -> bool {
    env::var("CI").is_ok_and(|ci| ci == "true" || ci == "1")
}

/// Where `program` is found in `PATH`.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// Runs a command on this terminal and fails when it does.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("failed to start {}", shown(command)))?;
    if !status.success() {
        bail!("{} failed ({status})", shown(command));
    }
    Ok(())
}

/// Runs a command and returns what it wrote to its standard output.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("failed to start {}", shown(command)))?;
    if !output.status.success() {
        bail!("{} failed ({})", shown(command), output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("{} wrote no text", shown(command)))
}

/// Tries what needs the network a few times, because mirrors and registries stumble.
pub(crate) fn retry<T>(mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    for number in 1..ATTEMPTS {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) => say(&format!(
                "attempt {number} of {ATTEMPTS}: {error:#}; trying again"
            )),
        }
        thread::sleep(Duration::from_secs(u64::from(number) * 3));
    }
    attempt()
}

/// Says what is about to be done.
pub(crate) fn say(what: &str) {
    eprintln!("xtask: {what}");
}

/// A command as a reader would type it.
fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    format!("`{}`", words.join(" "))
}
