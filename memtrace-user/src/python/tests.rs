//! Oracles: CPython's own `sys._current_frames()`, and what it says of its version.

mod files;
mod hostile;
pub(super) mod processes;

use std::{
    process::Command,
    time::{Duration, Instant},
};

use memtrace_common::python::{PYTHON_INTERPRETERS, PYTHON_VERIFY};

use self::processes::{Program, Truth, interpreters, object_of, python_of, series, supported};
use super::{
    Refusal, eval,
    file::{File, Place},
    image,
    memory::{Memory as _, ProcessMemory},
    runtime::{Reach, Unfound},
    walk::{self, walk},
};
use crate::target::symbols::Symbols;

const THREADS: &str = include_str!("tests/threads.py");
const INTERPRETERS: &str = include_str!("tests/interpreters.py");
const BUSY: &str = include_str!("tests/busy.py");
const WAITING: &str = "import sys; print('begun', flush=True); sys.stdin.readline()";

#[test]
fn every_thread_of_every_version_has_the_frames_it_says() {
    for interpreter in supported() {
        let name = interpreter.display();
        let mut program = Program::start(&interpreter, THREADS);
        let truth: Truth = serde_json::from_str(&program.line()).unwrap();
        let runtime = program
            .find()
            .unwrap_or_else(|reason| panic!("{name}: {reason}"));
        assert_eq!(
            (runtime.version.major, runtime.version.minor),
            series(&interpreter)
        );
        assert!(!runtime.provisional && !runtime.is_cut, "{name}");
        assert_eq!(runtime.interpreters, 1, "{name}");
        assert_eq!(runtime.threads.len(), truth.frames.len() + 1, "{name}");
        assert_eq!(runtime.reach, Reach::Always, "{name}");
        let memory = ProcessMemory(program.pid());
        let mut compared = 0;
        for thread in &runtime.threads {
            let own = thread
                .pointer
                .wrapping_add_signed(runtime.python.own_slot.into());
            assert_eq!(memory.word(own).unwrap(), thread.state, "{name}");
            if let Some(state) = truth
                .states
                .get(&thread.pointer)
                .filter(|state| **state != 0)
            {
                assert_eq!(thread.state, *state, "{name}");
            }
            let Some(expected) = truth.frames.get(&thread.pointer) else {
                continue;
            };
            let stack = walk(&memory, &runtime.python, thread.state).unwrap();
            let frames: Vec<(u64, i64)> = stack
                .frames
                .iter()
                .map(|frame| (frame.code, frame.lasti))
                .collect();
            let walked = expected.len().min(walk::MAX_FRAMES);
            assert_eq!(stack.is_whole, expected.len() == frames.len(), "{name}");
            assert!(stack.is_whole || frames.len() >= walked / 2, "{name}");
            assert_eq!(frames, expected[..frames.len()], "{name}");
            compared += 1;
        }
        assert_eq!(compared, truth.frames.len(), "{name}");
    }
}

#[test]
fn older_versions_are_named() {
    for interpreter in interpreters() {
        let version = series(&interpreter);
        if version >= (3, 8) {
            continue;
        }
        let mut program = Program::start(
            &interpreter,
            "import os; os.write(1, b'begun\\n'); os.read(0, 1)",
        );
        program.line();
        match program.find() {
            Err(Unfound::Refused(refusal @ Refusal::TooOld(told))) => {
                assert_eq!((told.major, told.minor), version);
                let words = format!("CPython {told}: Python frames need 3.8 or newer");
                assert_eq!(refusal.to_string(), words);
            }
            other => panic!("{}: {other:?}", interpreter.display()),
        }
    }
}

#[test]
fn an_interpreter_in_an_interpreter_is_walked() {
    for interpreter in supported() {
        let name = interpreter.display();
        let mut program = Program::start(&interpreter, INTERPRETERS);
        let line = program.line();
        let expected: Vec<u64> = line
            .split_whitespace()
            .map(|code| code.parse().unwrap())
            .collect();
        assert_eq!(expected.len(), 13, "{name}: {line}");
        let runtime = program
            .find()
            .unwrap_or_else(|reason| panic!("{name}: {reason}"));
        assert_eq!(runtime.interpreters, 2, "{name}");
        assert_ne!(runtime.python.flags & PYTHON_INTERPRETERS, 0, "{name}");
        let memory = ProcessMemory(program.pid());
        let found = runtime.threads.iter().any(|thread| {
            let stack = walk(&memory, &runtime.python, thread.state).unwrap();
            // Some versions have the caller's frames under those of the inner interpreter.
            stack.is_whole
                && stack
                    .frames
                    .iter()
                    .map(|frame| frame.code)
                    .take(expected.len())
                    .eq(expected.iter().copied())
        });
        assert!(found, "{name}: {runtime:?}");
    }
}

#[test]
fn a_busy_process_passes_whenever_it_is_looked_at() {
    for interpreter in supported() {
        let name = interpreter.display();
        let mut program = Program::start(&interpreter, BUSY);
        program.line();
        let mut first = None;
        for _ in 0..20 {
            let runtime = program
                .find()
                .unwrap_or_else(|reason| panic!("{name}: {reason}"));
            assert_eq!(runtime.reach, Reach::Always, "{name}");
            let own = *first.get_or_insert(runtime.python.own_slot);
            assert_eq!(runtime.python.own_slot, own, "{name}");
        }
    }
}

#[test]
fn from_the_first_moment_on_nothing_is_refused() {
    for interpreter in supported() {
        let name = interpreter.display();
        let program = Program::start(&interpreter, WAITING);
        let begun = Instant::now();
        let runtime = loop {
            assert!(begun.elapsed() < Duration::from_secs(20), "{name}");
            match python_of(program.pid()).map(|_| program.find()) {
                Some(Ok(runtime)) if !runtime.provisional => break runtime,
                Some(Ok(runtime)) => assert_ne!(runtime.python.flags & PYTHON_VERIFY, 0),
                Some(Err(Unfound::NotYet)) | None => {}
                Some(Err(reason)) => panic!("{name}: {reason}"),
            }
        };
        assert_ne!(runtime.python.own_slot, 0, "{name}");
    }
}

/// A program that loads libpython when it runs.
#[test]
fn an_embedded_python_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let embed = folder.path().join("embed");
    let source = folder.path().join("embed.c");
    std::fs::write(&source, include_str!("tests/embed.c")).unwrap();
    let compiled = Command::new("cc")
        .args(["-O1", "-pthread", "-o"])
        .args([&embed, &source])
        .arg("-ldl")
        .status();
    assert!(compiled.unwrap().success());
    let mut embedded = 0;
    for interpreter in supported() {
        let name = interpreter.display();
        let mapped = Program::start(&interpreter, WAITING);
        let mut mapped = mapped;
        mapped.line();
        let path = python_of(mapped.pid()).unwrap().object.path.clone();
        let is_library = path.to_string_lossy().contains("libpython");
        if !is_library || !path.exists() {
            continue;
        }
        let home = path.parent().unwrap().parent().unwrap();
        let mut program = Program::run(
            Command::new(&embed)
                .args([path.as_os_str(), THREADS.as_ref()])
                .env("PYTHONHOME", home),
        );
        let truth: Truth = serde_json::from_str(&program.line()).unwrap();
        let runtime = program
            .find()
            .unwrap_or_else(|reason| panic!("{name}: {reason}"));
        assert_eq!(runtime.threads.len(), truth.frames.len() + 1, "{name}");
        assert_eq!(runtime.reach, Reach::Always, "{name}");
        embedded += 1;
    }
    assert!(embedded > 0, "no Python here has a libpython");
}

/// Without `.symtab` the part of the loop that the compiler has moved away is found by the branches that lead there.
#[test]
fn what_the_compiler_has_moved_away_is_found_by_branches() {
    let folder = tempfile::tempdir().unwrap();
    let [source, built, stripped] =
        ["moved.c", "built", "stripped"].map(|name| folder.path().join(name));
    std::fs::write(&source, include_str!("tests/moved.c")).unwrap();
    for flags in [
        &["-O2"][..],
        &["-O2", "-fno-omit-frame-pointer", "-no-pie"],
        &["-O3", "-fPIC", "-shared", "-Wl,-z,now"],
        &["-Os", "-freorder-blocks-and-partition"],
    ] {
        let compiled = Command::new("gcc")
            .args(flags)
            .arg("-o")
            .args([&built, &source])
            .status();
        assert!(compiled.unwrap().success());
        let strip = Command::new("strip")
            .arg("-o")
            .args([&stripped, &built])
            .status();
        assert!(strip.unwrap().success());
        let with_symbols = object_of(&built);
        let file = File::of(&with_symbols).unwrap();
        let symbols = Symbols::read(file.image, file.elf);
        let place = |name: &[u8]| {
            let mut defined = symbols.defined();
            let symbol = defined.find(|symbol| symbol.name == name)?;
            Some(Place {
                rel: symbol.rel,
                size: symbol.size,
            })
        };
        let (main, cold) = (place(b"loop").unwrap(), place(b"loop.cold"));
        let without = object_of(&stripped);
        let file = File::of(&without).unwrap();
        let [found, moved] = eval::ranges(file, main, None).unwrap();
        assert_eq!(u64::from(found.start), main.rel);
        assert_eq!(u64::from(found.end), main.rel + main.size);
        let expected = cold.map_or((0, 0), |cold| (cold.rel, cold.rel + cold.size));
        assert_eq!(
            (moved.start.into(), moved.end.into()),
            expected,
            "{flags:?}"
        );
        assert_eq!(
            cold.is_some(),
            flags[0] != "-Os",
            "{flags:?}: the compiler moves something"
        );
        let unsized_main = Place { size: 0, ..main };
        assert_eq!(eval::ranges(file, unsized_main, None), Some([found, moved]));
    }
}

#[test]
fn a_stripped_file_says_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let mut compared = 0;
    for interpreter in supported() {
        let mut program = Program::start(&interpreter, WAITING);
        program.line();
        let mapped = python_of(program.pid()).unwrap();
        if !mapped.object.path.exists() {
            continue;
        }
        let stripped = folder.path().join("stripped");
        let strip = Command::new("strip")
            .arg("-o")
            .args([&stripped, &mapped.object.path])
            .status();
        assert!(strip.unwrap().success());
        let [without, with] =
            [image::find(&object_of(&stripped)).unwrap(), mapped.image].map(Result::unwrap);
        assert_eq!(without.version, with.version);
        assert_eq!(without.eval[0], with.eval[0]);
        // A part that no branch leads to is no code that runs: what follows a call that does not return.
        let dead = with.eval[1].end - with.eval[1].start;
        assert!(
            without.eval[1] == with.eval[1] || dead <= 8,
            "{}",
            interpreter.display()
        );
        compared += 1;
    }
    assert!(compared > 0);
}
