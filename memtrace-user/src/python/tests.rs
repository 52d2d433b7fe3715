//! Oracles: CPython's own `sys._current_frames()`, and what it says of its version.

pub(super) mod processes;

use self::processes::{Program, Truth, interpreters, series, supported};
use super::{
    Refusal,
    memory::{Memory as _, ProcessMemory},
    runtime::{Reach, Unfound},
    walk::{self, walk},
};

const THREADS: &str = include_str!("tests/threads.py");

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
        program.tell();
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
            "import sys; sys.stdout.write('x\\n'); sys.stdout.flush(); sys.stdin.readline()",
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
