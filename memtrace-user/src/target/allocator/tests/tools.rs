//! `nm`, `objdump` and the compilers.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use crate::target::{elf::Elf, image::Image};

/// A shared library by its name.
pub(super) fn library(name: &str) -> PathBuf {
    let path = Path::new("/usr/lib/x86_64-linux-gnu").join(name);
    assert!(
        path.exists(),
        "{} is missing: install its package",
        path.display()
    );
    path
}

/// Runs a tool and returns what it prints.
pub(super) fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Functions that the file defines, with their addresses relative to the load base.
pub(super) fn defined_functions(path: &Path) -> Vec<(String, u64)> {
    let exported = run(Command::new("nm").args(["-D", "--defined-only"]).arg(path));
    let all = run(Command::new("nm").arg("--defined-only").arg(path));
    let base = base_of(path);
    exported
        .lines()
        .chain(all.lines())
        .filter_map(|line| function_of(line, base))
        .collect()
}

fn function_of(line: &str, base: u64) -> Option<(String, u64)> {
    let mut words = line.split_whitespace();
    let (address, letter, name) = (words.next()?, words.next()?, words.next()?);
    let address = u64::from_str_radix(address, 16).ok()?;
    let name = name.split('@').next()?.to_owned();
    let rel = address.checked_sub(base)?;
    matches!(letter, "T" | "W").then_some((name, rel))
}

fn base_of(path: &Path) -> u64 {
    let image = Image::new(std::fs::File::open(path).unwrap()).unwrap();
    Elf::read(&image).unwrap().base
}

/// What `objdump` prints.
pub(super) struct Disassembly {
    /// By address relative to the load base.
    instructions: BTreeMap<u64, String>,
    functions: BTreeMap<String, Vec<u64>>,
}

impl Disassembly {
    pub(super) fn of(path: &Path) -> Self {
        let base = base_of(path);
        let text = run(Command::new("objdump")
            .args(["-d", "-w", "--no-show-raw-insn"])
            .arg(path));
        let mut instructions = BTreeMap::new();
        for line in text.lines() {
            let Some((address, instruction)) = line.split_once(":\t") else {
                continue;
            };
            if let Ok(address) = u64::from_str_radix(address.trim(), 16) {
                instructions.insert(address.wrapping_sub(base), instruction.to_owned());
            }
        }
        let mut functions: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for (name, rel) in defined_functions(path) {
            functions.entry(name).or_default().push(rel);
        }
        Self {
            instructions,
            functions,
        }
    }

    /// The instruction that begins at `rel`.
    pub(super) fn instruction_at(&self, rel: u64) -> Option<&str> {
        self.instructions.get(&rel).map(String::as_str)
    }

    /// Whether the code of `name` up to the next function calls or jumps to a function of an allocator.
    pub(super) fn hands_over(&self, name: &str) -> bool {
        let family = ["alloc", "free", "memalign", "_new", "_delete", "_Zn", "_Zd"];
        self.functions[name].iter().any(|rel| {
            let next = self
                .functions
                .values()
                .flatten()
                .filter(|other| *other > rel)
                .min();
            let code = self
                .instructions
                .range(*rel..next.map_or(u64::MAX, |next| *next));
            code.map(|(_, line)| line).any(|line| {
                (line.starts_with("jmp") || line.starts_with("call"))
                    && family.iter().any(|part| line.contains(part))
            })
        })
    }
}
