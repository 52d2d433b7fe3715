//! Where functions may begin.

use std::collections::BTreeMap;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};
use object::{
    LittleEndian as LE,
    elf::{self, Rela64},
};

use super::{Code, MAX_INSTRUCTIONS, noreturn::read_all};
use crate::target::{elf::Elf, image::Image};

/// A beginning of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seed {
    /// Its first instruction.
    pub(super) start: u32,
    /// End of its code as far as it lies together: by its symbol, or by the next beginning.
    pub(super) end: u32,
    /// Whether a symbol gives the end.
    pub(super) is_sized: bool,
    /// Whether it is one by definition, not only by its looks.
    pub(super) is_certain: bool,
    /// Whether it is the first code of the program, which has no caller.
    pub(super) is_entry: bool,
}

/// All beginnings in the code that has no call frame information.
#[derive(Debug)]
pub(super) struct Seeds<'a> {
    code: &'a Code,
    entry: Option<u32>,
    by_start: BTreeMap<u32, Hint>,
    /// Whether there was more code than is decoded.
    pub(super) cut: bool,
}

/// What is known of a beginning.
#[derive(Clone, Copy, Debug, Default)]
struct Hint {
    /// By its symbol; 0 when there is none.
    size: u32,
    is_certain: bool,
}

impl<'a> Seeds<'a> {
    /// Finds them in `code`, which has no call frame information, by symbols, by what the code itself does, and by
    /// what `rest` does, which has.
    pub(super) fn find(image: &Image, elf: &Elf, code: &'a Code, rest: &Code) -> Self {
        let mut seeds = Self {
            code,
            entry: elf.entry,
            by_start: BTreeMap::new(),
            cut: false,
        };
        let functions = elf.functions(image);
        for function in &functions {
            seeds.add(
                function.rel,
                Hint {
                    size: function.size,
                    is_certain: function.is_typed,
                },
            );
        }
        seeds.add_certain(elf.entry);
        for (start, bytes) in code.pieces.iter().chain(&rest.pieces) {
            seeds.add_from_code(*start, bytes);
        }
        seeds.add_from_relocations(image, elf);
        seeds
    }

    /// All of them, those that are beginnings by definition first.
    pub(super) fn all(&self) -> Vec<Seed> {
        let mut next_certain = u32::MAX;
        let mut all: Vec<Seed> = Vec::with_capacity(self.by_start.len());
        for (&start, &hint) in self.by_start.iter().rev() {
            all.push(self.seed(start, hint, next_certain));
            if hint.is_certain {
                next_certain = start;
            }
        }
        all.reverse();
        all.sort_by_key(|seed| !seed.is_certain);
        all
    }

    /// Number of those that are beginnings by definition.
    pub(super) fn count_certain(&self) -> usize {
        self.by_start
            .values()
            .filter(|hint| hint.is_certain)
            .count()
    }

    /// Adds a beginning by definition, if there is one and it lies in a gap.
    pub(super) fn add_certain(&mut self, rel: Option<u32>) {
        if let Some(rel) = rel {
            self.add(
                rel,
                Hint {
                    size: 0,
                    is_certain: true,
                },
            );
        }
    }

    /// Whether a function begins at `rel`, or may.
    pub(super) fn is_start(&self, rel: u32) -> bool {
        self.by_start.contains_key(&rel)
    }

    /// Whether a function certainly begins at `rel`.
    pub(super) fn is_certain_start(&self, rel: u32) -> bool {
        self.by_start.get(&rel).is_some_and(|hint| hint.is_certain)
    }

    fn seed(&self, start: u32, hint: Hint, next_certain: u32) -> Seed {
        let gap_end = self.code.piece(start).map_or(start, |(gap, _)| gap.end);
        let is_sized = hint.size > 0;
        let end = if is_sized {
            start.saturating_add(hint.size)
        } else {
            next_certain
        };
        Seed {
            start,
            end: end.min(gap_end),
            is_sized,
            is_certain: hint.is_certain,
            is_entry: self.entry == Some(start),
        }
    }

    fn add(&mut self, rel: u32, new: Hint) {
        if self.code.piece(rel).is_some() {
            let hint = self.by_start.entry(rel).or_default();
            hint.size = hint.size.max(new.size);
            hint.is_certain |= new.is_certain;
        }
    }

    fn add_possible(&mut self, rel: u64) {
        if let Ok(rel) = u32::try_from(rel) {
            self.add(rel, Hint::default());
        }
    }

    /// What a straight look over code shows: targets of calls, and addresses of code that are taken.
    fn add_from_code(&mut self, start: u32, bytes: &[u8]) {
        let mut decoder = Decoder::with_ip(64, bytes, start.into(), DecoderOptions::NONE);
        let mut instruction = Instruction::default();
        for _ in 0..MAX_INSTRUCTIONS {
            if !decoder.can_decode() {
                return;
            }
            decoder.decode_out(&mut instruction);
            match instruction.flow_control() {
                // A call to the next instruction is a way to read rip.
                FlowControl::Call if instruction.near_branch_target() != instruction.next_ip() => {
                    self.add_certain(near_target(&instruction));
                }
                FlowControl::Next if takes_address(&instruction) => {
                    self.add_possible(instruction.ip_rel_memory_address());
                }
                _ => {}
            }
        }
        self.cut = true;
    }

    /// Addresses of code in tables that the dynamic linker fills.
    fn add_from_relocations(&mut self, image: &Image, elf: &Elf) {
        for table in elf.sections_of_kind(elf::SHT_RELA) {
            let entries: Vec<Rela64<LE>> = read_all(image, Some(table));
            for entry in entries
                .iter()
                .filter(|entry| entry.r_type(LE, false) == elf::R_X86_64_RELATIVE)
            {
                self.add_possible((entry.r_addend.get(LE) as u64).wrapping_sub(elf.base));
            }
        }
    }
}

/// The place of a direct call, jump or branch, if it has one.
pub(super) fn near_target(instruction: &Instruction) -> Option<u32> {
    matches!(instruction.op0_kind(), OpKind::NearBranch64)
        .then(|| u32::try_from(instruction.near_branch_target()).ok())
        .flatten()
}

fn takes_address(instruction: &Instruction) -> bool {
    instruction.mnemonic() == Mnemonic::Lea && instruction.memory_base() == Register::RIP
}
