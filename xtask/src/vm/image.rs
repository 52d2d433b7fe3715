//! What is inside the VM: one initramfs for every kernel, with busybox, memtrace, the tests and what they link to.
//!
//! Our own things lie in `/t`. The programs that the tests trace, their sources, and libraries lie where they lie here,
//! because the tests and the loader look for them there.

use std::{
    fs::{self, File},
    io::BufWriter,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::cpio::Archive;
use crate::shell;

/// Where the script in `tests/vm` finds the test binaries.
const TESTS: &str = "/t/tests";

/// An image in the making.
struct Image {
    archive: Archive,
    /// Where stripped copies are made.
    scratch: PathBuf,
}

/// Makes the image at `out` from the release binary, test binaries and data files.
pub(super) fn build(out: &Path, tests: &[PathBuf], data: &[PathBuf]) -> Result<()> {
    let scratch = out.with_extension("stripped");
    let mut image = Image {
        archive: Archive::default(),
        scratch,
    };
    for directory in ["/proc", "/sys", "/dev", "/run", "/tmp", "/root", "/etc"] {
        image.archive.directory(directory);
    }
    image.busybox()?;
    let scripts = shell::root().join("tests/vm");
    image.file(&scripts.join("init"), "/init")?;
    image.file(&scripts.join("test"), "/t/test")?;
    image.program(&shell::memtrace(), "/t/memtrace")?;
    for test in tests {
        image.program(test, &format!("{TESTS}/{}", plain_name(test)))?;
    }
    for file in data {
        image.file(file, &file.display().to_string())?;
        image.libraries(file)?;
    }
    let file =
        File::create(out).with_context(|| format!("failed to create `{}`", out.display()))?;
    image
        .archive
        .write(BufWriter::new(file))
        .context("failed to write the image")
}

impl Image {
    /// busybox and a link for each of its applets.
    fn busybox(&mut self) -> Result<()> {
        let busybox =
            shell::find("busybox").context("busybox is missing: apt-get install busybox-static")?;
        self.file(&busybox, "/bin/busybox")?;
        for applet in shell::capture(Command::new(&busybox).arg("--list"))?.lines() {
            if applet != "busybox" {
                self.archive.link(&format!("/bin/{applet}"), "busybox");
            }
        }
        Ok(())
    }

    /// A file as it is.
    fn file(&mut self, from: &Path, to: &str) -> Result<()> {
        let read = || -> Result<_> {
            let modified = u32::try_from(fs::metadata(from)?.mtime())?;
            Ok((modified, fs::read(from)?))
        };
        let (modified, data) =
            read().with_context(|| format!("failed to read `{}`", from.display()))?;
        self.archive.file(to, modified, data);
        Ok(())
    }

    /// A program of ours with its libraries. Its debug information stays behind: it would be most of the image.
    fn program(&mut self, from: &Path, to: &str) -> Result<()> {
        let mut strip = Command::new("strip");
        shell::run(
            strip
                .arg("--strip-debug")
                .arg("-o")
                .arg(&self.scratch)
                .arg(from),
        )?;
        self.file(&self.scratch.clone(), to)?;
        fs::remove_file(&self.scratch)?;
        self.libraries(from)
    }

    /// The shared objects that a program needs, found by its own loader.
    fn libraries(&mut self, program: &Path) -> Result<()> {
        let mut ldd = Command::new("ldd");
        // Fails for what is not dynamically linked, which needs nothing.
        let listed = ldd.arg(program).output().context("failed to start `ldd`")?;
        let listed = String::from_utf8_lossy(&listed.stdout);
        for library in listed
            .split_whitespace()
            .filter(|word| word.starts_with('/'))
        {
            let library = library.trim_end_matches(':');
            if !self.archive.has(library) && Path::new(library).is_file() {
                self.file(Path::new(library), library)?;
            }
        }
        Ok(())
    }
}

/// `native` of `native-0123456789abcdef`, which is how cargo names test binaries.
fn plain_name(test: &Path) -> String {
    let name = test.file_name().unwrap_or_default().to_string_lossy();
    name.rsplit_once('-')
        .map_or(name.to_string(), |(name, _)| name.to_owned())
}
