//! One function, followed along every branch.

use std::collections::BTreeMap;

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic,
};

use super::{
    Code,
    frame::Frame,
    noreturn::NoReturn,
    seeds::{Seed, Seeds, near_target},
};
use crate::unwind::rows::Rule;

/// Bytes of the longest instruction.
const MAX_INSTRUCTION_BYTES: usize = 15;

/// How the ways through a function end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// At least one returns, or jumps to another function, with the frame taken down.
    Returns,
    /// None does: the function ends the thread or loops for ever.
    Never,
    /// None does, and one runs into other code: a call on it must be of a function that never returns.
    RunsOff,
    /// None does for certain, but there are jumps whose targets are not known, or returns where the frame is not.
    Unknown,
    /// One returns with the frame still standing: this was no function, or it was not understood.
    Impossible,
}

/// What the walk through a function found.
pub(super) struct Followed {
    pub(super) ending: Ending,
    /// Every instruction that was reached: its place, its length and its rule.
    pub(super) rules: Vec<(u32, u8, Rule)>,
    /// Other code that is jumped to with the frame as it was at the beginning.
    pub(super) tail_calls: Vec<u32>,
}

/// The walk through one function.
pub(super) struct Walk<'a> {
    code: &'a Code,
    seeds: &'a Seeds<'a>,
    noreturn: &'a NoReturn,
    seed: &'a Seed,
    visited: BTreeMap<u32, Visit>,
    /// What the current attempt has changed in `visited`: the instruction and what stood there before.
    journal: Vec<(u32, Option<Visit>)>,
    /// Places to go on from.
    open: Vec<(u32, Frame)>,
    /// Frame at the jumps through a table; none when they disagree.
    at_table_jumps: Option<Option<Frame>>,
    /// Up to here every byte was reached or is padding.
    whole_to: u32,
    tail_calls: Vec<u32>,
    /// Number of the hole that is being followed; 0 is the function's beginning.
    attempt: u32,
    ways: Ways,
    info: InstructionInfoFactory,
}

/// What the ways of one attempt come to.
#[derive(Default)]
struct Ways {
    /// One returns.
    returns: bool,
    /// One meets code that an earlier attempt reached, with the same frame.
    joins: bool,
    /// One returns with the frame still standing, or contradicts an earlier attempt.
    is_impossible: bool,
    /// One returns where nothing is known of the frame.
    is_unclear: bool,
    /// One runs into other code.
    runs_off: bool,
}

/// An instruction that was reached.
#[derive(Clone, Copy)]
struct Visit {
    len: u8,
    /// The frame before it.
    frame: Frame,
    /// Which attempt reached it first.
    attempt: u32,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        code: &'a Code,
        seeds: &'a Seeds<'a>,
        noreturn: &'a NoReturn,
        seed: &'a Seed,
    ) -> Self {
        Self {
            code,
            seeds,
            noreturn,
            seed,
            visited: BTreeMap::new(),
            journal: Vec::new(),
            tail_calls: Vec::new(),
            attempt: 0,
            open: Vec::new(),
            at_table_jumps: None,
            whole_to: seed.start,
            ways: Ways::default(),
            info: InstructionInfoFactory::new(),
        }
    }

    /// Follows every way. Looks at no more than `budget` instructions and lowers it by as many; a walk that runs out
    /// of it is impossible.
    pub(super) fn run(mut self, budget: &mut usize) -> Followed {
        self.follow_from(self.seed.start, Frame::ENTRY, budget);
        let ending = self.ending();
        if ending != Ending::Impossible {
            self.follow_holes(budget);
        }
        Followed {
            ending,
            rules: self.rules(),
            tail_calls: self.tail_calls,
        }
    }

    fn ending(&self) -> Ending {
        let ways = &self.ways;
        if ways.is_impossible {
            Ending::Impossible
        } else if ways.returns {
            Ending::Returns
        } else if ways.is_unclear || self.at_table_jumps.is_some() {
            Ending::Unknown
        } else if ways.runs_off {
            Ending::RunsOff
        } else {
            Ending::Never
        }
    }

    /// Follows what was not reached yet: the targets of jumps through a table are reached in no other way, with the
    /// frame of the jump. A hole that leads to an impossible return is another function. Where no symbol gives the
    /// function's end, a hole must lead back to what is known of the function, or return.
    fn follow_holes(&mut self, budget: &mut usize) {
        while let Some(Some(frame)) = self.at_table_jumps
            && let Some(hole) = self.next_hole()
        {
            self.attempt += 1;
            self.ways = Ways::default();
            self.journal.clear();
            self.follow_from(hole, frame, budget);
            let is_proven = self.ways.returns || self.ways.joins || self.seed.is_sized;
            if self.ways.is_impossible || !is_proven {
                self.undo();
                self.skip_hole();
            }
        }
    }

    /// Takes back what the current attempt has found.
    fn undo(&mut self) {
        for (rel, before) in self.journal.drain(..).rev() {
            match before {
                Some(visit) => self.visited.insert(rel, visit),
                None => self.visited.remove(&rel),
            };
        }
    }

    /// Every instruction that was reached, with its rule.
    fn rules(&self) -> Vec<(u32, u8, Rule)> {
        let rule = |frame: &Frame| {
            if self.seed.is_entry {
                Rule::END
            } else {
                frame.rule()
            }
        };
        self.visited
            .iter()
            .map(|(&rel, visit)| (rel, visit.len, rule(&visit.frame)))
            .collect()
    }

    fn follow_from(&mut self, rel: u32, frame: Frame, budget: &mut usize) {
        self.open.push((rel, frame));
        while let Some((rel, frame)) = self.open.pop() {
            let Some(left) = budget.checked_sub(1) else {
                self.ways.is_impossible = true;
                self.open.clear();
                return;
            };
            *budget = left;
            self.visit(rel, frame);
        }
    }

    /// Looks at one instruction and notes where control goes from there.
    fn visit(&mut self, rel: u32, frame: Frame) {
        let before = self.visited.get(&rel).copied();
        let both = before.map_or(frame, |visit| visit.frame.meet(frame));
        if let Some(Visit {
            frame: known,
            attempt,
            ..
        }) = before
        {
            let is_older = attempt < self.attempt;
            self.ways.joins |= is_older && known == frame;
            self.ways.is_impossible |= is_older && known != both;
            if both == known {
                return;
            }
        }
        let Some(instruction) = self.decode(rel) else {
            return;
        };
        let frame = both;
        let visit = Visit {
            len: instruction.len() as u8,
            frame,
            attempt: before.map_or(self.attempt, |visit| visit.attempt),
        };
        self.visited.insert(rel, visit);
        self.journal.push((rel, before));
        let after = frame.after(&instruction, &mut self.info);
        match instruction.flow_control() {
            FlowControl::Call if self.noreturn.contains(near_target(&instruction)) => {}
            FlowControl::IndirectCall | FlowControl::IndirectBranch
                if self.noreturn.is_through_slot(&instruction) => {}
            FlowControl::Next
            | FlowControl::Call
            | FlowControl::IndirectCall
            | FlowControl::XbeginXabortXend => {
                self.fall_through(&instruction, after);
            }
            FlowControl::ConditionalBranch => {
                self.jump(&instruction, after);
                self.fall_through(&instruction, after);
            }
            FlowControl::UnconditionalBranch => self.jump(&instruction, after),
            FlowControl::IndirectBranch => self.jump_through_table(after),
            FlowControl::Return => self.leave(frame),
            FlowControl::Interrupt | FlowControl::Exception => {}
        }
    }

    /// The instruction at `rel`; none where there is no code to follow, or where the program stops.
    fn decode(&self, rel: u32) -> Option<Instruction> {
        let bytes = self.code.bytes_from(rel);
        let bytes = &bytes[..bytes.len().min(MAX_INSTRUCTION_BYTES)];
        let instruction = Decoder::with_ip(64, bytes, rel.into(), DecoderOptions::NONE).decode();
        (!instruction.is_invalid() && instruction.mnemonic() != Mnemonic::Hlt)
            .then_some(instruction)
    }

    fn fall_through(&mut self, instruction: &Instruction, frame: Frame) {
        // Functions do not run into each other: the last call of this one does not return.
        match u32::try_from(instruction.next_ip()) {
            Ok(next) if self.is_own(next) && !self.seeds.is_start(next) => {
                self.open.push((next, frame))
            }
            _ => self.ways.runs_off = true,
        }
    }

    fn jump(&mut self, instruction: &Instruction, frame: Frame) {
        match near_target(instruction) {
            Some(target) if self.is_own(target) => self.open.push((target, frame)),
            // Another function takes over.
            target if frame.is_left() => {
                self.ways.returns |= !self.noreturn.contains(target);
                self.tail_calls.extend(target);
            }
            // A part of this function that the compiler has put elsewhere.
            Some(target) if self.attempt == 0 && !self.seeds.is_certain_start(target) => {
                self.open.push((target, frame))
            }
            _ => self.leave(frame),
        }
    }

    fn jump_through_table(&mut self, frame: Frame) {
        if frame.is_left() {
            self.ways.returns = true;
        }
        self.at_table_jumps = Some(match self.at_table_jumps {
            None => Some(frame),
            Some(known) => known.filter(|&known| known == frame),
        });
    }

    /// Control leaves the function.
    fn leave(&mut self, frame: Frame) {
        if frame.is_left() {
            self.ways.returns = true;
        } else if frame.is_standing() {
            self.ways.is_impossible = true;
        } else {
            self.ways.is_unclear = true;
        }
    }

    /// Whether `rel` belongs to this function as far as it lies together.
    fn is_own(&self, rel: u32) -> bool {
        (self.seed.start..self.seed.end).contains(&rel)
            && (rel == self.seed.start || !self.seeds.is_certain_start(rel))
    }

    /// The next instruction that was not reached and is no padding.
    fn next_hole(&mut self) -> Option<u32> {
        while self.whole_to < self.seed.end {
            let len = match self.visited.get(&self.whole_to) {
                Some(visit) => u32::from(visit.len),
                None => {
                    let instruction = self.decode(self.whole_to)?;
                    if !is_padding(&instruction) {
                        return Some(self.whole_to);
                    }
                    instruction.len() as u32
                }
            };
            self.whole_to += len;
        }
        None
    }

    /// Goes on behind a hole that is not of this function.
    fn skip_hole(&mut self) {
        let behind = self.visited.range(self.whole_to..).next();
        self.whole_to = behind.map_or(self.seed.end, |(&rel, _)| rel);
    }
}

fn is_padding(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Nop | Mnemonic::Int3)
        // `xchg %ax, %ax`
        || instruction.mnemonic() == Mnemonic::Xchg && instruction.op0_register() == instruction.op1_register()
}
