//! How a workload program is compiled: which compiler, which flags, and what is done to the result.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::programs::Link;

/// `-fno-builtin`: a compiler that knows malloc removes pairs of calls. `reallocarray` is only pulled into a static
/// program when asked for, since the programs take it as it comes (weak).
const COMMON: [&str; 7] = [
    "-O2",
    "-g0",
    "-fomit-frame-pointer",
    "-fno-builtin",
    "-Wall",
    "-Wextra",
    "-pthread",
];

impl Link {
    fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Dynamic | Self::MuslDynamic => &["-ldl"],
            Self::Jemalloc => &["-l:libjemalloc.a", "-lstdc++", "-lm", "-ldl"],
            Self::PrefixedJemalloc => &["-lstdc++", "-lm", "-ldl"],
            Self::Debug | Self::DebugLink => &["-g", "-ldl"],
            Self::Static => &["-static", "-Wl,-u,reallocarray"],
            Self::Musl => &["-static"],
            Self::Shared => &["-shared", "-fPIC"],
        }
    }

    fn compiler(self, source: &Path) -> (&'static str, &'static str) {
        match (
            self,
            source.extension().and_then(|extension| extension.to_str()),
        ) {
            (Self::Musl | Self::MuslDynamic, _) => ("musl-gcc", "apt-get install musl-tools"),
            (_, Some("cpp")) => ("g++", "apt-get install g++"),
            (_, Some("rs")) => ("rustc", "install Rust with rustup"),
            _ => ("gcc", "apt-get install gcc libc6-dev"),
        }
    }
}

/// Compiles `source` to `output`; other files that belong to the program are put beside it.
///
/// # Errors
///
/// Fails when a tool is missing (with what to install), and with the tool's own words when it refuses.
pub(crate) fn compile(source: &Path, link: Link, output: &Path) -> Result<()> {
    let (compiler, remedy) = link.compiler(source);
    let mut command = Command::new(compiler);
    if compiler == "rustc" {
        command
            .args([
                "--edition=2024",
                "-Copt-level=3",
                "-Cforce-frame-pointers=no",
            ])
            .arg(source);
    } else {
        command.args(COMMON).arg(source);
        if link == Link::PrefixedJemalloc {
            command.args(prefixed_jemalloc(output)?);
        }
        command.args(link.flags());
    }
    run(command.arg("-o").arg(output), remedy)?;
    if link == Link::DebugLink {
        split_debug(output)?;
    }
    Ok(())
}

/// Runs a compiler or one of its tools, and gives what it prints.
fn run(command: &mut Command, remedy: &str) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let done = match command.output() {
        Ok(done) => done,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!("the workload programs need `{program}`, which is not installed; try: {remedy}")
        }
        Err(error) => return Err(error).context(format!("failed to run `{program}`")),
    };
    let words = String::from_utf8_lossy(&done.stderr);
    ensure!(
        done.status.success(),
        "{command:?} failed; missing packages? {remedy}\n{words}"
    );
    Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned())
}

/// Makes a copy of jemalloc's archive in which the allocator's functions begin with `je_`, beside `output`; gives what
/// links a program with it and makes the program call those.
fn prefixed_jemalloc(output: &Path) -> Result<Vec<String>> {
    const FUNCTIONS: [&str; 8] = [
        "malloc",
        "calloc",
        "realloc",
        "free",
        "posix_memalign",
        "aligned_alloc",
        "memalign",
        "valloc",
    ];
    let remedy = "apt-get install binutils libjemalloc-dev";
    let original = run(
        Command::new("gcc").arg("-print-file-name=libjemalloc.a"),
        remedy,
    )?;
    let archive: PathBuf = output.with_extension("a");
    let renames = FUNCTIONS.map(|name| format!("--redefine-sym={name}=je_{name}"));
    run(
        Command::new("objcopy")
            .args(renames)
            .arg(original)
            .arg(&archive),
        remedy,
    )?;
    let defines = FUNCTIONS.map(|name| format!("-D{name}=je_{name}"));
    Ok(defines
        .into_iter()
        .chain([archive.to_string_lossy().into_owned()])
        .collect())
}

/// Moves the debug information into `NAME.debug` beside the program, and names that file in the program.
fn split_debug(output: &Path) -> Result<()> {
    let remedy = "apt-get install binutils";
    let folder = output.parent().context("no folder")?;
    let name = output
        .file_name()
        .and_then(|name| name.to_str())
        .context("a name that is no UTF-8")?;
    let debug = format!("{name}.debug");
    let objcopy = || {
        let mut objcopy = Command::new("objcopy");
        objcopy.current_dir(folder);
        objcopy
    };
    run(objcopy().args(["--only-keep-debug", name, &debug]), remedy)?;
    run(
        objcopy().args([
            "--strip-debug",
            &format!("--add-gnu-debuglink={debug}"),
            name,
        ]),
        remedy,
    )?;
    Ok(())
}
