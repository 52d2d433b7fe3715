//! Functions of other objects that never return, by their names, and how this object calls them.
//!
//! Behind a call of one there is other code, or none.

use std::{collections::BTreeSet, slice};

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};
use object::{
    LittleEndian as LE,
    elf::{self, Rela64, Sym64},
    pod::{Pod, slice_from_all_bytes},
};

use super::Code;
use crate::target::{
    elf::{Elf, Section},
    image::Image,
};

/// C, C++ and the compilers' own.
const NAMES: [&[u8]; 21] = [
    b"abort",
    b"exit",
    b"_exit",
    b"_Exit",
    b"quick_exit",
    b"pthread_exit",
    b"longjmp",
    b"siglongjmp",
    b"err",
    b"errx",
    b"verr",
    b"verrx",
    b"__assert_fail",
    b"__stack_chk_fail",
    b"__fortify_fail",
    b"__chk_fail",
    b"__longjmp_chk",
    b"_Unwind_Resume",
    b"__cxa_throw",
    b"__cxa_rethrow",
    b"_ZSt9terminatev",
];
/// Sections in which linkers put the stubs that jump to other objects.
const PLT_SECTIONS: [&[u8]; 3] = [b".plt", b".plt.sec", b".plt.got"];

/// What never returns, as `rel`.
#[derive(Debug, Default)]
pub(super) struct NoReturn {
    /// Beginnings of functions, stubs among them.
    functions: BTreeSet<u32>,
    /// Words that the dynamic linker fills with the address of one.
    slots: BTreeSet<u64>,
}

impl NoReturn {
    /// Finds those that the file imports.
    pub(super) fn imported(image: &Image, elf: &Elf) -> Self {
        let slots = elf
            .sections_of_kind(elf::SHT_RELA)
            .flat_map(|table| imported_slots(image, elf, table))
            .collect();
        let mut found = Self {
            functions: BTreeSet::new(),
            slots,
        };
        for section in PLT_SECTIONS.iter().filter_map(|name| elf.section(name)) {
            found.add_stubs(image, elf, section);
        }
        found
    }

    /// Adds a function of this object.
    pub(super) fn insert(&mut self, function: u32) {
        self.functions.insert(function);
    }

    /// Number of functions known.
    pub(super) fn len(&self) -> usize {
        self.functions.len()
    }

    /// Whether a direct call or jump to `target` never comes back.
    pub(super) fn contains(&self, target: Option<u32>) -> bool {
        target.is_some_and(|target| self.functions.contains(&target))
    }

    /// Whether an indirect call or jump goes through a slot of one.
    pub(super) fn is_through_slot(&self, instruction: &Instruction) -> bool {
        instruction.op0_kind() == OpKind::Memory
            && instruction.memory_base() == Register::RIP
            && self.slots.contains(&instruction.ip_rel_memory_address())
    }

    fn add_stubs(&mut self, image: &Image, elf: &Elf, section: &Section) {
        let Some(start) = section
            .vaddr
            .checked_sub(elf.base)
            .and_then(|rel| u32::try_from(rel).ok())
        else {
            return;
        };
        let end = start.saturating_add((section.file.end - section.file.start) as u32);
        for (start, bytes) in Code::read(image, elf, slice::from_ref(&(start..end))).pieces {
            let mut stub = start;
            for instruction in Decoder::with_ip(64, &bytes, start.into(), DecoderOptions::NONE) {
                if instruction.flow_control() != FlowControl::IndirectBranch {
                    // Stubs are aligned; `endbr64` is the first instruction of those that have it.
                    if instruction.ip() % 16 == 0 || instruction.mnemonic() == Mnemonic::Endbr64 {
                        stub = instruction.ip() as u32;
                    }
                    continue;
                }
                let first = if instruction.ip() % 8 == 0 {
                    instruction.ip() as u32
                } else {
                    stub
                };
                if self.is_through_slot(&instruction) {
                    self.functions.insert(first);
                }
            }
        }
    }
}

/// The words that a relocation table fills with the address of one of [`NAMES`].
fn imported_slots(image: &Image, elf: &Elf, table: &Section) -> Vec<u64> {
    let symbols = elf.section_at(table.link);
    let strings = symbols.and_then(|symbols| elf.section_at(symbols.link));
    let symbols: Vec<Sym64<LE>> = read_all(image, symbols);
    let strings: Vec<u8> = read_all(image, strings);
    let is_named = |index: u32| {
        let name = symbols
            .get(index as usize)
            .and_then(|symbol| strings.get(symbol.st_name.get(LE) as usize..));
        name.and_then(|name| name.split(|&byte| byte == 0).next())
            .is_some_and(|name| NAMES.contains(&name))
    };
    let entries: Vec<Rela64<LE>> = read_all(image, Some(table));
    entries
        .iter()
        .filter(|entry| {
            matches!(
                entry.r_type(LE, false),
                elf::R_X86_64_JUMP_SLOT | elf::R_X86_64_GLOB_DAT
            )
        })
        .filter(|entry| is_named(entry.r_sym(LE, false)))
        .map(|entry| entry.r_offset.get(LE).wrapping_sub(elf.base))
        .collect()
}

/// The entries of a section; none when there is no section, or it cannot be read.
pub(super) fn read_all<T: Pod>(image: &Image, section: Option<&Section>) -> Vec<T> {
    let bytes = section.and_then(|section| {
        image
            .read(section.file.start, section.file.end - section.file.start)
            .ok()
    });
    slice_from_all_bytes::<T>(&bytes.unwrap_or_default())
        .unwrap_or_default()
        .to_vec()
}
