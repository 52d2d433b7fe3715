//! What an ELF file says about itself: segments, sections, build id, functions.
//!
//! Owns the reading of headers and tables, each bounded, each from a file that nobody checked. Keeps no section's
//! bytes. Does not interpret unwind information; see [`unwind`](crate::unwind).
//!
//! Three kinds of number appear: `vaddr` as the file has it, `file_off`, and `rel = vaddr - base`, where `base` is
//! the lowest loaded address rounded down to a page. `rel` is the same in every process that maps the file.

use std::ops::Range;

use object::{
    Endianness, LittleEndian as LE,
    elf::{self, FileHeader64, ProgramHeader64, SectionHeader64, Sym64},
    pod::{Pod, from_bytes, slice_from_all_bytes},
    read::elf::{NoteIterator, Sym as _},
};

use super::{image::Image, object::Unusable};

/// Bytes of a page on x86-64.
pub const PAGE_SIZE: u64 = 4096;

/// Loaded segments that are kept; linkers write about five.
const MAX_SEGMENTS: usize = 64;
/// Section headers that are read; linkers write some dozens.
const MAX_SECTIONS: u16 = 16_384;
/// Bytes of notes that are searched for the build id.
const MAX_NOTES: u64 = 64 << 10;

/// Facts of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elf {
    /// How it is loaded.
    pub kind: ElfKind,
    /// Lowest address of a loaded segment, rounded down to a page: what `rel` counts from.
    pub base: u64,
    /// The first instruction of the program, as `rel`.
    pub entry: Option<u32>,
    /// The loaded segments, as the file orders them.
    pub segments: Vec<Segment>,
    /// The linker's hash of the contents.
    pub build_id: Option<Box<[u8]>>,
    /// Where `PT_GNU_EH_FRAME` says that the index of the unwind information lies.
    pub eh_frame_hdr: Option<Range<u64>>,
    /// Where `PT_DYNAMIC` says that the dynamic linker's tables lie; none in a static executable.
    pub dynamic: Option<Range<u64>>,
    sections: Vec<Section>,
}

/// How an ELF file is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ElfKind {
    /// At the addresses it names.
    Executable,
    /// Anywhere: a shared object or a position-independent executable.
    Dynamic,
}

/// A loaded segment (`PT_LOAD`): file bytes `file_off..file_off+file_size` appear at `rel`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Offset in the file.
    pub file_off: u64,
    /// Bytes, no more than the file has.
    pub file_size: u64,
    /// Address relative to the base.
    pub rel: u64,
    /// Whether it holds code (`PF_X`). The linker may let a read-only segment share a page of the file with it, so
    /// nothing else tells code from data.
    pub executable: bool,
}

/// A section, by the section headers; they may be stripped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Its name.
    pub name: Box<[u8]>,
    /// Its type (`SHT_*`).
    pub kind: u32,
    /// Its address as the file has it; 0 when it is not loaded.
    pub vaddr: u64,
    /// Where its bytes are; empty when the file has none.
    pub file: Range<u64>,
    /// The section it refers to: of a symbol table, the strings.
    pub link: u32,
    /// Whether it holds instructions.
    pub executable: bool,
}

/// A function by its symbol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Function {
    /// Its first instruction.
    pub rel: u32,
    /// Its bytes; 0 when the symbol does not say (assembly).
    pub size: u32,
    /// Whether the symbol says that it is a function; otherwise it may be a label.
    pub is_typed: bool,
}

impl Elf {
    /// Reads the headers.
    pub fn read(image: &Image) -> Result<Self, Unusable> {
        let header = read_header(image)?;
        let headers = read_program_headers(image, &header)?;
        let base = load_base(&headers)?;
        let segments = load_segments(image, &headers, base);
        let entry = header.e_entry.get(LE);
        Ok(Self {
            kind: match header.e_type.get(LE) {
                elf::ET_EXEC => ElfKind::Executable,
                elf::ET_DYN => ElfKind::Dynamic,
                _ => {
                    return Err(Unusable::Damaged(
                        "neither an executable nor a shared object",
                    ));
                }
            },
            base,
            entry: rel_in(&segments, entry.wrapping_sub(base)),
            segments,
            build_id: read_build_id(image, &headers),
            eh_frame_hdr: vaddr_range_of(&headers, elf::PT_GNU_EH_FRAME),
            dynamic: vaddr_range_of(&headers, elf::PT_DYNAMIC),
            sections: read_sections(image, &header).unwrap_or_default(),
        })
    }

    /// The segments that hold code.
    pub fn code(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().filter(|segment| segment.executable)
    }

    /// End of the last byte of code, as `rel`.
    #[must_use]
    pub fn code_end(&self) -> u64 {
        self.code()
            .map(|segment| segment.rel + segment.file_size)
            .max()
            .unwrap_or(0)
    }

    /// Where instructions lie, as `rel`: by the sections, or where these are stripped by the segments, which may
    /// hold read-only data as well.
    #[must_use]
    pub fn instruction_ranges(&self) -> Vec<Range<u64>> {
        let of_section = |section: &Section| {
            let start = section.vaddr.checked_sub(self.base)?;
            Some(start..start.saturating_add(section.file.end - section.file.start))
        };
        let sections = self.sections.iter().filter(|section| section.executable);
        let ranges: Vec<_> = sections.filter_map(of_section).take(MAX_SEGMENTS).collect();
        if !ranges.is_empty() {
            return ranges;
        }
        self.code()
            .map(|segment| segment.rel..segment.rel + segment.file_size)
            .collect()
    }

    /// A section by name, if the file has its bytes as they are (not compressed, not left out).
    #[must_use]
    pub fn section(&self, name: &[u8]) -> Option<&Section> {
        self.sections
            .iter()
            .find(|section| *section.name == *name && !section.file.is_empty())
    }

    /// A section by its index, as other sections refer to it.
    #[must_use]
    pub fn section_at(&self, index: u32) -> Option<&Section> {
        self.sections.get(index as usize)
    }

    /// The sections of a type (`SHT_*`).
    pub fn sections_of_kind(&self, kind: u32) -> impl Iterator<Item = &Section> {
        self.sections
            .iter()
            .filter(move |section| section.kind == kind)
    }

    /// Where the file has the bytes from `vaddr` to the end of the segment around it.
    #[must_use]
    pub fn file_range_from(&self, vaddr: u64) -> Option<Range<u64>> {
        let rel = vaddr.checked_sub(self.base)?;
        self.segments
            .iter()
            .find(|segment| (segment.rel..segment.rel + segment.file_size).contains(&rel))
            .map(|segment| {
                segment.file_off + (rel - segment.rel)..segment.file_off + segment.file_size
            })
    }

    /// The functions the symbols name, sorted, without duplicates. Empty when there are no symbols.
    #[must_use]
    pub fn functions(&self, image: &Image) -> Vec<Function> {
        let tables = self
            .sections
            .iter()
            .filter(|section| matches!(section.kind, elf::SHT_SYMTAB | elf::SHT_DYNSYM));
        let mut functions: Vec<Function> = tables
            .filter_map(|table| {
                image
                    .read(table.file.start, table.file.end - table.file.start)
                    .ok()
            })
            .flat_map(|bytes| self.functions_of_table(&bytes))
            .collect();
        functions.sort_unstable();
        functions.dedup();
        functions
    }

    fn functions_of_table(&self, bytes: &[u8]) -> Vec<Function> {
        let symbols = slice_from_all_bytes::<Sym64<LE>>(bytes).unwrap_or_default();
        symbols
            .iter()
            .filter(|symbol| !symbol.is_undefined(LE))
            // Assembly may leave its symbols without a type.
            .filter(|symbol| {
                matches!(
                    symbol.st_type(),
                    elf::STT_FUNC | elf::STT_GNU_IFUNC | elf::STT_NOTYPE
                )
            })
            .filter_map(|symbol| {
                let rel = rel_in(
                    &self.segments,
                    symbol.st_value.get(LE).wrapping_sub(self.base),
                )?;
                Some(Function {
                    rel,
                    size: u32::try_from(symbol.st_size.get(LE)).ok()?,
                    is_typed: symbol.st_type() != elf::STT_NOTYPE,
                })
            })
            .collect()
    }
}

/// `rel` if it lies in code.
fn rel_in(segments: &[Segment], rel: u64) -> Option<u32> {
    segments
        .iter()
        .any(|segment| {
            segment.executable && (segment.rel..segment.rel + segment.file_size).contains(&rel)
        })
        .then(|| u32::try_from(rel).ok())
        .flatten()
}

fn read_header(image: &Image) -> Result<FileHeader64<LE>, Unusable> {
    let bytes = image
        .read(0, size_of::<FileHeader64<LE>>() as u64)
        .map_err(|_| Unusable::NotElf)?;
    let (header, _) = from_bytes::<FileHeader64<LE>>(&bytes).map_err(|()| Unusable::NotElf)?;
    let ident = &header.e_ident;
    if ident.magic != elf::ELFMAG {
        return Err(Unusable::NotElf);
    }
    let ours = ident.class == elf::ELFCLASS64
        && ident.data == elf::ELFDATA2LSB
        && header.e_machine.get(LE) == elf::EM_X86_64;
    if !ours {
        return Err(Unusable::OtherMachine);
    }
    Ok(*header)
}

/// Reads `count` structures of a table whose entries the header says are `entry_size` long.
fn read_table<T: Pod>(
    image: &Image,
    file_off: u64,
    entry_size: u16,
    count: u16,
) -> Result<Vec<T>, Unusable> {
    if count > 0 && usize::from(entry_size) != size_of::<T>() {
        return Err(Unusable::Damaged(
            "a header table has entries of an unknown size",
        ));
    }
    let bytes = image
        .read(file_off, u64::from(count) * size_of::<T>() as u64)
        .map_err(|_| Unusable::Damaged("a header table lies outside the file"))?;
    let entries = slice_from_all_bytes::<T>(&bytes).unwrap_or_default();
    Ok(entries.to_vec())
}

fn read_program_headers(
    image: &Image,
    header: &FileHeader64<LE>,
) -> Result<Vec<ProgramHeader64<LE>>, Unusable> {
    let count = header.e_phnum.get(LE);
    read_table(
        image,
        header.e_phoff.get(LE),
        header.e_phentsize.get(LE),
        count,
    )
}

fn load_base(headers: &[ProgramHeader64<LE>]) -> Result<u64, Unusable> {
    headers
        .iter()
        .filter(|header| header.p_type.get(LE) == elf::PT_LOAD)
        .map(|header| header.p_vaddr.get(LE) & !(PAGE_SIZE - 1))
        .min()
        .ok_or(Unusable::Damaged("no segment is loaded"))
}

/// The loaded segments. One that would lie beyond 4 GiB is left out: frames have 32 bits for `rel`.
fn load_segments(image: &Image, headers: &[ProgramHeader64<LE>], base: u64) -> Vec<Segment> {
    headers
        .iter()
        .filter(|header| header.p_type.get(LE) == elf::PT_LOAD)
        .map(|header| {
            let start = header.p_offset.get(LE);
            let file = image.clip(start..start.saturating_add(header.p_filesz.get(LE)));
            Segment {
                file_off: file.start,
                file_size: file.end - file.start,
                rel: header.p_vaddr.get(LE) - base,
                executable: header.p_flags.get(LE) & elf::PF_X != 0,
            }
        })
        .filter(|segment| {
            segment.rel <= u64::from(u32::MAX)
                && segment.file_size <= u64::from(u32::MAX) - segment.rel
        })
        .take(MAX_SEGMENTS)
        .collect()
}

/// The addresses of the first segment of a type.
fn vaddr_range_of(headers: &[ProgramHeader64<LE>], segment_type: u32) -> Option<Range<u64>> {
    let header = headers
        .iter()
        .find(|header| header.p_type.get(LE) == segment_type)?;
    let start = header.p_vaddr.get(LE);
    Some(start..start.saturating_add(header.p_memsz.get(LE)))
}

fn read_build_id(image: &Image, headers: &[ProgramHeader64<LE>]) -> Option<Box<[u8]>> {
    headers
        .iter()
        .filter(|header| {
            header.p_type.get(LE) == elf::PT_NOTE && header.p_filesz.get(LE) <= MAX_NOTES
        })
        .find_map(|header| {
            let bytes = image
                .read(header.p_offset.get(LE), header.p_filesz.get(LE))
                .ok()?;
            build_id_of_notes(&bytes, header.p_align.get(LE))
        })
}

fn build_id_of_notes(bytes: &[u8], align: u64) -> Option<Box<[u8]>> {
    let mut notes =
        NoteIterator::<FileHeader64<Endianness>>::new(Endianness::Little, align, bytes).ok()?;
    while let Ok(Some(note)) = notes.next() {
        let is_build_id = note.name() == elf::ELF_NOTE_GNU
            && note.n_type(Endianness::Little) == elf::NT_GNU_BUILD_ID;
        if is_build_id && !note.desc().is_empty() {
            return Some(note.desc().into());
        }
    }
    None
}

/// The section table; an error when there is none or it is damaged, which a running program does not notice.
fn read_sections(image: &Image, header: &FileHeader64<LE>) -> Result<Vec<Section>, Unusable> {
    let count = header.e_shnum.get(LE);
    if count > MAX_SECTIONS {
        return Err(Unusable::Damaged("too many sections"));
    }
    let headers: Vec<SectionHeader64<LE>> = read_table(
        image,
        header.e_shoff.get(LE),
        header.e_shentsize.get(LE),
        count,
    )?;
    let names = headers
        .get(usize::from(header.e_shstrndx.get(LE)))
        .and_then(|names| {
            image
                .read(names.sh_offset.get(LE), names.sh_size.get(LE))
                .ok()
        })
        .unwrap_or_default();
    Ok(headers
        .iter()
        .map(|header| section(image, header, &names))
        .collect())
}

fn section(image: &Image, header: &SectionHeader64<LE>, names: &[u8]) -> Section {
    let start = header.sh_offset.get(LE);
    let has_bytes = header.sh_type.get(LE) != elf::SHT_NOBITS
        && header.sh_flags.get(LE) & u64::from(elf::SHF_COMPRESSED) == 0;
    let name = names
        .get(header.sh_name.get(LE) as usize..)
        .unwrap_or_default();
    Section {
        name: name
            .split(|&byte| byte == 0)
            .next()
            .unwrap_or_default()
            .into(),
        kind: header.sh_type.get(LE),
        vaddr: header.sh_addr.get(LE),
        file: if has_bytes {
            image.clip(start..start.saturating_add(header.sh_size.get(LE)))
        } else {
            0..0
        },
        link: header.sh_link.get(LE),
        executable: header.sh_flags.get(LE) & u64::from(elf::SHF_EXECINSTR) != 0,
    }
}
