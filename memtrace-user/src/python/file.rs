//! Bytes of an interpreter's file, by the addresses that its code and symbols use.

use std::ops::Range;

use iced_x86::{Decoder, DecoderOptions, Instruction};

use crate::target::{elf::Elf, image::Image, object::Object};

/// Bytes of one function that are decoded; the largest interpreter loop known has 90 KiB.
const MAX_FUNCTION: u64 = 4 << 20;

/// A file and its headers.
#[derive(Clone, Copy, Debug)]
pub(super) struct File<'object> {
    pub(super) image: &'object Image,
    pub(super) elf: &'object Elf,
}

/// A symbol's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Address relative to the load base.
    pub(super) rel: u64,
    /// Bytes; 0 when the symbol does not say.
    pub(super) size: u64,
}

impl<'object> File<'object> {
    pub(super) fn of(object: &'object Object) -> Option<Self> {
        let (image, elf) = object.contents()?;
        Some(Self { image, elf })
    }

    /// Up to `most` bytes at `rel`: fewer where the segment's bytes end, none where there are none.
    pub(super) fn bytes(self, rel: u64, most: u64) -> Option<Vec<u8>> {
        let file = self.elf.file_range_from(rel.checked_add(self.elf.base)?)?;
        self.image
            .read(file.start, most.min(file.end - file.start))
            .ok()
    }

    /// Offset in the file of what is at `rel`.
    pub(super) fn offset(self, rel: u64) -> Option<u64> {
        let file = self.elf.file_range_from(rel.checked_add(self.elf.base)?)?;
        Some(file.start)
    }

    /// The word at `rel`.
    pub(super) fn word(self, rel: u64) -> Option<u64> {
        let bytes = self.bytes(rel, 8)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    }

    /// The instructions in `code`, by addresses relative to the load base, up to the first bytes that are none.
    pub(super) fn instructions(self, code: Range<u64>) -> Vec<Instruction> {
        let size = code.end.saturating_sub(code.start).min(MAX_FUNCTION);
        let Some(bytes) = self.bytes(code.start, size) else {
            return Vec::new();
        };
        Decoder::with_ip(64, &bytes, code.start, DecoderOptions::NONE)
            .iter()
            .take_while(|instruction| !instruction.is_invalid())
            .collect()
    }
}
