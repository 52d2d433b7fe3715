//! The workload programs: where their sources are, and how each is compiled.
//!
//! They are compiled when a test first asks for them, into `target/workloads`, and again when a source is newer. All
//! are built without frame pointers and without debug information, as distributions build.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use anyhow::{Context as _, Result, bail, ensure};

/// How a program is linked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Link {
    /// Against the system's C library.
    #[default]
    Dynamic,
    /// With the C library inside.
    Static,
    /// With musl inside.
    Musl,
    /// Against a shared musl.
    MuslDynamic,
    /// A shared object, to be loaded or preloaded.
    Shared,
}

/// `-fno-builtin`: a compiler that knows malloc removes pairs of calls. `reallocarray` is only pulled into a static
/// program when asked for, since the programs take it as it comes (weak).
const COMMON: [&str; 7] = [
    "-O2",
    "-g0",
    "-fomit-frame-pointer",
    "-fno-builtin",
    "-Wall",
    "-Wextra",
    "-pthread",
];

impl Link {
    fn suffix(self) -> &'static str {
        match self {
            Self::Dynamic => "",
            Self::Static => ".static",
            Self::Musl => ".musl",
            Self::MuslDynamic => ".musl-shared",
            Self::Shared => ".so",
        }
    }

    fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Dynamic | Self::MuslDynamic => &["-ldl"],
            Self::Static => &["-static", "-Wl,-u,reallocarray"],
            Self::Musl => &["-static"],
            Self::Shared => &["-shared", "-fPIC"],
        }
    }

    fn compiler(self, source: &Path) -> (&'static str, &'static str) {
        match (
            self,
            source.extension().and_then(|extension| extension.to_str()),
        ) {
            (Self::Musl | Self::MuslDynamic, _) => ("musl-gcc", "apt-get install musl-tools"),
            (_, Some("cpp")) => ("g++", "apt-get install g++"),
            (_, Some("rs")) => ("rustc", "install Rust with rustup"),
            _ => ("gcc", "apt-get install gcc libc6-dev"),
        }
    }
}

/// The folder of the sources.
#[must_use]
pub fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads")
}

/// The folder that cargo builds into.
#[must_use]
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(target) => PathBuf::from(target),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
    }
}

/// Compiles a program if it is not there yet, and gives its path.
///
/// # Errors
///
/// Fails when there is no such source, when the compiler is missing (with what to install), and with the compiler's
/// own words when it refuses.
pub fn build(name: &str, link: Link) -> Result<PathBuf> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let source = ["c", "cpp", "rs"]
        .map(|extension| sources().join(name).with_extension(extension))
        .into_iter()
        .find(|path| path.exists())
        .with_context(|| format!("there is no workload `{name}` in {}", sources().display()))?;
    let folder = target().join("workloads");
    fs::create_dir_all(&folder)?;
    let folder = folder.canonicalize()?;
    let output = folder.join(format!("{name}{}", link.suffix()));
    if is_newer(&output, &source) && is_newer(&output, &sources().join("truth.h")) {
        return Ok(output);
    }
    // Another test binary may be at it too: whoever renames last wins, and both are whole.
    let fresh = folder.join(format!(".{name}{}.{}", link.suffix(), std::process::id()));
    compile(&source, link, &fresh)?;
    fs::rename(&fresh, &output)?;
    Ok(output)
}

fn is_newer(output: &Path, source: &Path) -> bool {
    let time = |path: &Path| {
        fs::metadata(path)
            .and_then(|data| data.modified())
            .unwrap_or(SystemTime::UNIX_EPOCH)
    };
    output.exists() && time(output) > time(source)
}

fn compile(source: &Path, link: Link, output: &Path) -> Result<()> {
    let (compiler, remedy) = link.compiler(source);
    let mut command = Command::new(compiler);
    if compiler == "rustc" {
        command
            .args([
                "--edition=2024",
                "-Copt-level=3",
                "-Cforce-frame-pointers=no",
            ])
            .arg(source);
    } else {
        command.args(COMMON).arg(source).args(link.flags());
    }
    let done = match command.arg("-o").arg(output).output() {
        Ok(done) => done,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!("the workload programs need `{compiler}`, which is not installed; try: {remedy}")
        }
        Err(error) => return Err(error).context(format!("failed to run `{compiler}`")),
    };
    ensure!(
        done.status.success(),
        "`{compiler}` refused {}:\n{}",
        source.display(),
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(())
}
