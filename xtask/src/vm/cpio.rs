//! The archive format of an initramfs: cpio "newc" (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

/// Type bits of `st_mode`.
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;

/// Files by their path in the guest, without the leading slash. Parents come before their children by order.
#[derive(Debug, Default)]
pub(super) struct Archive {
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    mode: u32,
    /// Seconds since 1970.
    modified: u32,
    data: Vec<u8>,
}

impl Archive {
    /// Whether there is something at `path`.
    pub(super) fn has(&self, path: &str) -> bool {
        self.entries.contains_key(relative(path))
    }

    /// Adds an empty directory and those above it.
    pub(super) fn directory(&mut self, path: &str) {
        self.parents(path);
        self.put(path, DIRECTORY | 0o755, 0, Vec::new());
    }

    /// Adds a file that can be executed, last modified so many seconds after 1970.
    pub(super) fn file(&mut self, path: &str, modified: u32, data: Vec<u8>) {
        self.parents(path);
        self.put(path, REGULAR | 0o755, modified, data);
    }

    /// Adds a symbolic link.
    pub(super) fn link(&mut self, path: &str, target: &str) {
        self.parents(path);
        self.put(path, SYMLINK | 0o777, 0, target.into());
    }

    /// Writes the archive, uncompressed: an emulated CPU is slow to decompress.
    pub(super) fn write(&self, mut out: impl Write) -> io::Result<()> {
        for (inode, (path, entry)) in (1..).zip(&self.entries) {
            entry.write(inode, path, &mut out)?;
        }
        let trailer = Entry {
            mode: 0,
            modified: 0,
            data: Vec::new(),
        };
        trailer.write(0, "TRAILER!!!", &mut out)?;
        out.flush()
    }

    fn parents(&mut self, path: &str) {
        for (at, _) in relative(path).match_indices('/') {
            let parent = Entry {
                mode: DIRECTORY | 0o755,
                modified: 0,
                data: Vec::new(),
            };
            self.entries
                .entry(relative(path)[..at].to_owned())
                .or_insert(parent);
        }
    }

    fn put(&mut self, path: &str, mode: u32, modified: u32, data: Vec<u8>) {
        self.entries.insert(
            relative(path).to_owned(),
            Entry {
                mode,
                modified,
                data,
            },
        );
    }
}

impl Entry {
    /// A header of 13 numbers in eight hexadecimal digits, the name, the data; both padded to four bytes.
    fn write(&self, inode: u32, path: &str, out: &mut impl Write) -> io::Result<()> {
        let size = u32::try_from(self.data.len()).map_err(io::Error::other)?;
        let name = u32::try_from(path.len() + 1).map_err(io::Error::other)?;
        // inode, mode, uid, gid, links, mtime, size, dev major, minor, rdev major, minor, name's size, checksum.
        let numbers = [
            inode,
            self.mode,
            0,
            0,
            1,
            self.modified,
            size,
            0,
            0,
            0,
            0,
            name,
            0,
        ];
        write!(out, "070701")?;
        for number in numbers {
            write!(out, "{number:08X}")?;
        }
        write!(out, "{path}\0")?;
        pad(110 + path.len() + 1, out)?;
        out.write_all(&self.data)?;
        pad(self.data.len(), out)
    }
}

fn pad(written: usize, out: &mut impl Write) -> io::Result<()> {
    out.write_all(&[0; 3][..written.wrapping_neg() % 4])
}

fn relative(path: &str) -> &str {
    path.trim_start_matches('/')
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    /// The oracle is the system's own cpio, when it is installed.
    #[test]
    fn cpio_reads_it_back() {
        let mut archive = Archive::default();
        archive.file("/a/b/odd", 0, b"12345".to_vec());
        archive.file("/init", 0, b"#!/bin/sh\n".to_vec());
        archive.link("/a/link", "b/odd");
        archive.directory("/proc");
        assert!(archive.has("/a/b/odd") && archive.has("/a/b") && !archive.has("/b"));
        let mut bytes = Vec::new();
        archive.write(&mut bytes).unwrap();
        let mut cpio = Command::new("cpio");
        cpio.args(["--list", "--verbose", "--numeric-uid-gid", "--quiet"]);
        let mut cpio = cpio
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        cpio.stdin.take().unwrap().write_all(&bytes).unwrap();
        let listed = String::from_utf8(cpio.wait_with_output().unwrap().stdout).unwrap();
        let columns = |line: &str| {
            let words: Vec<_> = line.split_whitespace().collect();
            format!("{} {} {}", words[0], words[4], words[8..].join(" "))
        };
        let listed: Vec<_> = listed.lines().map(columns).collect();
        let expected = [
            "drwxr-xr-x 0 a",
            "drwxr-xr-x 0 a/b",
            "-rwxr-xr-x 5 a/b/odd",
            "lrwxrwxrwx 5 a/link -> b/odd",
            "-rwxr-xr-x 10 init",
            "drwxr-xr-x 0 proc",
        ];
        assert_eq!(listed, expected);
    }
}
