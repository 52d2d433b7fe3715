//! Call frame information (`.eh_frame`, `.debug_frame`) to rows.
//!
//! Owns finding the section and putting each DWARF rule into one of the few kinds that the probe follows. gimli
//! reads the bytes. The kinds and why they suffice: facts of the x86-64 ABI, of gcc, clang and of the linkers' PLTs.
//! What is not one of them becomes [`Rule::UNSUPPORTED`], never a guess.

use std::{collections::HashMap, ops::Range};

use gimli::{
    BaseAddresses, CfaRule, CieOrFde, CommonInformationEntry, DebugFrame, EhFrame, EhFrameHdr,
    EndianSlice, FrameDescriptionEntry, LittleEndian, Pointer, Register, RegisterRule,
    UnwindContext, UnwindContextStorage, UnwindSection, UnwindTableRow, X86_64,
};

use super::rows::{RowsBuilder, Rule};
use crate::target::{elf::Elf, image::Image};

/// Bytes of instructions common to many functions (a CIE) that are believed; real ones have a dozen. They run again
/// for every function, so without a bound a small file could keep the reader busy for hours.
const MAX_CIE_BYTES: usize = 4096;
/// Rows of one object: the largest known (a browser, LLVM) have a tenth of it.
const MAX_ROWS: usize = 1 << 24;
/// Bytes of `.eh_frame_hdr` before its table.
const EH_FRAME_HDR_HEAD: u64 = 64;

/// `DW_OP_breg7 8, breg16 0, lit15, and, lit11, ge, lit3, shl, plus`: how linkers describe a PLT.
const PLT_11: &[u8] = &[
    0x77, 0x08, 0x80, 0x00, 0x3f, 0x1a, 0x3b, 0x2a, 0x33, 0x24, 0x22,
];
/// The same with `lit10`, for stubs that begin with `endbr64`.
const PLT_10: &[u8] = &[
    0x77, 0x08, 0x80, 0x00, 0x3f, 0x1a, 0x3a, 0x2a, 0x33, 0x24, 0x22,
];
/// `DW_OP_breg7 160, deref`: the interrupted rsp in the `ucontext` that lies at rsp when a handler has returned.
const SIGNAL_CFA: &[u8] = &[0x77, 0xa0, 0x01, 0x06];
/// `DW_OP_breg6 0`: where rbp points.
const AT_RBP: &[u8] = &[0x76, 0x00];
const DW_OP_BREG6: u8 = 0x76;
const DW_OP_DEREF: u8 = 0x06;

type Reader<'data> = EndianSlice<'data, LittleEndian>;
type Row = UnwindTableRow<usize, Storage>;

/// Room for the state of one function. Fixed, so that a damaged file cannot make it grow.
struct Storage;

impl UnwindContextStorage<usize> for Storage {
    type Rules = [(Register, RegisterRule<usize>); 64];
    type Stack = [UnwindTableRow<usize, Self>; 8];
}

/// What was read, for those who ask how good the rows are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CfiStats {
    /// Functions that have rows.
    pub functions: u32,
    /// Functions whose information is damaged; the rows before the damage count.
    pub damaged: u32,
    /// Whether the section as a whole could not be read to its end.
    pub cut: bool,
}

/// Adds the rows of every function that the file's call frame information describes.
pub fn add_rows(image: &Image, elf: &Elf, builder: &mut RowsBuilder) -> CfiStats {
    let mut reader = CfiReader {
        base: elf.base,
        code: code_range(elf),
        builder,
        stats: CfiStats::default(),
    };
    if let Some((bytes, vaddr)) = read_eh_frame(image, elf) {
        let mut section = EhFrame::new(&bytes, LittleEndian);
        section.set_address_size(8);
        reader.read(&section, &BaseAddresses::default().set_eh_frame(vaddr));
    } else if let Some(bytes) = read_section(image, elf, b".debug_frame") {
        let mut section = DebugFrame::new(&bytes, LittleEndian);
        section.set_address_size(8);
        reader.read(&section, &BaseAddresses::default());
    }
    reader.stats
}

/// The bytes of `.eh_frame` and their address: by the section headers, or where these are stripped by the index that
/// the program's own unwinder uses. The index does not say where the section ends; it ends itself.
pub(crate) fn read_eh_frame(image: &Image, elf: &Elf) -> Option<(Vec<u8>, u64)> {
    if let Some(bytes) = read_section(image, elf, b".eh_frame") {
        return Some((bytes, elf.section(b".eh_frame")?.vaddr));
    }
    let header = elf.eh_frame_hdr.clone()?;
    let file = elf.file_range_from(header.start)?;
    let head = image
        .read(file.start, EH_FRAME_HDR_HEAD.min(file.end - file.start))
        .ok()?;
    let bases = BaseAddresses::default().set_eh_frame_hdr(header.start);
    let head = EhFrameHdr::new(&head, LittleEndian).parse(&bases, 8).ok()?;
    let Pointer::Direct(vaddr) = head.eh_frame_ptr() else {
        return None;
    };
    let file = elf.file_range_from(vaddr)?;
    Some((image.read(file.start, file.end - file.start).ok()?, vaddr))
}

fn read_section(image: &Image, elf: &Elf, name: &[u8]) -> Option<Vec<u8>> {
    let file = &elf.section(name)?.file;
    image.read(file.start, file.end - file.start).ok()
}

/// From the first byte of code to the last.
fn code_range(elf: &Elf) -> Range<u64> {
    elf.code().map(|segment| segment.rel).min().unwrap_or(0)..elf.code_end()
}

struct CfiReader<'a> {
    base: u64,
    code: Range<u64>,
    builder: &'a mut RowsBuilder,
    stats: CfiStats,
}

impl CfiReader<'_> {
    fn read<'data, S>(&mut self, section: &S, bases: &BaseAddresses)
    where
        S: UnwindSection<Reader<'data>>,
        S::Offset: std::hash::Hash,
    {
        let mut context = UnwindContext::<usize, Storage>::new_in();
        let mut common: HashMap<S::Offset, CommonInformationEntry<Reader<'data>>> = HashMap::new();
        let mut entries = section.entries(bases);
        loop {
            let entry = match entries.next() {
                Ok(Some(CieOrFde::Fde(entry))) => entry,
                Ok(Some(CieOrFde::Cie(_))) => continue,
                Ok(None) => break,
                Err(_) => {
                    self.stats.cut = true;
                    break;
                }
            };
            let function = entry.parse(|section, bases, offset| {
                if let Some(cie) = common.get(&offset) {
                    return Ok(cie.clone());
                }
                let cie = section.cie_from_offset(bases, offset)?;
                common.insert(offset, cie.clone());
                Ok(cie)
            });
            let read = function
                .and_then(|function| self.read_function(section, bases, &mut context, &function));
            self.stats.damaged += u32::from(read.is_err());
            if self.builder.len() > MAX_ROWS {
                self.stats.cut = true;
                break;
            }
        }
    }

    fn read_function<'data, S: UnwindSection<Reader<'data>>>(
        &mut self,
        section: &S,
        bases: &BaseAddresses,
        context: &mut UnwindContext<usize, Storage>,
        function: &FrameDescriptionEntry<Reader<'data>>,
    ) -> gimli::Result<()> {
        let Some(code) = self.code_of(function) else {
            return Ok(());
        };
        if function.cie().entry_len() > MAX_CIE_BYTES {
            self.stats.damaged += 1;
            return Ok(());
        }
        self.builder.begin(code);
        self.stats.functions += 1;
        let mut table = function.rows(section, bases, context)?;
        while let Some(row) = table.next_row()? {
            let rel = row.start_address().wrapping_sub(self.base);
            if let Ok(rel) = u32::try_from(rel) {
                let rule = rule_of(row, function.is_signal_trampoline(), section);
                self.builder.push(rel, rule);
            }
        }
        Ok(())
    }

    /// The function's range; none when it lies outside the code (the linker has dropped the function).
    fn code_of(&self, function: &FrameDescriptionEntry<Reader<'_>>) -> Option<Range<u32>> {
        let start = function.initial_address().checked_sub(self.base)?;
        let end = start.checked_add(function.len())?.min(self.code.end);
        if start < self.code.start || start >= end {
            return None;
        }
        Some(u32::try_from(start).ok()?..u32::try_from(end).ok()?)
    }
}

/// Puts a row of call frame information into one of the probe's kinds.
fn rule_of<'data, S: UnwindSection<Reader<'data>>>(
    row: &Row,
    is_signal: bool,
    section: &S,
) -> Rule {
    let bytes_of = |expression: &gimli::UnwindExpression<usize>| {
        expression
            .get(section)
            .map(|expression| expression.0.slice())
            .unwrap_or_default()
    };
    if is_signal {
        return match row.cfa() {
            CfaRule::Expression(expression) if bytes_of(expression) == SIGNAL_CFA => Rule::SIGNAL,
            _ => Rule::UNSUPPORTED,
        };
    }
    match row.register(X86_64::RA) {
        Some(RegisterRule::Undefined) => return Rule::END,
        Some(RegisterRule::Offset(-8)) => {}
        _ => return Rule::UNSUPPORTED,
    }
    let rbp = row.register(X86_64::RBP);
    match row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } => match (*register, rbp_offset(rbp)) {
            (X86_64::RSP, Some(rbp_off)) => Rule::from_rsp(*offset, rbp_off),
            (X86_64::RBP, Some(rbp_off)) => Rule::from_rbp(*offset, rbp_off),
            _ => Rule::UNSUPPORTED,
        },
        CfaRule::Expression(expression) => match (bytes_of(expression), rbp) {
            (PLT_11, None) => Rule::PLT_11,
            (PLT_10, None) => Rule::PLT_10,
            (cfa, Some(RegisterRule::Expression(rbp))) if bytes_of(&rbp) == AT_RBP => {
                deref_below_rbp(cfa)
            }
            _ => Rule::UNSUPPORTED,
        },
    }
}

/// Where rbp was saved, from the CFA; 0 when it is unchanged, none when it is somewhere else.
fn rbp_offset(rule: Option<RegisterRule<usize>>) -> Option<i64> {
    match rule {
        None | Some(RegisterRule::SameValue | RegisterRule::Undefined) => Some(0),
        Some(RegisterRule::Offset(offset)) if offset != 0 => Some(offset),
        _ => None,
    }
}

/// `DW_OP_breg6 -distance, deref`: gcc keeps the CFA there when it realigns the stack. One byte of SLEB128 is enough
/// for what it writes.
fn deref_below_rbp(expression: &[u8]) -> Rule {
    match *expression {
        [DW_OP_BREG6, offset, DW_OP_DEREF] if offset & 0xc0 == 0x40 => {
            Rule::at_rbp(0x80 - i64::from(offset))
        }
        _ => Rule::UNSUPPORTED,
    }
}

#[cfg(test)]
pub(crate) mod tests;
