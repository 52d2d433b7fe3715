//! Real interpreters, which say themselves what their frames are.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::Arc,
};

use crate::{
    ids::Pid,
    python::{
        Refusal,
        image::{self, PythonImage},
        runtime::{Runtime, Unfound, find},
    },
    target::{maps, object::Object, store::ObjectStore},
    unwind::mappings::bias,
};

/// The interpreters of this machine: pyenv's, the system's, and those that `MEMTRACE_PYTHONS` lists (a path like `PATH`).
pub(in crate::python) fn interpreters() -> Vec<PathBuf> {
    let pyenv = std::env::var_os("PYENV_ROOT").map_or_else(
        || Path::new(&std::env::var_os("HOME").unwrap_or_default()).join(".pyenv"),
        PathBuf::from,
    );
    let versions = std::fs::read_dir(pyenv.join("versions"));
    let mut found: Vec<PathBuf> = versions
        .into_iter()
        .flatten()
        .map(|version| version.unwrap().path().join("bin/python"))
        .collect();
    found.push("/usr/bin/python3".into());
    let more = std::env::var_os("MEMTRACE_PYTHONS").unwrap_or_default();
    found.extend(std::env::split_paths(&more).filter(|path| path.is_absolute()));
    found.retain(|path| path.exists());
    assert!(!found.is_empty(), "no Python is installed");
    found.sort();
    found
}

/// The series of an interpreter, as it says itself.
pub(in crate::python) fn series(interpreter: &Path) -> (u8, u8) {
    let program = "import sys; print('%d %d' % sys.version_info[:2])";
    let output = Command::new(interpreter).args(["-c", program]).output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    let (major, minor) = text.trim().split_once(' ').unwrap();
    (major.parse().unwrap(), minor.parse().unwrap())
}

/// Interpreters whose frames can be told.
pub(in crate::python) fn supported() -> Vec<PathBuf> {
    let mut all = interpreters();
    all.retain(|interpreter| series(interpreter) >= (3, 8));
    assert!(!all.is_empty(), "no Python 3.8 or newer is installed");
    all
}

/// A running program that has said what there is to say, and waits for a line.
pub(in crate::python) struct Program {
    child: Child,
    /// Kept open: programs end with it.
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Program {
    pub(in crate::python) fn start(interpreter: &Path, text: &str) -> Self {
        Self::run(Command::new(interpreter).args(["-c", text]))
    }

    pub(in crate::python) fn run(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self {
            input: child.stdin.take().unwrap(),
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    pub(in crate::python) fn pid(&self) -> Pid {
        Pid(self.child.id())
    }

    pub(in crate::python) fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line
    }

    /// Lets it go on.
    pub(in crate::python) fn tell(&mut self) {
        self.input.write_all(b"\n").unwrap();
    }

    pub(in crate::python) fn find(&self) -> Result<Runtime, Unfound> {
        let python = python_of(self.pid()).expect("it maps a Python");
        find(self.pid(), &python.object, python.bias, &python.image?)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _waited = self.child.wait();
    }
}

/// The Python that a process maps.
pub(in crate::python) struct Mapped {
    pub(in crate::python) object: Arc<Object>,
    pub(in crate::python) bias: u64,
    pub(in crate::python) image: Result<PythonImage, Refusal>,
}

pub(in crate::python) fn python_of(pid: Pid) -> Option<Mapped> {
    let mut store = ObjectStore::new(64);
    let mappings = maps::read(pid).unwrap();
    mappings
        .iter()
        .filter(|mapping| mapping.access.execute)
        .find_map(|mapping| {
            let object = store.object_of(pid, mapping)?;
            let image = image::find(&object)?;
            let bias = bias(mapping, object.elf.as_ref().ok()?)?;
            Some(Mapped {
                object,
                bias,
                image,
            })
        })
}

/// The object of a file that no process maps.
pub(in crate::python) fn object_of(path: &Path) -> Object {
    let file = std::fs::File::open(path).unwrap();
    let key = memtrace_common::unwind::FileKey::default();
    Object::new(crate::ids::ObjectId(1), key, path.to_owned(), Ok(file))
}

/// What a program says: frames by thread, the innermost first, and states.
#[derive(Debug, serde::Deserialize)]
pub(in crate::python) struct Truth {
    pub(in crate::python) frames: BTreeMap<u64, Vec<(u64, i64)>>,
    #[serde(default)]
    pub(in crate::python) states: BTreeMap<u64, u64>,
}
