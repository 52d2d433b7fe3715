//! Reads the running kernel's type information (`/sys/kernel/btf/vmlinux`): where members lie in structures, and the
//! numbers of functions that programs may call.
//!
//! Only what the probes need of the format (Documentation/bpf/btf.rst): one pass over the types, names compared in
//! place, nothing kept. That takes a few milliseconds, where a general reader takes 170.

use std::{fs, io};

use memtrace_common::process::KernelOffsets;

/// Where the kernel shows its types.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_FUNC: u32 = 12;
/// Anonymous structures inside structures nest a few levels deep; deeper is damage.
const MAX_NESTING: u32 = 8;

/// Why the kernel's types are of no use.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// There is no such file, or it cannot be read.
    #[error("failed to read `{VMLINUX}`")]
    Read(#[source] io::Error),
    /// The file is not what the format says.
    #[error("`{VMLINUX}` is damaged")]
    Damaged,
    /// The kernel has no such structure or member.
    #[error("the kernel's types have no `{0}`")]
    Missing(String),
}

/// The kernel's types.
#[derive(Debug)]
pub(crate) struct KernelTypes {
    bytes: Vec<u8>,
    strings: usize,
    /// Offset of each type's record; type 0 is `void` and has none.
    records: Vec<usize>,
}

impl KernelTypes {
    /// Reads the running kernel's types.
    pub(crate) fn of_running_kernel() -> Result<Self, BtfError> {
        Self::parse(fs::read(VMLINUX).map_err(BtfError::Read)?)
    }

    /// Indexes a BTF blob.
    fn parse(bytes: Vec<u8>) -> Result<Self, BtfError> {
        let half = |at: usize| {
            bytes
                .get(at..at + 2)
                .map(|b| u16::from_le_bytes([b[0], b[1]]))
        };
        if half(0) != Some(MAGIC) {
            return Err(BtfError::Damaged);
        }
        let header = word(&bytes, 4).ok_or(BtfError::Damaged)? as usize;
        let field = |at| {
            word(&bytes, at)
                .map(|value| value as usize)
                .ok_or(BtfError::Damaged)
        };
        let types = header + field(8)?;
        let end = types + field(12)?;
        let strings = header + field(16)?;
        let mut records = vec![0];
        let mut at = types;
        while at < end {
            records.push(at);
            at += record_size(&bytes, at).ok_or(BtfError::Damaged)?;
        }
        Ok(Self {
            bytes,
            strings,
            records,
        })
    }

    /// The number of a kernel function, for a program that calls it.
    pub(crate) fn function(&self, name: &str) -> Option<u32> {
        self.find(KIND_FUNC, name).map(|(id, _)| id)
    }

    /// Everything the probes want to know.
    pub(crate) fn offsets(&self) -> Result<KernelOffsets, BtfError> {
        Ok(KernelOffsets {
            task_mm: self.member("task_struct", "mm")?,
            task_tgid: self.member("task_struct", "tgid")?,
            task_pid: self.member("task_struct", "pid")?,
            task_signal: self.member("task_struct", "signal")?,
            signal_live: self.member("signal_struct", "live")?,
            vma_start: self.member("vm_area_struct", "vm_start")?,
            vma_end: self.member("vm_area_struct", "vm_end")?,
            vma_pgoff: self.member("vm_area_struct", "vm_pgoff")?,
            vma_file: self.member("vm_area_struct", "vm_file")?,
            file_inode: self.member("file", "f_inode")?,
            inode_ino: self.member("inode", "i_ino")?,
            inode_sb: self.member("inode", "i_sb")?,
            super_dev: self.member("super_block", "s_dev")?,
            task_fsbase: self.member("task_struct", "thread")?
                + self.member("thread_struct", "fsbase")?,
            reserved: [0; 2],
        })
    }

    /// Offset in bytes of a structure's member, also inside its anonymous members.
    fn member(&self, structure: &str, member: &str) -> Result<u32, BtfError> {
        let missing = || BtfError::Missing(format!("{structure}.{member}"));
        let (_, at) = self.find(KIND_STRUCT, structure).ok_or_else(missing)?;
        let bits = self
            .member_in(at, member, MAX_NESTING)
            .ok_or_else(missing)?;
        Ok(bits / 8)
    }

    /// Offset in bits of a member of the structure or union whose record is at `at`.
    fn member_in(&self, at: usize, member: &str, nesting: u32) -> Option<u32> {
        let info = word(&self.bytes, at + 4)?;
        let has_bitfields = info >> 31 != 0;
        (0..info & 0xffff).find_map(|index| {
            let record = at + 12 + 12 * index as usize;
            let name = self.string(word(&self.bytes, record)?)?;
            let mut offset = word(&self.bytes, record + 8)?;
            if has_bitfields {
                offset &= 0xff_ffff;
            }
            if name == member.as_bytes() {
                return Some(offset);
            }
            if !name.is_empty() || nesting == 0 {
                return None;
            }
            let inner = *self.records.get(word(&self.bytes, record + 4)? as usize)?;
            let kind = kind_of(word(&self.bytes, inner + 4)?);
            if kind != KIND_STRUCT && kind != KIND_UNION {
                return None;
            }
            Some(offset + self.member_in(inner, member, nesting - 1)?)
        })
    }

    /// Number and record of the first type of this kind and name that has content.
    fn find(&self, kind: u32, name: &str) -> Option<(u32, usize)> {
        self.records
            .iter()
            .enumerate()
            .skip(1)
            .find_map(|(id, &at)| {
                let info = word(&self.bytes, at + 4)?;
                let matches = kind_of(info) == kind
                    && (kind == KIND_FUNC || info & 0xffff != 0)
                    && self.string(word(&self.bytes, at)?)? == name.as_bytes();
                matches.then_some((id as u32, at))
            })
    }

    /// The zero-terminated string at an offset of the string section.
    fn string(&self, offset: u32) -> Option<&[u8]> {
        let rest = self.bytes.get(self.strings + offset as usize..)?;
        let end = rest.iter().position(|&byte| byte == 0)?;
        Some(&rest[..end])
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

fn kind_of(info: u32) -> u32 {
    (info >> 24) & 0x1f
}

/// Bytes of the type record at `at`: a head of 12 and what its kind adds (include/uapi/linux/btf.h).
fn record_size(bytes: &[u8], at: usize) -> Option<usize> {
    let info = word(bytes, at + 4)?;
    let count = (info & 0xffff) as usize;
    let tail = match kind_of(info) {
        1 | 14 | 17 => 4,                            // int, variable, declaration tag
        3 => 12,                                     // array
        KIND_STRUCT | KIND_UNION | 19 => 12 * count, // members; 64-bit enumerators
        6 | 13 | 15 => {
            // enumerators and parameters have 8 bytes, the variables of a section 12
            if kind_of(info) == 15 {
                12 * count
            } else {
                8 * count
            }
        }
        0..=20 => 0,
        _ => return None,
    };
    Some(12 + tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `pahole`'s job done by the kernel itself: the thread's own name, read from its `task_struct`, is checked by the
    /// probes' tests; here the plain facts that hold on every kernel.
    #[test]
    fn the_running_kernel_has_what_the_probes_need() {
        let types = KernelTypes::of_running_kernel().expect("this kernel shows its types");
        let offsets = types.offsets().expect("all members are there");
        assert_eq!(offsets.task_tgid, offsets.task_pid + 4);
        assert_eq!(offsets.vma_end, offsets.vma_start + 8);
        assert!(types.function("no_such_function").is_none());
        assert!(types.function("bpf_prog_load").is_some() || types.function("schedule").is_some());
    }

    #[test]
    fn damage_is_an_error() {
        assert!(matches!(
            KernelTypes::parse(vec![0; 64]),
            Err(BtfError::Damaged)
        ));
        assert!(matches!(
            KernelTypes::parse(Vec::new()),
            Err(BtfError::Damaged)
        ));
        let mut bytes = fs::read(VMLINUX).expect("this kernel shows its types");
        bytes.truncate(4096);
        assert!(KernelTypes::parse(bytes).is_err());
    }
}
