//! The mappings of a process, from `/proc/PID/maps`.
//!
//! Owns the parser and the words for what lies behind a mapping. Does not open the files; see
//! [`store`](super::store). The format is that of `show_map_vma`, fs/proc/task_mmu.c:
//!
//! ```text
//! 7f3c1a028000-7f3c1a1bd000 r-xp 00028000 103:02 1837  /usr/lib/x86_64-linux-gnu/libc.so.6
//! start        end          perm offset   dev    inode path, newlines as \012
//! ```

use std::{ffi::OsString, fs::File, io, io::Read, os::unix::ffi::OsStringExt, path::PathBuf};

use memtrace_common::unwind::FileKey;

use crate::ids::Pid;

/// Bytes of a maps file that are read: over a million mappings. What lies behind is left out with a warning.
pub const MAX_MAPS_BYTES: u64 = 128 << 20;

/// One mapping: `[start, end)` of a process's addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// End (exclusive).
    pub end: u64,
    /// What the process may do with it.
    pub access: Access,
    /// Offset in the file, of `start`.
    pub offset: u64,
    /// Which file; zeros when there is none.
    pub key: FileKey,
    /// As printed: a path in the process's mount namespace, with ` (deleted)` behind it when it has no name any
    /// more; a name in brackets; or nothing.
    pub path: PathBuf,
}

/// The permission column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// `r`
    pub read: bool,
    /// `w`
    pub write: bool,
    /// `x`
    pub execute: bool,
    /// `s`: writes reach the file and other processes.
    pub shared: bool,
}

/// What lies behind a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// A file, named by the mapping's key.
    File,
    /// The code the kernel lends every process.
    Vdso,
    /// The kernel's page for uprobes: instructions that run out of line, and the return probes' trampoline.
    Uprobes,
    /// The legacy page of system calls; nothing in it calls anything.
    Vsyscall,
    /// Plain memory: heaps, stacks, generated code.
    Memory,
}

/// Why the mappings of a process could not be read.
#[derive(Debug, thiserror::Error)]
pub enum MapsError {
    /// The process has ended, or has no memory of its own (a kernel thread, a zombie).
    #[error("process {pid} is gone or has no memory")]
    Gone {
        /// Which.
        pid: Pid,
    },
    /// The caller may not look into the process.
    #[error("not permitted to read the mappings of process {pid}")]
    NotPermitted {
        /// Which.
        pid: Pid,
    },
    /// Anything else.
    #[error("failed to read the mappings of process {pid}")]
    Read {
        /// Which.
        pid: Pid,
        /// The kernel's word.
        source: io::Error,
    },
}

impl Mapping {
    /// What lies behind it.
    #[must_use]
    pub fn backing(&self) -> Backing {
        match self.path.as_os_str().as_encoded_bytes() {
            // Only files have an inode, and none of the bracketed names is one.
            _ if self.key.ino != 0 => Backing::File,
            b"[vdso]" => Backing::Vdso,
            b"[uprobes]" => Backing::Uprobes,
            b"[vsyscall]" => Backing::Vsyscall,
            _ => Backing::Memory,
        }
    }
}

/// Reads the mappings of a process, sorted by address.
///
/// The kernel prints them in several portions: a process that maps or unmaps meanwhile gives a list that was never
/// true as a whole, though every line was.
pub fn read(pid: Pid) -> Result<Vec<Mapping>, MapsError> {
    let bytes = read_text(pid).map_err(|source| match source.raw_os_error() {
        Some(libc::ENOENT | libc::ESRCH) => MapsError::Gone { pid },
        Some(libc::EACCES | libc::EPERM) => MapsError::NotPermitted { pid },
        _ => MapsError::Read { pid, source },
    })?;
    if bytes.is_empty() {
        return Err(MapsError::Gone { pid });
    }
    if bytes.len() as u64 == MAX_MAPS_BYTES {
        log::warn!("process {pid} has too many mappings; the last ones are left out");
    }
    Ok(parse(&bytes))
}

fn read_text(pid: Pid) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(format!("/proc/{pid}/maps"))?
        .take(MAX_MAPS_BYTES)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Parses the text of a maps file. A line that is not one (the last of a text that was cut) is left out.
#[must_use]
pub fn parse(text: &[u8]) -> Vec<Mapping> {
    text.split(|&byte| byte == b'\n')
        .filter_map(parse_line)
        .collect()
}

/// Parses one line, without its newline.
fn parse_line(line: &[u8]) -> Option<Mapping> {
    let (range, rest) = split_at_byte(line, b' ')?;
    let (access, rest) = split_at_byte(rest, b' ')?;
    let (offset, rest) = split_at_byte(rest, b' ')?;
    let (dev, rest) = split_at_byte(rest, b' ')?;
    let (ino, path) = split_at_byte(rest, b' ').unwrap_or((rest, b""));
    let (start, end) = split_at_byte(range, b'-')?;
    let (major, minor) = split_at_byte(dev, b':')?;
    let (start, end) = (hex(start)?, hex(end)?);
    if start >= end {
        return None;
    }
    Some(Mapping {
        start,
        end,
        access: parse_access(access)?,
        offset: hex(offset)?,
        key: FileKey {
            dev: kernel_dev(hex(major)?, hex(minor)?)?,
            ino: number(ino, 10)?,
        },
        path: parse_path(path),
    })
}

/// A device number as the kernel keeps it in `s_dev` (`MKDEV`, include/linux/kdev_t.h).
fn kernel_dev(major: u64, minor: u64) -> Option<u64> {
    const MINOR_BITS: u32 = 20;
    (major < 1 << (u32::BITS - MINOR_BITS) && minor < 1 << MINOR_BITS)
        .then_some(major << MINOR_BITS | minor)
}

fn parse_access(bits: &[u8]) -> Option<Access> {
    let &[read, write, execute, shared] = bits else {
        return None;
    };
    Some(Access {
        read: read == b'r',
        write: write == b'w',
        execute: execute == b'x',
        // `S` was printed for VM_MAYSHARE by old kernels, `s` by all that are supported.
        shared: shared == b's',
    })
}

/// Removes the padding before the path and undoes the only escape the kernel makes, that of the newline.
fn parse_path(padded: &[u8]) -> PathBuf {
    const NEWLINE: &[u8] = b"\\012";
    let mut rest = padded.trim_ascii_start();
    let mut path = Vec::with_capacity(rest.len());
    while let Some((&byte, tail)) = rest.split_first() {
        if let Some(tail) = rest.strip_prefix(NEWLINE) {
            path.push(b'\n');
            rest = tail;
        } else {
            path.push(byte);
            rest = tail;
        }
    }
    OsString::from_vec(path).into()
}

fn split_at_byte(bytes: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|&byte| byte == separator)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

fn hex(digits: &[u8]) -> Option<u64> {
    number(digits, 16)
}

fn number(digits: &[u8], radix: u32) -> Option<u64> {
    // `from_str_radix` would take a sign.
    if !digits.first()?.is_ascii_alphanumeric() {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, radix).ok()
}

#[cfg(test)]
mod tests;
