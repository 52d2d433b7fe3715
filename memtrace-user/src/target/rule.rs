//! Which processes are traced: the rules a user has given, and whether a process falls under them. Pure.

use std::path::{Path, PathBuf};

use globset::{Glob, GlobMatcher};

use crate::ids::Pid;

/// One selector; a process is selected when any rule takes it.
#[derive(Clone, Debug)]
pub enum Rule {
    /// This process.
    Pid(Pid),
    /// Processes of this command name.
    Comm(CommPattern),
    /// Processes in this cgroup or below, relative to the hierarchy's root.
    Cgroup(PathBuf),
    /// Processes that run a CPython.
    Python,
    /// Every process.
    All,
}

/// What rules ask of a process.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Its id.
    pub pid: Pid,
    /// Its command name.
    pub comm: &'a str,
    /// Its cgroup, when a rule asks for it.
    pub cgroup: Option<&'a Path>,
    /// Whether it runs a CPython, when a rule asks for it.
    pub runs_python: bool,
}

/// A command name as a user writes it.
///
/// A plain name takes itself and its versioned forms: `python` takes `python3` and `python3.12`, not `python-config`. With
/// `*`, `?` or `[` it is a glob over the whole name.
#[derive(Clone, Debug)]
pub struct CommPattern {
    text: String,
    glob: Option<GlobMatcher>,
}

/// The kernel keeps this many bytes of a command name.
const COMM_BYTES: usize = 15;

impl CommPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// When it is a glob that does not parse.
    pub fn new(text: &str) -> Result<Self, globset::Error> {
        let is_glob = text.contains(['*', '?', '[']);
        let glob = is_glob
            .then(|| Glob::new(text))
            .transpose()?
            .map(|glob| glob.compile_matcher());
        Ok(Self {
            text: text.to_owned(),
            glob,
        })
    }

    /// Whether a process of this name is meant.
    #[must_use]
    pub fn matches(&self, comm: &str) -> bool {
        if let Some(glob) = &self.glob {
            return glob.is_match(comm);
        }
        if self.text.len() > COMM_BYTES && comm.len() == COMM_BYTES {
            // The kernel has cut the name.
            return self.text.starts_with(comm);
        }
        comm.strip_prefix(self.text.as_str())
            .is_some_and(is_version)
    }
}

impl std::fmt::Display for CommPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// Nothing, or a number with dots: `3`, `3.12`, also with a dot or a dash before it (`.12`, `-3.12`).
fn is_version(rest: &str) -> bool {
    let number = rest.strip_prefix(['.', '-']).unwrap_or(rest);
    rest.is_empty()
        || number.starts_with(|c: char| c.is_ascii_digit())
            && number.chars().all(|c| c.is_ascii_digit() || c == '.')
}

impl Rule {
    /// Whether the rule takes the process.
    #[must_use]
    pub fn takes(&self, process: &Candidate<'_>) -> bool {
        match self {
            Self::Pid(only) => *only == process.pid,
            Self::Comm(pattern) => pattern.matches(process.comm),
            Self::Cgroup(path) => process
                .cgroup
                .is_some_and(|cgroup| cgroup.starts_with(path)),
            Self::Python => process.runs_python,
            Self::All => true,
        }
    }

    /// Whether processes that start later may fall under it.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !matches!(self, Self::Pid(_))
    }
}

/// As it was typed.
impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pid(pid) => write!(f, "--pid {pid}"),
            Self::Comm(pattern) => write!(f, "--comm {pattern}"),
            Self::Cgroup(path) => write!(f, "--cgroup {}", path.display()),
            Self::Python => f.write_str("--python"),
            Self::All => f.write_str("--all"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, comm: &str) -> bool {
        CommPattern::new(pattern)
            .expect("a valid pattern")
            .matches(comm)
    }

    #[test]
    fn a_name_takes_itself_and_its_versioned_forms() {
        for comm in [
            "python",
            "python3",
            "python3.12",
            "python3.13.0",
            "python-3.9",
        ] {
            assert!(matches("python", comm), "{comm}");
        }
        for comm in [
            "python-config",
            "python3.12-dbg",
            "pythonista",
            "ipython",
            "python.",
            "Python",
        ] {
            assert!(!matches("python", comm), "{comm}");
        }
        assert!(!matches("python3.12", "python3.1"));
        assert!(matches("python3", "python3.1"));
    }

    #[test]
    fn globs_match_the_whole_name() {
        assert!(matches("py*", "pypy3"));
        assert!(matches("worker-[0-9]", "worker-7"));
        assert!(!matches("worker-[0-9]", "worker-77"));
        assert!(!matches("*redis", "redis-server"));
        assert!(CommPattern::new("a[").is_err());
    }

    #[test]
    fn a_name_the_kernel_has_cut_still_matches() {
        assert!(matches("a-very-long-command-name", "a-very-long-com"));
        assert!(!matches("a-very-long-command-name", "a-very-long-cat"));
    }

    #[test]
    fn a_cgroup_takes_what_lies_below_it() {
        let rule = Rule::Cgroup("/system.slice/app".into());
        let takes = |cgroup: Option<&str>| {
            rule.takes(&Candidate {
                pid: Pid(1),
                comm: "x",
                cgroup: cgroup.map(Path::new),
                runs_python: false,
            })
        };
        assert!(takes(Some("/system.slice/app")));
        assert!(takes(Some("/system.slice/app/worker")));
        assert!(!takes(Some("/system.slice/application")));
        assert!(!takes(None));
    }
}
