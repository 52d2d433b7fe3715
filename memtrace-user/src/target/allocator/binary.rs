//! One x86-64 ELF object as the allocator search reads it: code by address, symbols, imported slots.
//!
//! Works on anything that implements [`object::ReadRef`]: a slice, or an [`object::ReadCache`] over an open
//! file, so that an executable with gigabytes of debug information is never read whole. Of the file only
//! headers, symbol tables, relocations and the looked-at code are touched.
//!
//! The dynamic tables are found through `PT_DYNAMIC`, as the dynamic linker does, so an object whose section
//! headers were stripped reads the same; sections are used for `.symtab` only, which nothing else points to.
//! Addresses here are `rel`: relative to the object's load base.

use std::{mem::size_of, ops::Range};

use iced_x86::{Decoder, DecoderOptions, Instruction};
use object::{
    LittleEndian as LE, ReadRef, U32,
    elf::{self, Dyn64, FileHeader64, GnuHashHeader, HashHeader, Rela64, Sym64},
    read::elf::{
        Dyn as _, FileHeader as _, ProgramHeader as _, Rela as _, SectionHeader as _, Sym as _,
    },
};

/// Largest symbol, string or relocation table that is read; a larger one is left out and noted.
const MAX_TABLE_BYTES: u64 = 256 << 20;
/// Longest symbol name that is looked at; no name of interest comes near it.
const MAX_NAME: usize = 96;

/// Code is fetched by pages of this size.
const CODE_PAGE: u64 = 4096;
/// Length of the longest x86 instruction.
const MAX_INSTRUCTION: u64 = 15;

/// Why an object cannot be searched.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// The file does not begin with the ELF magic.
    #[error("not an ELF file")]
    NotElf,
    /// It is ELF, but not a 64-bit little-endian x86-64 executable or shared library.
    #[error("not an x86-64 executable or shared library")]
    Unsupported,
    /// A header or table that everything else hangs on cannot be read.
    #[error("damaged ELF file: failed to read {what}")]
    Damaged {
        /// The part that could not be read.
        what: &'static str,
        /// What the parser says.
        source: object::read::Error,
    },
}

/// A loadable segment's file-backed part.
#[derive(Debug)]
struct Segment {
    rel: Range<u64>,
    file_off: u64,
    executable: bool,
}

/// A symbol that the object defines: a function in executable memory, or any data object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Symbol<'data> {
    pub(super) name: &'data [u8],
    pub(super) rel: u64,
    pub(super) size: u64,
    /// Whether it is a plain function (`STT_FUNC`) in an executable segment.
    pub(super) is_function: bool,
    /// Whether other objects, or other parts of this one, could link to it.
    pub(super) is_linkable: bool,
}

/// A word that the dynamic linker fills in.
#[derive(Clone, Copy, Debug)]
pub(super) enum Slot<'data> {
    /// With the address of a symbol, by name, wherever it is defined.
    Symbol(&'data [u8]),
    /// With an address in this object (`rel`).
    Own(u64),
}

/// Symbols and their names.
#[derive(Clone, Copy, Debug, Default)]
struct Symbols<'data> {
    entries: &'data [Sym64<LE>],
    names: &'data [u8],
}

impl<'data> Symbols<'data> {
    /// The name of `symbol`; none when it is empty, too long or outside of the string table.
    fn name(&self, symbol: &Sym64<LE>) -> Option<&'data [u8]> {
        let rest = self.names.get(symbol.st_name(LE) as usize..)?;
        let len = rest.iter().take(MAX_NAME).position(|byte| *byte == 0)?;
        (len > 0).then(|| &rest[..len])
    }
}

/// An opened object.
#[derive(Debug)]
pub(super) struct Binary<'data, R: ReadRef<'data>> {
    data: R,
    segments: Vec<Segment>,
    dynamic_symbols: Symbols<'data>,
    static_symbols: Symbols<'data>,
    relocations: Vec<&'data [Rela64<LE>]>,
    needs_others: bool,
    notes: Vec<String>,
}

impl<'data, R: ReadRef<'data>> Binary<'data, R> {
    /// Reads headers and finds the tables.
    pub(super) fn parse(data: R) -> Result<Self, ElfError> {
        let header = parse_header(data)?;
        let program_headers = header
            .program_headers(LE, data)
            .map_err(damaged("the program headers"))?;
        let mut segments = Vec::new();
        let mut dynamic = None;
        for program_header in program_headers {
            match program_header.p_type(LE) {
                elf::PT_LOAD => segments.push(Segment {
                    rel: program_header.p_vaddr(LE)
                        ..program_header
                            .p_vaddr(LE)
                            .saturating_add(program_header.p_filesz(LE)),
                    file_off: program_header.p_offset(LE),
                    executable: program_header.p_flags(LE) & elf::PF_X != 0,
                }),
                elf::PT_DYNAMIC => dynamic = program_header.dynamic(LE, data).ok().flatten(),
                _ => {}
            }
        }
        let mut binary = Self {
            data,
            segments,
            dynamic_symbols: Symbols::default(),
            static_symbols: Symbols::default(),
            relocations: Vec::new(),
            needs_others: false,
            notes: Vec::new(),
        };
        if let Some(entries) = dynamic {
            binary.find_dynamic_tables(entries);
        }
        binary.find_static_symbols(header);
        Ok(binary)
    }

    /// Whether nothing can be said about what the object contains: it uses no other object, and its own
    /// functions have no names.
    pub(super) fn is_opaque(&self) -> bool {
        !self.needs_others && self.static_symbols.entries.is_empty()
    }

    /// What was left out, in words for the user.
    pub(super) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The offset in the file of the byte at `rel`; none where the file has no such byte.
    pub(super) fn file_off(&self, rel: u64) -> Option<u64> {
        let segment = self.segment(rel)?;
        (rel - segment.rel.start).checked_add(segment.file_off)
    }

    /// Up to `max` bytes of machine code at `rel`; fewer where the segment ends, none outside of code.
    pub(super) fn code(&self, rel: u64, max: u64) -> Option<&'data [u8]> {
        let segment = self.segment(rel).filter(|segment| segment.executable)?;
        let len = max.min(segment.rel.end - rel);
        self.data.read_bytes_at(self.file_off(rel)?, len).ok()
    }

    /// The instruction at `rel`; none outside of code and where the bytes are none.
    pub(super) fn instruction(&self, rel: u64) -> Option<Instruction> {
        // Whole pages are asked for, so that a caching reader keeps one block a page.
        let start = (rel & !(CODE_PAGE - 1)).max(self.segment(rel)?.rel.start);
        let page = self.code(start, CODE_PAGE + MAX_INSTRUCTION)?;
        let bytes = page.get(usize::try_from(rel - start).ok()?..)?;
        let instruction = Decoder::with_ip(64, bytes, rel, DecoderOptions::NONE).decode();
        (!instruction.is_invalid()).then_some(instruction)
    }

    /// Every function and data object that is defined here, from both symbol tables; many appear twice.
    pub(super) fn defined(&self) -> impl Iterator<Item = Symbol<'data>> {
        [self.dynamic_symbols, self.static_symbols]
            .into_iter()
            .flat_map(move |table| {
                table
                    .entries
                    .iter()
                    .filter_map(move |symbol| self.symbol(&table, symbol))
            })
    }

    /// The words that the dynamic linker fills in, by their `rel`.
    pub(super) fn slots(&self) -> impl Iterator<Item = (u64, Slot<'data>)> {
        self.relocations
            .iter()
            .copied()
            .flatten()
            .filter_map(|rela| {
                let slot = match rela.r_type(LE, false) {
                    elf::R_X86_64_JUMP_SLOT | elf::R_X86_64_GLOB_DAT | elf::R_X86_64_64 => {
                        let symbol = self
                            .dynamic_symbols
                            .entries
                            .get(rela.r_sym(LE, false) as usize)?;
                        Slot::Symbol(self.dynamic_symbols.name(symbol)?)
                    }
                    elf::R_X86_64_RELATIVE => Slot::Own(rela.r_addend(LE).cast_unsigned()),
                    _ => return None,
                };
                Some((rela.r_offset(LE), slot))
            })
    }

    /// Names that this object takes from others: undefined symbols that some relocation asks for.
    pub(super) fn imports(&self) -> impl Iterator<Item = &'data [u8]> {
        self.relocations
            .iter()
            .copied()
            .flatten()
            .filter_map(|rela| {
                let symbol = self
                    .dynamic_symbols
                    .entries
                    .get(rela.r_sym(LE, false) as usize)?;
                let is_import = symbol.st_shndx(LE) == elf::SHN_UNDEF;
                self.dynamic_symbols.name(symbol).filter(|_| is_import)
            })
    }

    fn segment(&self, rel: u64) -> Option<&Segment> {
        self.segments
            .iter()
            .find(|segment| segment.rel.contains(&rel))
    }

    fn symbol(&self, table: &Symbols<'data>, symbol: &Sym64<LE>) -> Option<Symbol<'data>> {
        let is_function = symbol.st_type() == elf::STT_FUNC;
        let section = symbol.st_shndx(LE);
        if !(is_function || symbol.st_type() == elf::STT_OBJECT)
            || section == elf::SHN_UNDEF
            || section == elf::SHN_ABS
        {
            return None;
        }
        let rel = symbol.st_value(LE);
        Some(Symbol {
            name: table.name(symbol)?,
            rel,
            size: symbol.st_size(LE),
            is_function: is_function && self.segment(rel).is_some_and(|segment| segment.executable),
            is_linkable: symbol.st_bind() != elf::STB_LOCAL
                || matches!(symbol.st_visibility(), elf::STV_HIDDEN | elf::STV_INTERNAL),
        })
    }

    fn find_dynamic_tables(&mut self, entries: &[Dyn64<LE>]) {
        let value = |tag: i64| {
            let mut entries = entries
                .iter()
                .take_while(|entry| entry.d_tag(LE) != elf::DT_NULL);
            entries
                .find(|entry| entry.d_tag(LE) == tag)
                .map(|entry| entry.d_val(LE))
        };
        self.needs_others = value(elf::DT_NEEDED).is_some();
        let mut relocations = Vec::new();
        for (table, size) in [
            (elf::DT_RELA, elf::DT_RELASZ),
            (elf::DT_JMPREL, elf::DT_PLTRELSZ),
        ] {
            if let (Some(table), Some(size)) = (value(table), value(size)) {
                relocations.extend(self.table(table, size / size_of::<Rela64<LE>>() as u64));
            }
        }
        self.relocations = relocations;
        let count = value(elf::DT_GNU_HASH)
            .and_then(|table| self.gnu_hash_symbol_count(table))
            .or_else(|| value(elf::DT_HASH).and_then(|table| self.hash_symbol_count(table)));
        let symbols = value(elf::DT_SYMTAB).zip(count);
        let names = value(elf::DT_STRTAB).zip(value(elf::DT_STRSZ));
        if let (Some((symbols, count)), Some((names, size))) = (symbols, names) {
            self.dynamic_symbols = Symbols {
                entries: self.table(symbols, count).unwrap_or_default(),
                names: self.table(names, size).unwrap_or_default(),
            };
        }
    }

    fn find_static_symbols(&mut self, header: &'data FileHeader64<LE>) {
        let Ok(sections) = header.sections(LE, self.data) else {
            return;
        };
        let Some(section) = sections
            .iter()
            .find(|section| section.sh_type(LE) == elf::SHT_SYMTAB)
        else {
            return;
        };
        let Ok(names) = sections.section(object::SectionIndex(section.sh_link(LE) as usize)) else {
            return;
        };
        if section.sh_size(LE).max(names.sh_size(LE)) > MAX_TABLE_BYTES {
            self.notes.push(format!(
                "the symbol table is larger than {} MiB: only exported functions were searched",
                MAX_TABLE_BYTES >> 20
            ));
            return;
        }
        self.static_symbols = Symbols {
            entries: section.data_as_array(LE, self.data).unwrap_or_default(),
            names: names.data(LE, self.data).unwrap_or_default(),
        };
    }

    /// `count` values at `rel`; none when they are not all in the file or too many.
    fn table<T: object::Pod>(&self, rel: u64, count: u64) -> Option<&'data [T]> {
        if count.checked_mul(size_of::<T>() as u64)? > MAX_TABLE_BYTES {
            return None;
        }
        self.data
            .read_slice_at(self.file_off(rel)?, usize::try_from(count).ok()?)
            .ok()
    }

    /// Symbols behind a `DT_HASH` table: as many as it has chains.
    fn hash_symbol_count(&self, rel: u64) -> Option<u64> {
        let header: &HashHeader<LE> = self.table(rel, 1)?.first()?;
        Some(u64::from(header.chain_count.get(LE)))
    }

    /// Symbols behind a `DT_GNU_HASH` table, which does not store their number: the chain of the highest
    /// bucket ends, with bit 0 set, at the last symbol. Symbols below the base are imports, not hashed.
    fn gnu_hash_symbol_count(&self, rel: u64) -> Option<u64> {
        let header: &GnuHashHeader<LE> = self.table(rel, 1)?.first()?;
        let base = u64::from(header.symbol_base.get(LE));
        let buckets_at = rel
            .checked_add(size_of::<GnuHashHeader<LE>>() as u64)?
            .checked_add(u64::from(header.bloom_count.get(LE)) * 8)?;
        let buckets: &[U32<LE>] = self.table(buckets_at, u64::from(header.bucket_count.get(LE)))?;
        let mut last = u64::from(buckets.iter().map(|bucket| bucket.get(LE)).max()?);
        if last < base {
            return Some(base);
        }
        let chains_at = buckets_at.checked_add(size_of_val(buckets) as u64)?;
        loop {
            let chain: &U32<LE> = self
                .table(chains_at.checked_add((last - base) * 4)?, 1)?
                .first()?;
            last += 1;
            if chain.get(LE) & 1 != 0 {
                return Some(last);
            }
        }
    }
}

fn parse_header<'data, R: ReadRef<'data>>(data: R) -> Result<&'data FileHeader64<LE>, ElfError> {
    if data.read_bytes_at(0, 4) != Ok(&elf::ELFMAG) {
        return Err(ElfError::NotElf);
    }
    let header = FileHeader64::<LE>::parse(data).map_err(damaged("the ELF header"))?;
    let is_loadable = matches!(header.e_type(LE), elf::ET_EXEC | elf::ET_DYN);
    if !header.is_little_endian() || header.e_machine(LE) != elf::EM_X86_64 || !is_loadable {
        return Err(ElfError::Unsupported);
    }
    Ok(header)
}

fn damaged(what: &'static str) -> impl FnOnce(object::read::Error) -> ElfError {
    move |source| ElfError::Damaged { what, source }
}
