//! What this machine and this user allow, as far as files of /proc and /sys tell. What only a trial can tell is tried
//! by [`probe`](crate::probe).

mod checks;
mod privilege;

use std::{
    io,
    path::{Path, PathBuf},
};

pub use self::{
    checks::checks,
    privilege::{Capability, Privileges},
};

/// One thing that tracing needs, and whether it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it is.
    pub verdict: Verdict,
    /// What was found.
    pub detail: String,
    /// What to type or change; nothing when all is well.
    pub remedy: Option<String>,
}

/// Whether tracing can do with what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As wanted.
    Ok,
    /// Tracing works, but worse.
    Degraded,
    /// Tracing does not work.
    Missing,
}

impl Check {
    /// All is well.
    #[must_use]
    pub fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self {
            name,
            verdict: Verdict::Ok,
            detail: detail.into(),
            remedy: None,
        }
    }

    /// It works, but worse.
    #[must_use]
    pub fn degraded(
        name: &'static str,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            name,
            verdict: Verdict::Degraded,
            detail: detail.into(),
            remedy: Some(remedy.into()),
        }
    }

    /// It does not work.
    #[must_use]
    pub fn missing(
        name: &'static str,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            name,
            verdict: Verdict::Missing,
            detail: detail.into(),
            remedy: Some(remedy.into()),
        }
    }
}

/// The files of a machine.
#[derive(Clone, Debug)]
pub struct System {
    root: PathBuf,
}

impl System {
    /// The machine this runs on.
    #[must_use]
    pub fn here() -> Self {
        Self::at("/")
    }

    /// The machine whose /proc and /sys lie under a folder.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Release and version of the kernel.
    #[must_use]
    pub fn kernel_release(&self) -> Option<(String, (u32, u32))> {
        let release = self.text("/proc/sys/kernel/osrelease").ok()?;
        let mut numbers = release
            .split(['.', '-'])
            .map_while(|word| word.parse().ok());
        let version = (numbers.next()?, numbers.next()?);
        Some((release, version))
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// A file's text without surrounding white space.
    fn text(&self, path: &str) -> io::Result<String> {
        Ok(std::fs::read_to_string(self.path(path))?.trim().to_owned())
    }

    fn has(&self, path: impl AsRef<Path>) -> bool {
        self.path(&path.as_ref().to_string_lossy()).exists()
    }
}
