//! Code objects in the memory of interpreters that run.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
};

use memtrace::{
    ids::Pid,
    python::{
        code::{CodeError, CodeLayout, CodeObject, MAX_FILE_CHARS, MAX_NAME_CHARS, NoLines},
        memory::ProcessMemory,
    },
};
use serde::{Deserialize, de::DeserializeOwned};

use super::{decoded, format, interpreters, told};

/// First line of the script.
#[derive(Debug, Deserialize)]
struct Interpreter {
    minor: u32,
    code_type: u64,
    no_code: u64,
    count: usize,
}

/// A code object as the interpreter describes it.
#[derive(Debug, Deserialize)]
struct Described {
    addr: u64,
    file: String,
    name: String,
    first_line: i32,
    runs: Option<Vec<(u32, i32)>>,
}

/// Last line.
#[derive(Debug, Deserialize)]
struct Gone {
    freed: Vec<u64>,
}

/// What was compared.
#[derive(Clone, Copy, Debug, Default)]
struct Compared {
    codes: usize,
    units: usize,
    without_lines: usize,
    freed: usize,
}

#[test]
fn code_objects_of_running_interpreters() {
    for (python, compared) in interpreters::each(compare) {
        println!("{}: {compared:?}", python.display());
        assert!(compared.codes > 1000, "{}", python.display());
        assert_eq!(
            (compared.without_lines, compared.freed),
            (1, 64),
            "{}",
            python.display()
        );
    }
}

fn compare(python: &Path) -> Compared {
    let mut child = interpreters::start(python, "live.py");
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut line = || lines.next().unwrap().unwrap();
    let interpreter: Interpreter = parse(&line());
    let layout = layout(&interpreter);
    let memory = ProcessMemory(Pid(child.id()));
    let mut compared = Compared::default();
    for _ in 0..interpreter.count {
        let described: Described = parse(&line());
        let code = CodeObject::read(&memory, described.addr, &layout);
        let code = code.unwrap_or_else(|error| panic!("{python:?}: {described:?}: {error}"));
        compared.units += same(python, &described, &code);
        compared.without_lines += usize::from(code.no_lines().is_some());
        compared.codes += 1;
    }
    let gone: Gone = parse(&line());
    for addr in gone.freed {
        let error = CodeObject::read(&memory, addr, &layout).unwrap_err();
        compared.freed += usize::from(matches!(error, CodeError::Freed | CodeError::NotCode));
    }
    let error = CodeObject::read(&memory, interpreter.no_code, &layout).unwrap_err();
    assert!(matches!(error, CodeError::NotCode), "{python:?}: {error}");
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success(), "{}", python.display());
    compared
}

/// Compares, and gives the number of code units whose line was compared.
fn same(python: &Path, described: &Described, code: &CodeObject) -> usize {
    let what = format!("{}: {:#x}", python.display(), described.addr);
    assert_eq!(*code.file, cut(&described.file, MAX_FILE_CHARS), "{what}");
    assert_eq!(*code.name, cut(&described.name, MAX_NAME_CHARS), "{what}");
    assert_eq!(
        code.first_line,
        u32::try_from(described.first_line).ok(),
        "{what}"
    );
    let Some(runs) = &described.runs else {
        assert_eq!(code.no_lines(), Some(NoLines::TooLarge), "{what}");
        assert_eq!(
            (code.line(0), code.frame_line(0)),
            (None, code.first_line),
            "{what}"
        );
        return 0;
    };
    let truth = told(runs);
    let found = decoded(code.spans().unwrap(), truth.len());
    assert_eq!(found, truth, "{what} {} {}", code.file, code.name);
    let last = truth.len() - 1;
    assert_eq!(
        code.line(u32::try_from(last).unwrap()),
        truth[last],
        "{what}"
    );
    truth.len()
}

fn cut(text: &str, max_chars: usize) -> String {
    let cut = (text.chars().count() > max_chars).then_some('…');
    text.chars().take(max_chars).chain(cut).collect()
}

/// The layout of 3.`minor` (measured from the debug information of each).
fn layout(interpreter: &Interpreter) -> CodeLayout {
    let Interpreter {
        minor, code_type, ..
    } = *interpreter;
    let (filename, name, qualname, first_line, line_table) = match minor {
        8..=10 => (104, 112, None, 40, 120),
        11 => (112, 120, Some(128), 72, 136),
        _ => (112, 120, Some(128), 68, 136),
    };
    let (ascii_text, wide_text) = if minor < 12 { (48, 72) } else { (40, 56) };
    CodeLayout {
        code_type,
        filename,
        name,
        qualname,
        first_line,
        line_table,
        lines: format(minor),
        ascii_text,
        wide_text,
    }
}

fn parse<T: DeserializeOwned>(line: &str) -> T {
    let shown: String = line.chars().take(200).collect();
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {shown}"))
}
