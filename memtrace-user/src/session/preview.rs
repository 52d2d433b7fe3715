//! Which files a program will map when it starts, found before it starts.
//!
//! A uprobe link outlives `exec` and is installed in every file as it is mapped. So, to trace a program from its first
//! instruction, the probes are attached to the held child for the files that the program *will* map: the program itself,
//! its dynamic linker and the libraries that the linker would load with the same environment (preloads included).

use std::{
    ffi::OsStr,
    fs::File,
    io::{BufRead as _, BufReader, Read as _},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    process::{self, Stdio},
};

use object::read::elf::ProgramHeader as _;

/// Scripts whose interpreter is a script again; the kernel follows four (`BINPRM_MAX_RECURSION`... of binfmt_script).
const MAX_INTERPRETERS: u32 = 4;

/// The files that `program` will map: itself (or its interpreter, for a script), the dynamic linker, libraries. What cannot
/// be found out is left out; it is found when the program has started.
#[must_use]
pub(super) fn files_of(program: &Path) -> Vec<PathBuf> {
    let Some(executable) = executable_of(program, MAX_INTERPRETERS) else {
        return Vec::new();
    };
    let mut files = vec![executable.clone()];
    if let Some(linker) = dynamic_linker_of(&executable) {
        files.extend(libraries_of(&linker, &executable));
        files.push(linker);
    }
    files
}

/// The ELF file that runs when `program` is started.
fn executable_of(program: &Path, depth: u32) -> Option<PathBuf> {
    let mut file = BufReader::new(File::open(program).ok()?);
    let mut magic = [0; 2];
    file.read_exact(&mut magic).ok()?;
    if magic != *b"#!" {
        return program.canonicalize().ok();
    }
    let mut line = Vec::new();
    file.take(4096).read_until(b'\n', &mut line).ok()?;
    let mut words = line
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty());
    let interpreter = Path::new(OsStr::from_bytes(words.next()?));
    if depth == 0 {
        return None;
    }
    if interpreter.ends_with("env") {
        // `env` becomes what its first plain argument names.
        let name = words.find(|word| !word.starts_with(b"-") && !word.contains(&b'='))?;
        let named = super::command::find_program(Path::new(OsStr::from_bytes(name))).ok()?;
        return executable_of(&named, depth - 1);
    }
    executable_of(interpreter, depth - 1)
}

/// The `PT_INTERP` of an executable; `None` for a static one.
fn dynamic_linker_of(executable: &Path) -> Option<PathBuf> {
    let file = File::open(executable).ok()?;
    let data = object::read::ReadCache::new(file);
    let elf = object::read::elf::ElfFile64::<object::Endianness, _>::parse(&data).ok()?;
    let endian = elf.endian();
    let path = elf
        .elf_program_headers()
        .iter()
        .find_map(|header| header.interpreter(endian, elf.data()).ok()?)?;
    Some(PathBuf::from(OsStr::from_bytes(path)))
}

/// What the dynamic linker says it would load (`ld.so --list`, which runs no code of the program).
fn libraries_of(linker: &Path, executable: &Path) -> Vec<PathBuf> {
    let listing = process::Command::new(linker)
        .arg("--list")
        .arg(executable)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    let Ok(listing) = listing else {
        return Vec::new();
    };
    listing
        .stdout
        .split(|&byte| byte == b'\n')
        .filter_map(library_of_line)
        .collect()
}

/// `\tlibc.so.6 => /lib/libc.so.6 (0x7f…)` or `\t/lib/preload.so (0x7f…)`.
fn library_of_line(line: &[u8]) -> Option<PathBuf> {
    let line = std::str::from_utf8(line).ok()?.trim();
    let path = line.split_once(" => ").map_or(line, |(_, path)| path);
    let path = path.rsplit_once(" (").map_or(path, |(path, _)| path);
    path.starts_with('/').then(|| PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_brings_its_linker_and_libc() {
        let files = files_of(Path::new("/bin/ls"));
        let has = |name: &str| {
            files
                .iter()
                .any(|file| file.to_string_lossy().contains(name))
        };
        assert!(has("/ls") && has("libc.so") && has("ld-linux"), "{files:?}");
    }

    #[test]
    fn a_script_brings_its_interpreter() {
        let dir = tempfile::tempdir().expect("a directory");
        let script = dir.path().join("script");
        std::fs::write(&script, "#!/usr/bin/env -S sh -e\n:\n").expect("a script");
        let files = files_of(&script);
        let shell = Path::new("/bin/sh")
            .canonicalize()
            .expect("there is a shell");
        assert_eq!(files.first(), Some(&shell));
    }

    #[test]
    fn what_is_no_program_has_no_files() {
        assert!(files_of(Path::new("/etc/passwd")).len() <= 1);
        assert!(files_of(Path::new("/no/such/file")).is_empty());
    }
}
