//! Rows for code that has no call frame information, by decoding it.
//!
//! musl's C code, PLTs written by lld and hand-written assembly have none. From the beginning of a function, where the
//! CFA is rsp + 8 by the definition of a call, every instruction is followed along every branch, and how far rsp and
//! rbp are from the CFA is kept by the [`frame`]. Where two ways meet that disagree, or an instruction does something
//! that is not followed, nothing is known and the row says so.
//!
//! Owns which addresses are beginnings of functions ([`seeds`]), where each ends, and which of two claims on the same
//! byte counts. The order of certainty: a function symbol and the target of a call are beginnings; an address that is
//! merely taken is one only if the walk from there comes to a proper return, or to a proper stop.
//!
//! On code that compilers do describe, this finds the same frames; see the tests for the figures.

mod frame;
mod function;
mod noreturn;
mod seeds;

use std::{collections::BTreeMap, ops::Range};

use self::{
    function::{Ending, Followed, Walk},
    noreturn::NoReturn,
    seeds::{Seed, Seeds},
};
use super::rows::{RowsBuilder, Rule};
use crate::target::{elf::Elf, image::Image};

/// Instructions of one object that are looked at in one round; musl has 100 thousand. What lies behind is left
/// without rows.
const MAX_INSTRUCTIONS: usize = 1 << 21;
/// Bytes of code that are read; musl has 400 thousand.
const MAX_CODE: u64 = 64 << 20;
/// Pieces of code that are read.
const MAX_GAPS: usize = 1 << 16;
/// Bytes of a piece of code that is worth looking at; less is padding between functions.
const MIN_GAP: usize = 16;
/// The rest of the program is searched for calls into the gaps if these are at least one part in so many.
const MAX_GAP_SHARE: usize = 16;
/// Rounds in which functions that never return are found.
const MAX_ROUNDS: usize = 6;

/// `mov $15, %rax; syscall` (`rt_sigreturn`), to which a signal handler returns. It is never called, and kernel and
/// debuggers know it by these very bytes.
const SIGNAL_RETURN: &[u8] = b"\x48\xc7\xc0\x0f\x00\x00\x00\x0f\x05";

/// What was found, for those who ask how good the rows are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DepthStats {
    /// Functions that were followed.
    pub functions: u32,
    /// Possible functions whose walk came to an impossible return, and were dropped.
    pub rejected: u32,
    /// Whether there was more code than is decoded.
    pub cut: bool,
}

/// Pieces of an object's code, by `rel`, sorted.
#[derive(Debug, Default)]
struct Code {
    pieces: Vec<(u32, Vec<u8>)>,
}

impl Code {
    /// Reads the parts of `ranges` that the file has as code, up to [`MAX_CODE`] bytes. What cannot be read is left
    /// out.
    fn read(image: &Image, elf: &Elf, ranges: &[Range<u32>]) -> Self {
        let mut left = MAX_CODE;
        let mut pieces = Vec::new();
        for (segment, range) in elf
            .code()
            .flat_map(|segment| ranges.iter().map(move |range| (segment, range)))
        {
            let start = u64::from(range.start).max(segment.rel);
            let end = u64::from(range.end).min(segment.rel + segment.file_size);
            let size = end.saturating_sub(start);
            if size == 0 || size > left {
                continue;
            }
            if let Ok(bytes) = image.read(segment.file_off + (start - segment.rel), size) {
                left -= size;
                pieces.push((start as u32, bytes));
            }
        }
        pieces.sort_unstable_by_key(|(start, _)| *start);
        Self { pieces }
    }

    /// The piece around `rel`.
    fn piece(&self, rel: u32) -> Option<(Range<u32>, &[u8])> {
        let after = self.pieces.partition_point(|(start, _)| *start <= rel);
        let (start, bytes) = self.pieces[..after].last()?;
        let range = *start..start + bytes.len() as u32;
        range.contains(&rel).then_some((range, bytes))
    }

    /// The bytes from `rel` to the end of the piece around it; none outside of all pieces.
    fn bytes_from(&self, rel: u32) -> &[u8] {
        self.piece(rel)
            .map_or(&[], |(range, bytes)| &bytes[(rel - range.start) as usize..])
    }
}

/// An instruction whose frame is known: its length and its rule.
type Covered = BTreeMap<u32, (u8, Rule)>;

/// Adds rows for the code that `builder` has none for yet.
pub fn add_rows(image: &Image, elf: &Elf, builder: &mut RowsBuilder) -> DepthStats {
    let ranges: Vec<Range<u32>> = elf
        .instruction_ranges()
        .into_iter()
        .filter_map(|range| Some(u32::try_from(range.start).ok()?..u32::try_from(range.end).ok()?))
        .collect();
    let mut gaps: Vec<_> = ranges
        .iter()
        .flat_map(|range| builder.gaps(range.clone()))
        .collect();
    gaps.retain(|gap| gap.len() >= MIN_GAP);
    gaps.truncate(MAX_GAPS);
    let code = Code::read(image, elf, &gaps);
    let rest = if size(&gaps) >= size(&ranges) / MAX_GAP_SHARE {
        Code::read(image, elf, &ranges)
    } else {
        Code::default()
    };
    let mut depth = Depth {
        code: &code,
        seeds: Seeds::find(image, elf, &code, &rest),
        noreturn: NoReturn::imported(image, elf),
        covered: Covered::new(),
        budget: 0,
        stats: DepthStats::default(),
    };
    depth.follow_all();
    depth.mark_signal_returns();
    emit(&depth.covered, builder);
    depth.stats
}

fn size(ranges: &[Range<u32>]) -> usize {
    ranges.iter().map(Range::len).sum()
}

/// The walk over all functions of an object.
struct Depth<'a> {
    code: &'a Code,
    seeds: Seeds<'a>,
    /// Functions that never return. Behind a call of one there is another function.
    noreturn: NoReturn,
    covered: Covered,
    /// Instructions that may still be looked at.
    budget: usize,
    stats: DepthStats,
}

impl Depth<'_> {
    /// Follows every function, and again as long as that shows more: of functions that never return, each may end
    /// another one earlier than was thought; and a jump out of a function shows the beginning of another.
    fn follow_all(&mut self) {
        for _ in 0..MAX_ROUNDS {
            let known = (self.noreturn.len(), self.seeds.count_certain());
            self.covered.clear();
            self.budget = MAX_INSTRUCTIONS;
            self.stats = DepthStats {
                cut: self.seeds.cut,
                ..DepthStats::default()
            };
            for seed in self.seeds.all() {
                self.follow(seed);
            }
            if known == (self.noreturn.len(), self.seeds.count_certain()) {
                return;
            }
        }
    }

    fn follow(&mut self, seed: Seed) {
        if self.budget == 0 {
            self.stats.cut = true;
            return;
        }
        // A possible beginning inside a function that is known is a label.
        if !seed.is_certain && self.covered.contains_key(&seed.start) {
            return;
        }
        let walk = Walk::new(self.code, &self.seeds, &self.noreturn, &seed);
        let Followed {
            ending,
            rules,
            tail_calls,
        } = walk.run(&mut self.budget);
        if matches!(ending, Ending::Never | Ending::RunsOff) {
            self.noreturn.insert(seed.start);
        }
        let proven = match ending {
            Ending::Returns | Ending::Never => true,
            // A certain beginning needs no proof.
            Ending::RunsOff | Ending::Unknown => seed.is_certain,
            Ending::Impossible => false,
        };
        if !proven {
            self.stats.rejected += 1;
            return;
        }
        self.stats.functions += 1;
        for target in tail_calls {
            self.seeds.add_certain(Some(target));
        }
        for (rel, len, rule) in rules {
            // Two functions share code only where both know the same of it.
            let entry = self.covered.entry(rel).or_insert((len, rule));
            if entry.1 != rule {
                entry.1 = Rule::NONE;
            }
        }
    }

    /// Gives the returns of signal handlers their rule.
    fn mark_signal_returns(&mut self) {
        for (start, bytes) in &self.code.pieces {
            let found = bytes
                .windows(SIGNAL_RETURN.len())
                .enumerate()
                .filter(|(_, window)| *window == SIGNAL_RETURN);
            for (at, _) in found {
                let first = start + at as u32;
                let syscall = first + SIGNAL_RETURN.len() as u32 - 2;
                self.covered.insert(first, (7, Rule::SIGNAL));
                self.covered.insert(syscall, (2, Rule::SIGNAL));
                // A handler returns to the first byte, and return addresses are looked up one byte before.
                if at > 0 {
                    self.covered.insert(first - 1, (1, Rule::SIGNAL));
                }
            }
        }
    }
}

/// Hands the rules over as functions: runs of instructions that follow each other.
fn emit(covered: &Covered, builder: &mut RowsBuilder) {
    let mut runs: Vec<Range<u32>> = Vec::new();
    for (&rel, &(len, _)) in covered {
        let end = rel + u32::from(len);
        match runs.last_mut() {
            Some(run) if run.end >= rel => run.end = run.end.max(end),
            _ => runs.push(rel..end),
        }
    }
    for run in runs {
        builder.begin(run.clone());
        for (&rel, &(_, rule)) in covered.range(run) {
            builder.push(rel, rule);
        }
    }
}

#[cfg(test)]
mod tests;
