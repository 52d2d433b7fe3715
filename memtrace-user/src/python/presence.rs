//! Whether a process runs a CPython, for processes that are not traced.
//!
//! What it maps is read, and of the files that may hold one (its program, and whatever has `python` in its name) the
//! symbols, once for each file. No file is kept open.

use std::{collections::HashMap, ffi::OsStr, os::unix::ffi::OsStrExt as _, path::Path};

use memtrace_common::unwind::FileKey;

use super::image;
use crate::{
    ids::Pid,
    target::{
        maps::{self, Backing, Mapping},
        procfs,
        store::ObjectStore,
    },
};

/// Files that are remembered; all are forgotten when there are more.
const MAX_FILES: usize = 16_384;

/// What is known of files.
#[derive(Debug, Default)]
pub struct Presence {
    files: HashMap<(u64, u64), bool>,
}

impl Presence {
    /// Whether the process maps a CPython now. `false` also when it is gone, or may not be looked at.
    pub fn is_in(&mut self, pid: Pid) -> bool {
        let exe = procfs::exe(pid);
        let mappings = maps::read(pid).unwrap_or_default();
        mappings
            .iter()
            .filter(|mapping| mapping.access.execute && mapping.backing() == Backing::File)
            .filter(|mapping| may_hold(&mapping.path, exe.as_deref()))
            .any(|mapping| self.holds(pid, mapping))
    }

    fn holds(&mut self, pid: Pid, mapping: &Mapping) -> bool {
        let FileKey { dev, ino } = mapping.key;
        if let Some(known) = self.files.get(&(dev, ino)) {
            return *known;
        }
        // A store of its own, gone after this: the file is closed again.
        let object = ObjectStore::new(1).object_of(pid, mapping);
        let Some(object) = object.filter(|object| !object.is_unopened()) else {
            return false;
        };
        let holds = image::find(&object).is_some();
        if self.files.len() == MAX_FILES {
            self.files.clear();
        }
        self.files.insert((dev, ino), holds);
        holds
    }
}

fn may_hold(path: &Path, exe: Option<&Path>) -> bool {
    let name = path.file_name().map_or(&[][..], OsStr::as_bytes);
    exe == Some(path) || name.windows(b"python".len()).any(|part| part == b"python")
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_python_is_told_from_what_is_none() {
        let mut python = Command::new("python3")
            .args(["-c", "print(flush=True); input()"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is there");
        let mut line = [0];
        let out = python.stdout.as_mut().expect("its output is a pipe");
        std::io::Read::read_exact(out, &mut line).expect("it says that it runs");
        let mut presence = Presence::default();
        let seen = presence.is_in(Pid(python.id()));
        python.kill().expect("it runs");
        python.wait().expect("it was killed");
        assert!(seen);
        assert!(!presence.is_in(Pid(std::process::id())));
        assert!(!presence.is_in(Pid(u32::MAX)));
    }
}
