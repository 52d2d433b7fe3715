//! Memory of a process, read while the process runs.

use std::io::{self, IoSliceMut};

use nix::{
    sys::uio::{RemoteIoVec, process_vm_readv},
    unistd::Pid as SystemPid,
};
use zerocopy::FromBytes;

use crate::ids::Pid;

/// No mapping ends within a page.
const PAGE: u64 = 4096;

/// Something with addresses that can be read.
pub trait Memory {
    /// Fills `bytes` with what is at `addr`, all of it or an error.
    ///
    /// # Errors
    /// When any of it is not mapped or not readable, or the process is gone.
    fn read_into(&self, addr: u64, bytes: &mut [u8]) -> io::Result<()>;

    /// Reads `size` bytes. The caller bounds `size`.
    ///
    /// # Errors
    /// As [`Memory::read_into`].
    fn read(&self, addr: u64, size: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; size];
        self.read_into(addr, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads at least `least` bytes, and up to `most` as far as that touches no further page: what is not needed can be
    /// missing, but cannot make the read fail.
    ///
    /// # Errors
    /// As [`Memory::read_into`], for the first `least` bytes.
    fn read_some(&self, addr: u64, least: usize, most: usize) -> io::Result<Vec<u8>> {
        let end = addr
            .checked_add(least as u64)
            .ok_or(io::ErrorKind::InvalidInput)?;
        let left_of_page = (PAGE - end % PAGE) % PAGE;
        let more = most.saturating_sub(least) as u64;
        self.read(addr, least + left_of_page.min(more) as usize)
    }

    /// Reads plain data.
    ///
    /// # Errors
    /// As [`Memory::read_into`].
    fn value<T: FromBytes + zerocopy::IntoBytes>(&self, addr: u64) -> io::Result<T> {
        let mut value = T::new_zeroed();
        self.read_into(addr, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Reads a word.
    ///
    /// # Errors
    /// As [`Memory::read_into`].
    fn word(&self, addr: u64) -> io::Result<u64> {
        self.value(addr)
    }
}

/// The memory of a running process.
#[derive(Clone, Copy, Debug)]
pub struct ProcessMemory(pub Pid);

impl Memory for ProcessMemory {
    fn read_into(&self, addr: u64, bytes: &mut [u8]) -> io::Result<()> {
        let len = bytes.len();
        let base = usize::try_from(addr).map_err(|_| io::ErrorKind::InvalidInput)?;
        let pid = SystemPid::from_raw(self.0.0.cast_signed());
        let remote = [RemoteIoVec { base, len }];
        match process_vm_readv(pid, &mut [IoSliceMut::new(bytes)], &remote)? {
            read if read == len => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_its_own_memory_and_nothing_else() {
        let own = ProcessMemory(Pid(std::process::id()));
        let words = [7_u64, 8, 9];
        let addr = words.as_ptr() as u64;
        assert_eq!(own.word(addr + 8).unwrap(), 8);
        assert_eq!(own.value::<[u64; 3]>(addr).unwrap(), words);
        assert!(own.word(0x10).is_err());
        assert!(own.word(u64::MAX - 2).is_err());
    }
}
