//! The bytes of a mapped file, read on demand.
//!
//! Owns the descriptor. Reads with `pread` and never maps: a file that is truncated while it is mapped would kill the
//! reader with SIGBUS, one that is truncated while it is read gives an error.

use std::{fs::File, io, ops::Range, os::unix::fs::FileExt};

/// Bytes that one read may ask for. The largest `.eh_frame` known (a browser, 60 MiB) is far below.
pub const MAX_READ: u64 = 256 << 20;

/// An open file and the length it had.
#[derive(Debug)]
pub struct Image {
    file: File,
    len: u64,
}

impl Image {
    /// Takes an open file.
    pub fn new(file: File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        Ok(Self { file, len })
    }

    /// The descriptor, for whoever reads symbols. It stays valid when the file is deleted or its processes end.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Bytes of the file when it was opened.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.len
    }

    /// Reads `size` bytes at `file_off`, all of them or an error. More than [`MAX_READ`] is an error.
    pub fn read(&self, file_off: u64, size: u64) -> io::Result<Vec<u8>> {
        let inside = file_off
            .checked_add(size)
            .is_some_and(|end| end <= self.len);
        if !inside {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if size > MAX_READ {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut bytes = vec![0; size as usize];
        self.file.read_exact_at(&mut bytes, file_off)?;
        Ok(bytes)
    }

    /// The part of `range` that the file really has.
    #[must_use]
    pub fn clip(&self, range: Range<u64>) -> Range<u64> {
        range.start.min(self.len)..range.end.min(self.len)
    }
}
