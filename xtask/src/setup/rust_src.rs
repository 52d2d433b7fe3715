//! The source of `core`, in exactly the compiler's version: the BPF target has no compiled one.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{apt::Apt, shell};

/// Where Debian publishes compilers newer than its release's.
const SUITE: &str = "trixie-backports";

/// The compiler that builds memtrace.
struct Rustc {
    version: String,
    /// `lib/rustlib/src` of its sysroot.
    sources: PathBuf,
}

/// Installs rust-src into the compiler's sysroot unless it is there.
pub(crate) fn install() -> Result<()> {
    let rustc = Rustc::find()?;
    if rustc.has_source() {
        return Ok(());
    }
    shell::say(&format!("installing rust-src {}", rustc.version));
    if ask_rustup().is_ok() && rustc.has_source() {
        return Ok(());
    }
    shell::say(&format!(
        "not from rustup; trying Debian's package in {SUITE}"
    ));
    rustc.unpack_debian().with_context(|| {
        format!(
            "failed to install rust-src {}; by hand: rustup component add rust-src",
            rustc.version
        )
    })
}

fn ask_rustup() -> Result<()> {
    let mut rustup = Command::new("rustup");
    rustup.args(["--quiet", "component", "add", "rust-src"]);
    shell::run(rustup.current_dir(shell::root()))
}

impl Rustc {
    fn find() -> Result<Self> {
        let ask = |args: &[&str]| {
            let mut rustc = Command::new("rustc");
            let answer = shell::capture(rustc.args(args).current_dir(shell::root()));
            answer.context("no usable rustc: install one with rustup (stable 1.95 or newer)")
        };
        let verbose = ask(&["-vV"])?;
        let version = verbose
            .lines()
            .find_map(|line| line.strip_prefix("release: "));
        let version = version.context("`rustc -vV` names no release")?.to_owned();
        let sysroot = ask(&["--print", "sysroot"])?;
        let rustlib = Path::new(sysroot.trim()).join("lib/rustlib");
        if !rustlib.is_dir() {
            bail!(
                "the compiler's sysroot `{}` has no lib/rustlib",
                sysroot.trim()
            );
        }
        Ok(Self {
            version,
            sources: rustlib.join("src"),
        })
    }

    /// Where rustc and cargo look for it.
    fn source(&self) -> PathBuf {
        self.sources.join("rust")
    }

    /// Name of the directory that Debian's package brings.
    fn versioned(&self) -> String {
        format!("rustc-{}", self.version)
    }

    /// Whether the source is there. A link that [`Self::unpack_debian`] made for another compiler does not count.
    fn has_source(&self) -> bool {
        let fits =
            fs::read_link(self.source()).map_or(true, |link| link.ends_with(self.versioned()));
        fits && self.source().join("library/core/src/lib.rs").is_file()
    }

    /// Unpacks Debian's package beside the link that makes it the toolchain's own.
    fn unpack_debian(&self) -> Result<()> {
        let writable = fs::create_dir_all(&self.sources);
        writable.with_context(|| {
            format!(
                "failed to write to the toolchain: `{}`",
                self.sources.display()
            )
        })?;
        let scratch = shell::target_dir().join("setup");
        let apt = Apt::fetch(&scratch, &[SUITE])?;
        let versions = apt.versions("rust-src")?;
        let version = versions
            .iter()
            .find(|version| version.split(['+', '-', '~']).next() == Some(&self.version))
            .with_context(|| {
                format!(
                    "{SUITE} has no rust-src {}, only {}",
                    self.version,
                    versions.join(", ")
                )
            })?;
        let name = self.versioned();
        let unpacked = scratch.join("unpacked");
        apt.unpack(
            &format!("rust-src={version}"),
            &format!("usr/src/{name}/library"),
            &unpacked,
        )?;
        let target = self.sources.join(&name);
        remove(&target)?;
        // Copied, not renamed: the toolchain may lie on another file system.
        let mut copy = Command::new("cp");
        shell::run(
            copy.arg("-r")
                .arg(unpacked.join("usr/src").join(&name))
                .arg(&target),
        )?;
        remove(&self.source())?;
        symlink(&name, self.source()).context("failed to link the source into the toolchain")?;
        fs::remove_dir_all(&scratch)?;
        if !self.has_source() {
            bail!("Debian's package does not have the library's source where it was");
        }
        Ok(())
    }
}

/// Removes what may be there: a link, a directory, or nothing.
fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
