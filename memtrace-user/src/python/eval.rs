//! Where the text of the interpreter's loop lies.
//!
//! A compiler with a profile moves the rare part of the loop away from the rest, or nearly all of it. The part has a
//! symbol of its own, which is stripped from what distributions ship; then it is found by the branches that lead there.

use std::{collections::BTreeMap, ops::Range};

use gimli::{
    BaseAddresses, CfaRule, CieOrFde, EhFrame, LittleEndian, UnwindContext, UnwindSection, X86_64,
};
use iced_x86::{FlowControl, OpKind};
use memtrace_common::python::EvalRange;

use super::file::{File, Place};
use crate::unwind::eh_frame::read_eh_frame;

/// Functions of one file whose call frame information is looked at; the largest interpreters have 20 000.
const MAX_FUNCTIONS: usize = 1 << 20;
/// Pieces of code that are told apart; a loop branches out of itself to some dozens.
const MAX_PIECES: usize = 1024;
/// Bytes of call frame information of one piece that are believed; the largest loop has 4 KiB.
const MAX_ENTRY: usize = 64 << 10;

/// The main part and the part that was moved away. None when it is not known where the main part ends.
pub(super) fn ranges(file: File<'_>, main: Place, cold: Option<Place>) -> Option<[EvalRange; 2]> {
    let main = match main.size {
        0 => described(file, &[main.rel])
            .into_iter()
            .map(|function| function.code)
            .find(|code| code.start == main.rel)?,
        size => main.rel..main.rel.checked_add(size)?,
    };
    let cold = match cold {
        Some(cold) if cold.size > 0 => Some(cold.rel..cold.rel.checked_add(cold.size)?),
        _ => moved_away(file, &main),
    };
    Some([
        eval_range(&main)?,
        cold.as_ref().and_then(eval_range).unwrap_or_default(),
    ])
}

fn eval_range(code: &Range<u64>) -> Option<EvalRange> {
    Some(EvalRange {
        start: code.start.try_into().ok()?,
        end: code.end.try_into().ok()?,
    })
}

/// The code that most branches out of `main` lead to and that no call can enter. None when everything is together.
fn moved_away(file: File<'_>, main: &Range<u64>) -> Option<Range<u64>> {
    let targets = branches_out_of(file, main);
    let addresses: Vec<u64> = targets.keys().copied().collect();
    described(file, &addresses)
        .into_iter()
        .filter(|function| !function.is_entered_by_calls)
        .map(|function| function.code)
        .max_by_key(|code| {
            targets
                .range(code.clone())
                .map(|(_, count)| count)
                .sum::<u32>()
        })
}

/// Where branches lead to, and how many lead there.
fn branches_out_of(file: File<'_>, main: &Range<u64>) -> BTreeMap<u64, u32> {
    let mut targets = BTreeMap::new();
    for instruction in file.instructions(main.clone()) {
        let is_branch = matches!(
            instruction.flow_control(),
            FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch
        );
        if is_branch && instruction.op0_kind() == OpKind::NearBranch64 {
            let target = instruction.near_branch_target();
            if !main.contains(&target) {
                *targets.entry(target).or_default() += 1;
            }
        }
    }
    targets
}

/// A piece of code that call frame information describes.
#[derive(Debug)]
struct Described {
    /// By addresses relative to the load base.
    code: Range<u64>,
    /// Whether it begins as every function does: with nothing on the stack but the return address. A part that was
    /// moved away begins within its function's frame.
    is_entered_by_calls: bool,
}

/// The pieces of code that hold one of `addresses`, which are sorted.
fn described(file: File<'_>, addresses: &[u64]) -> Vec<Described> {
    let mut found = Vec::new();
    let Some((bytes, vaddr)) = read_eh_frame(file.image, file.elf) else {
        return found;
    };
    let mut section = EhFrame::new(&bytes, LittleEndian);
    section.set_address_size(8);
    let bases = BaseAddresses::default().set_eh_frame(vaddr);
    let mut context = UnwindContext::new();
    let mut entries = section.entries(&bases);
    for _ in 0..MAX_FUNCTIONS {
        let entry = match entries.next() {
            Ok(Some(CieOrFde::Fde(entry))) => entry,
            Ok(Some(CieOrFde::Cie(_))) => continue,
            Ok(None) | Err(_) => break,
        };
        let Ok(function) = entry.parse(EhFrame::cie_from_offset) else {
            continue;
        };
        if found.len() == MAX_PIECES {
            break;
        }
        if function.entry_len().max(function.cie().entry_len()) > MAX_ENTRY {
            continue;
        }
        let start = function.initial_address().wrapping_sub(file.elf.base);
        let code = start..start.saturating_add(function.len());
        let first = addresses.partition_point(|address| *address < code.start);
        if addresses
            .get(first)
            .is_none_or(|address| !code.contains(address))
        {
            continue;
        }
        let first_row = function
            .rows(&section, &bases, &mut context)
            .and_then(|mut rows| {
                let row = rows.next_row()?;
                Ok(row.map(|row| row.cfa().clone()))
            });
        if let Ok(Some(cfa)) = first_row {
            found.push(Described {
                code,
                is_entered_by_calls: is_return_address_alone(&cfa),
            });
        }
    }
    found
}

fn is_return_address_alone(cfa: &CfaRule<usize>) -> bool {
    matches!(cfa, CfaRule::RegisterAndOffset { register, offset: 8 } if *register == X86_64::RSP)
}
