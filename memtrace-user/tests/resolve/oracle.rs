//! What binutils and the compiler say.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use memtrace::{
    ids::ObjectId,
    resolve::Frame,
    target::object::{Object, Unusable},
};
use memtrace_common::unwind::FileKey;

/// A function at an address: its name and `file name:line`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) function: String,
    pub(crate) place: Option<String>,
}

impl Line {
    /// The functions of a frame, innermost first; none when it has no name.
    pub(crate) fn all_of(frame: &Frame) -> Vec<Self> {
        frame
            .functions
            .iter()
            .flat_map(|functions| functions.iter())
            .map(Self::of)
            .collect()
    }

    fn of(function: &memtrace::resolve::Function) -> Self {
        let name = function
            .file
            .as_deref()
            .and_then(|file| Path::new(file).file_name());
        Self {
            function: base_name(&function.name),
            place: name
                .zip(function.line)
                .map(|(name, line)| format!("{}:{line}", name.to_str().unwrap())),
        }
    }
}

/// A name without its arguments and template arguments' spaces, which demanglers write differently.
fn base_name(name: &str) -> String {
    let name = name.split('(').next().unwrap_or(name);
    name.replace(' ', "").replace("std::__cxx11::", "std::")
}

/// Whether two demanglers' names mean one function.
pub(crate) fn same_name(truth: &str, found: &str) -> bool {
    let plain = |name: &str| {
        let name = name.split("::h").next().unwrap_or(name);
        base_name(name.split(['@', '.']).next().unwrap_or(name)).replace(['<', '>'], "")
    };
    plain(truth) == plain(found)
}

pub(crate) fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Compiles the C++ program of this folder.
pub(crate) fn compile(folder: &Path) -> PathBuf {
    compile_with(folder, "-g")
}

/// The same with another flag for debug information.
pub(crate) fn compile_with(folder: &Path, debug: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/resolve/program.cpp");
    let program = folder.join("program");
    let flags = ["-O2", debug, "-no-pie", "-rdynamic", "-Wl,--build-id", "-o"];
    run(Command::new("g++").args(flags).arg(&program).arg(source));
    program
}

/// The object that frames of these tests lie in.
pub(crate) const ID: ObjectId = ObjectId(7);

/// A file as the object store would have it.
pub(crate) fn object_of(path: &Path) -> Object {
    numbered(ID, path)
}

/// The same with another number.
pub(crate) fn numbered(id: ObjectId, path: &Path) -> Object {
    let file = File::open(path).map_err(|error| Unusable::Unopened(error.to_string()));
    Object::new(id, FileKey::default(), path.to_owned(), file)
}

/// Addresses behind every call instruction.
pub(crate) fn return_addresses(program: &Path) -> Vec<u64> {
    let listing = run(Command::new("objdump")
        .args(["-d", "--no-show-raw-insn", "-j", ".text"])
        .arg(program));
    let address = |line: &str| u64::from_str_radix(line.split(':').next()?.trim(), 16).ok();
    let lines: Vec<&str> = listing
        .lines()
        .filter(|line| address(line).is_some())
        .collect();
    lines
        .windows(2)
        .filter(|pair| pair[0].split_whitespace().nth(1) == Some("call"))
        .filter_map(|pair| address(pair[1]))
        .collect()
}

/// What addr2line says, innermost first.
pub(crate) fn addr2line(program: &Path, addrs: &[u64]) -> Vec<Vec<Line>> {
    let text = run(Command::new("addr2line")
        .args(["-i", "-f", "-C", "-a", "-e"])
        .arg(program)
        .args(addrs.iter().map(|addr| format!("{addr:#x}"))));
    let mut answers: Vec<Vec<Line>> = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.starts_with("0x") {
            answers.push(Vec::new());
            continue;
        }
        let place = lines
            .next()
            .unwrap()
            .split(" (discriminator")
            .next()
            .unwrap();
        let place = place.rsplit('/').next().unwrap();
        answers.last_mut().unwrap().push(Line {
            function: base_name(line),
            place: (!place.contains('?')).then(|| place.to_owned()),
        });
    }
    answers
}

/// Takes over names where addr2line and we differ for a known cause: it may give the innermost function the symbol's
/// name, which is the outermost one's; and our demangler does not know a few of the oldest manglings. Returns
/// the latter.
pub(crate) fn forgive_names(truth: &mut [Vec<Line>], found: &[Vec<Line>]) -> BTreeSet<String> {
    let mut mangled = BTreeSet::new();
    for (truth, found) in truth.iter_mut().zip(found) {
        let outermost = truth.last().map(|line| line.function.clone());
        for (level, (truth, found)) in truth.iter_mut().zip(found).enumerate() {
            let is_mangled = found.function.starts_with("_Z");
            mangled.extend(is_mangled.then(|| found.function.clone()));
            if is_mangled || (level == 0 && Some(&truth.function) == outermost.as_ref()) {
                truth.function.clone_from(&found.function);
            }
        }
    }
    mangled
}

/// Functions that nm lists with a size, in the file or its installed debug file: address of the middle, and all
/// names at the place.
pub(crate) fn functions(path: &Path, build_id: Option<&[u8]>) -> Vec<(u64, Vec<String>)> {
    let hex: String = build_id
        .into_iter()
        .flatten()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let debug_file = PathBuf::from(format!(
        "/usr/lib/debug/.build-id/{}/{}.debug",
        &hex[..2],
        &hex[2..]
    ));
    let mut found: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    add_functions(&mut found, path, Some("-D"));
    for file in [path, &debug_file].into_iter().filter(|file| file.exists()) {
        add_functions(&mut found, file, None);
    }
    found.into_iter().collect()
}

fn add_functions(found: &mut BTreeMap<u64, Vec<String>>, path: &Path, table: Option<&str>) {
    let mut command = Command::new("nm");
    command
        .args(["--defined-only", "-S", "-C"])
        .args(table)
        .arg(path);
    for line in run(&mut command).lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        let &[addr, size, kind, name] = &words[..] else {
            continue;
        };
        let [Ok(addr), Ok(size)] = [addr, size].map(|word| u64::from_str_radix(word, 16)) else {
            continue;
        };
        if "tTwW".contains(kind) && size > 0 {
            found
                .entry(addr + size / 2)
                .or_default()
                .push(name.to_owned());
        }
    }
}

/// Makes stripped objects.
pub(crate) mod objcopy {
    use super::*;

    /// The object without symbols, linked to `debug`, which gets them.
    pub(crate) fn strip_with_link(program: &Path, debug: &Path) -> PathBuf {
        run(Command::new("objcopy")
            .arg("--only-keep-debug")
            .args([program, debug]));
        link(program, debug)
    }

    /// The same, but the debug file has random bytes; the link's checksum is right.
    pub(crate) fn strip_with_damaged_link(program: &Path, debug: &Path, seed: u64) -> PathBuf {
        run(Command::new("objcopy")
            .arg("--only-keep-debug")
            .args([program, debug]));
        let mut bytes = fs::read(debug).unwrap();
        let mut random = seed.wrapping_mul(2).wrapping_add(1);
        for _ in 0..200 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let place = (random >> 33) as usize % bytes.len();
            bytes[place] = (random >> 20) as u8;
        }
        fs::write(debug, bytes).unwrap();
        link(program, debug)
    }

    /// The object without symbols; the dynamic ones do not cover its start-up code.
    pub(crate) fn strip_all(program: &Path) -> PathBuf {
        let stripped = program.with_extension("bare");
        run(Command::new("objcopy")
            .arg("--strip-all")
            .args([program, &stripped]));
        stripped
    }

    fn link(program: &Path, debug: &Path) -> PathBuf {
        let stripped = program.with_extension("stripped");
        let link = format!("--add-gnu-debuglink={}", debug.display());
        run(Command::new("objcopy")
            .args(["--strip-all", &link])
            .args([program, &stripped]));
        stripped
    }
}
