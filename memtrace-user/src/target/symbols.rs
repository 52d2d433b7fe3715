//! The names in one object: what it defines, what it takes from others, and which words the dynamic linker fills in.
//!
//! The dynamic tables are found through `PT_DYNAMIC`, as the dynamic linker does, so an object whose section headers
//! were stripped reads the same. Sections are used for `.symtab` only, which nothing else points to.

use object::{
    LittleEndian as LE, U32,
    elf::{self, Dyn64, GnuHashHeader, HashHeader, Rela64, Sym64},
    pod::{Pod, from_bytes, slice_from_all_bytes},
    read::elf::{Dyn as _, Rela as _, Sym as _},
};

use super::{
    elf::Elf,
    image::{Image, MAX_READ},
};

/// Longest symbol name that is looked at; no name of interest comes near it.
const MAX_NAME: usize = 96;
/// Links of one hash chain that are followed; linkers make them a few links long.
const MAX_CHAIN: u64 = 4096;

/// A function or data object that the object defines.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Symbol<'tables> {
    pub(crate) name: &'tables [u8],
    /// Address relative to the load base.
    pub(crate) rel: u64,
    /// Bytes; 0 when the symbol does not say.
    pub(crate) size: u64,
    /// Whether it is a plain function (`STT_FUNC`, not an `STT_GNU_IFUNC`, which returns one).
    pub(crate) is_function: bool,
    /// Whether other objects, or other parts of this one, could link to it.
    pub(crate) is_linkable: bool,
}

/// What the dynamic linker puts into a word.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Slot<'tables> {
    /// The address of a symbol, by name, wherever it is defined.
    Symbol(&'tables [u8]),
    /// An address in this object, relative to the load base.
    Own(u64),
}

/// Symbols as the file has them, and their names.
#[derive(Debug, Default)]
struct Table {
    entries: Vec<u8>,
    names: Vec<u8>,
}

impl Table {
    fn entries(&self) -> &[Sym64<LE>] {
        slice_from_all_bytes(&self.entries).unwrap_or_default()
    }

    /// The name of `symbol`; none when it is empty, too long or outside of the string table.
    fn name(&self, symbol: &Sym64<LE>) -> Option<&[u8]> {
        let rest = self.names.get(symbol.st_name(LE) as usize..)?;
        let len = rest.iter().take(MAX_NAME).position(|byte| *byte == 0)?;
        (len > 0).then(|| &rest[..len])
    }
}

/// The names in an object.
#[derive(Debug)]
pub(crate) struct Symbols {
    base: u64,
    dynamic: Table,
    fixed: Table,
    relocations: Vec<Vec<u8>>,
    needs_others: bool,
    is_pie: bool,
    notes: Vec<String>,
}

impl Symbols {
    /// Reads the tables. One that is missing or damaged is empty.
    pub(crate) fn read(image: &Image, elf: &Elf) -> Self {
        let mut symbols = Self {
            base: elf.base,
            dynamic: Table::default(),
            fixed: Table::default(),
            relocations: Vec::new(),
            needs_others: false,
            is_pie: false,
            notes: Vec::new(),
        };
        let tables = Tables { image, elf };
        symbols.read_dynamic(&tables);
        symbols.read_fixed(&tables);
        symbols
    }

    /// Whether the object asks for others to be loaded with it.
    pub(crate) fn needs_others(&self) -> bool {
        self.needs_others
    }

    /// Whether the linker has marked it as a program that may be loaded anywhere.
    pub(crate) fn is_pie(&self) -> bool {
        self.is_pie
    }

    /// Whether its functions have names, and not only those it exports.
    pub(crate) fn has_own_names(&self) -> bool {
        !self.fixed.entries.is_empty()
    }

    /// What was left out, in words for the user.
    pub(crate) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Every function and data object that is defined here, from both symbol tables; many appear twice.
    pub(crate) fn defined(&self) -> impl Iterator<Item = Symbol<'_>> {
        [&self.dynamic, &self.fixed].into_iter().flat_map(|table| {
            let entries = table.entries().iter();
            entries.filter_map(|symbol| self.symbol(table, symbol))
        })
    }

    /// The words that the dynamic linker fills in, by their address relative to the load base.
    pub(crate) fn slots(&self) -> impl Iterator<Item = (u64, Slot<'_>)> {
        self.relocations().filter_map(|relocation| {
            let slot = match relocation.r_type(LE, false) {
                elf::R_X86_64_JUMP_SLOT | elf::R_X86_64_GLOB_DAT | elf::R_X86_64_64 => {
                    Slot::Symbol(self.dynamic.name(self.target(relocation)?)?)
                }
                elf::R_X86_64_RELATIVE => {
                    let addend = relocation.r_addend(LE).cast_unsigned();
                    Slot::Own(addend.checked_sub(self.base)?)
                }
                _ => return None,
            };
            Some((relocation.r_offset(LE).checked_sub(self.base)?, slot))
        })
    }

    /// Names that this object takes from others: undefined symbols that some relocation asks for.
    pub(crate) fn imports(&self) -> impl Iterator<Item = &[u8]> {
        self.relocations().filter_map(|relocation| {
            let symbol = self.target(relocation)?;
            self.dynamic
                .name(symbol)
                .filter(|_| symbol.is_undefined(LE))
        })
    }

    fn relocations(&self) -> impl Iterator<Item = &Rela64<LE>> {
        let tables = self.relocations.iter();
        tables.flat_map(|bytes| slice_from_all_bytes(bytes).unwrap_or_default())
    }

    /// The symbol that a relocation names.
    fn target(&self, relocation: &Rela64<LE>) -> Option<&Sym64<LE>> {
        self.dynamic
            .entries()
            .get(relocation.r_sym(LE, false) as usize)
    }

    fn symbol<'tables>(
        &self,
        table: &'tables Table,
        symbol: &Sym64<LE>,
    ) -> Option<Symbol<'tables>> {
        let is_function = symbol.st_type() == elf::STT_FUNC;
        let has_place = !symbol.is_undefined(LE) && !symbol.is_absolute(LE);
        if !has_place || !(is_function || symbol.st_type() == elf::STT_OBJECT) {
            return None;
        }
        Some(Symbol {
            name: table.name(symbol)?,
            rel: symbol.st_value(LE).checked_sub(self.base)?,
            size: symbol.st_size(LE),
            is_function,
            is_linkable: symbol.st_bind() != elf::STB_LOCAL
                || matches!(symbol.st_visibility(), elf::STV_HIDDEN | elf::STV_INTERNAL),
        })
    }

    fn read_dynamic(&mut self, tables: &Tables<'_>) {
        let entries = tables.dynamic();
        let entries = slice_from_all_bytes::<Dyn64<LE>>(&entries).unwrap_or_default();
        let value = |tag: i64| {
            let entries = entries
                .iter()
                .take_while(|entry| entry.d_tag(LE) != elf::DT_NULL);
            let mut matching = entries.filter(|entry| entry.d_tag(LE) == tag);
            matching.next().map(|entry| entry.d_val(LE))
        };
        self.needs_others = value(elf::DT_NEEDED).is_some();
        self.is_pie =
            value(elf::DT_FLAGS_1).is_some_and(|flags| flags & u64::from(elf::DF_1_PIE) != 0);
        for (start, size) in [
            (elf::DT_RELA, elf::DT_RELASZ),
            (elf::DT_JMPREL, elf::DT_PLTRELSZ),
        ] {
            if let (Some(start), Some(size)) = (value(start), value(size)) {
                self.relocations
                    .extend(tables.at::<Rela64<LE>>(start, size / size_of::<Rela64<LE>>() as u64));
            }
        }
        let count = value(elf::DT_GNU_HASH)
            .and_then(|hash| tables.count_by_gnu_hash(hash))
            .or_else(|| tables.count_by_hash(value(elf::DT_HASH)?));
        let symbols = value(elf::DT_SYMTAB).zip(count);
        let names = value(elf::DT_STRTAB).zip(value(elf::DT_STRSZ));
        if let (Some((symbols, count)), Some((names, size))) = (symbols, names) {
            self.dynamic = Table {
                entries: tables.at::<Sym64<LE>>(symbols, count).unwrap_or_default(),
                names: tables.at::<u8>(names, size).unwrap_or_default(),
            };
        }
    }

    fn read_fixed(&mut self, tables: &Tables<'_>) {
        let Tables { image, elf } = tables;
        let (Some(entries), Some(names)) = (elf.section(b".symtab"), elf.section(b".strtab"))
        else {
            return;
        };
        let read = |file: &std::ops::Range<u64>| image.read(file.start, file.end - file.start);
        match (read(&entries.file), read(&names.file)) {
            (Ok(entries), Ok(names)) => self.fixed = Table { entries, names },
            _ => self.notes.push(format!(
                "its symbol table cannot be read, or is larger than {} MiB: only exported functions were searched",
                MAX_READ >> 20
            )),
        }
    }
}

/// The tables of an object by the addresses that its dynamic section names.
struct Tables<'object> {
    image: &'object Image,
    elf: &'object Elf,
}

impl Tables<'_> {
    /// The bytes of `PT_DYNAMIC`; none when the object is linked statically.
    fn dynamic(&self) -> Vec<u8> {
        let dynamic = self.elf.dynamic.clone().unwrap_or_default();
        let count = (dynamic.end - dynamic.start) / size_of::<Dyn64<LE>>() as u64;
        self.at::<Dyn64<LE>>(dynamic.start, count)
            .unwrap_or_default()
    }

    /// The bytes of `count` values at `vaddr`; none when they are not all in the file or too many.
    fn at<T: Pod>(&self, vaddr: u64, count: u64) -> Option<Vec<u8>> {
        let size = count.checked_mul(size_of::<T>() as u64)?;
        let file = self.elf.file_range_from(vaddr)?;
        let fits = size <= file.end - file.start;
        fits.then(|| self.image.read(file.start, size).ok())
            .flatten()
    }

    /// One value at `vaddr`.
    fn one<T: Pod + Copy>(&self, vaddr: u64) -> Option<T> {
        from_bytes::<T>(&self.at::<T>(vaddr, 1)?)
            .ok()
            .map(|(value, _)| *value)
    }

    /// Symbols behind a `DT_HASH` table: as many as it has chains.
    fn count_by_hash(&self, vaddr: u64) -> Option<u64> {
        let header: HashHeader<LE> = self.one(vaddr)?;
        Some(u64::from(header.chain_count.get(LE)))
    }

    /// Symbols behind a `DT_GNU_HASH` table, which does not store their number: the chain of the highest bucket
    /// ends, with bit 0 set, at the last symbol. Symbols below the base are imports, not hashed.
    fn count_by_gnu_hash(&self, vaddr: u64) -> Option<u64> {
        let header: GnuHashHeader<LE> = self.one(vaddr)?;
        let base = u64::from(header.symbol_base.get(LE));
        let filter_bytes = u64::from(header.bloom_count.get(LE)) * 8;
        let buckets_at = vaddr.checked_add(size_of::<GnuHashHeader<LE>>() as u64 + filter_bytes)?;
        let buckets = self.at::<U32<LE>>(buckets_at, u64::from(header.bucket_count.get(LE)))?;
        let heads = slice_from_all_bytes::<U32<LE>>(&buckets).ok()?;
        let highest = u64::from(heads.iter().map(|head| head.get(LE)).max()?);
        let Some(first_link) = highest.checked_sub(base) else {
            return Some(base);
        };
        let chains_at = buckets_at.checked_add(buckets.len() as u64)?;
        (0..MAX_CHAIN)
            .find(|step| {
                let link = self.one::<U32<LE>>(chains_at.saturating_add((first_link + step) * 4));
                link.is_none_or(|link| link.get(LE) & 1 != 0)
            })
            .map(|step| highest + step + 1)
    }
}
