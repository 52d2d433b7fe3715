//! The workload programs: where their sources are, and how each is compiled.
//!
//! They are compiled when a test first asks for them, into `target/workloads`, and again when a source is newer. All
//! are built without frame pointers and without debug information, as distributions build.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use anyhow::{Context as _, Result};

use crate::compile;

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
    /// Dynamically, with jemalloc inside the executable.
    Jemalloc,
    /// The same, but jemalloc's functions have names of their own (`je_malloc`), which the program calls.
    PrefixedJemalloc,
    /// Dynamically, with debug information.
    Debug,
    /// The same, but the debug information is in a file of its own, `NAME.debug`, which the program names.
    DebugLink,
}

impl Link {
    fn suffix(self) -> &'static str {
        match self {
            Self::Dynamic => "",
            Self::Static => ".static",
            Self::Musl => ".musl",
            Self::MuslDynamic => ".musl-shared",
            Self::Shared => ".so",
            Self::Jemalloc => ".jemalloc",
            Self::PrefixedJemalloc => ".je",
            Self::Debug => ".g",
            Self::DebugLink => ".debuglink",
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
    let file = format!("{name}{}", link.suffix());
    let output = folder.join(&file);
    if is_newer(&output, &source) && is_newer(&output, &sources().join("truth.h")) {
        return Ok(output);
    }
    // Another test binary may be at it too: whoever renames last wins, and every file is whole.
    let fresh = tempfile::Builder::new().prefix(".").tempdir_in(&folder)?;
    compile::compile(&source, link, &fresh.path().join(&file))?;
    for made in fs::read_dir(fresh.path())? {
        let made = made?;
        fs::rename(made.path(), folder.join(made.file_name()))?;
    }
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
