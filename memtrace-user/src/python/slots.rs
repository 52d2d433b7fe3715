//! Where a thread keeps its own state: the distance from its thread pointer.
//!
//! Threads keep two words: their own state, always; and the state they run Python with, null while they are without
//! the GIL (3.12 and newer). Both are thread-local, at distances that depend on the C library, on the order of keys
//! and on what else is linked. So they are looked for: the distance at which the threads have their own states.

use std::collections::{BTreeMap, HashMap, HashSet};

use iced_x86::{Mnemonic, OpKind, Register};

use super::{
    file::{File, Place},
    memory::Memory,
    threads::Thread,
    version::Version,
};

/// Threads that are looked at each time.
const MAX_OBSERVED: usize = 64;
/// What is looked at below the thread pointer: thread-local variables.
const BELOW: u64 = 2048;
/// What is looked at from the thread pointer on: the C library's own record of the thread.
const ABOVE: u64 = 2048;
/// What is read at once. No mapping ends within a page, but the next one may be missing.
const PAGE: u64 = 4096;

/// Two distances from the thread pointer; 0 = not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Slots {
    /// Of the thread's own state.
    pub(super) own: i32,
    /// Of the state it runs Python with.
    pub(super) current: i32,
    /// Whether several threads agree on them.
    pub(super) is_certain: bool,
}

/// Where the words may be before they can be observed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SlotGuess {
    own: i32,
    current: i32,
    /// Whether there is a word for the current state at all.
    has_current: bool,
}

impl Slots {
    /// With the usual place for the current state, to be verified at each use.
    pub(super) fn or_current(self, guess: SlotGuess) -> Self {
        Self {
            current: guess.current,
            is_certain: self.is_certain && guess.current == 0,
            ..self
        }
    }
}

impl SlotGuess {
    /// What the functions that return the states read, if these are in a program, whose thread-local variables are at
    /// fixed distances; else what glibc's first keys and a single thread-local variable come to.
    pub(super) fn of(
        version: Version,
        file: File<'_>,
        current_state: Option<Place>,
        own_state: Option<Place>,
    ) -> Self {
        /// `struct pthread.specific_1stblock[0].data` (glibc, x86-64).
        const FIRST_KEY: i32 = 0x318;
        /// Bytes of a key.
        const KEY: i32 = 16;
        let has_current = version.is_at_least(3, 12);
        let own = match version.minor {
            ..=12 => FIRST_KEY,
            // Another key is made first.
            13 | 14 => FIRST_KEY + KEY,
            15.. => own_state
                .and_then(|function| slot_read_by(file, function))
                .unwrap_or(0),
        };
        let current = current_state.and_then(|function| slot_read_by(file, function));
        Self {
            own,
            current: if has_current {
                current.unwrap_or(-8)
            } else {
                0
            },
            has_current,
        }
    }

    pub(super) fn slots(self) -> Slots {
        Slots {
            own: self.own,
            current: self.current,
            is_certain: false,
        }
    }
}

/// The distance of the thread-local word that a function returns: `mov %fs:distance, %rax`.
fn slot_read_by(file: File<'_>, function: Place) -> Option<i32> {
    let end = function.rel.checked_add(function.size.min(32))?;
    let instructions = file.instructions(function.rel..end);
    let read = instructions.iter().find(|instruction| {
        instruction.op0_kind() == OpKind::Register && instruction.op0_register() == Register::RAX
    })?;
    let is_local = read.mnemonic() == Mnemonic::Mov
        && read.op1_kind() == OpKind::Memory
        && read.segment_prefix() == Register::FS
        && read.memory_base() == Register::None
        && read.memory_index() == Register::None;
    let distance = read.memory_displacement64() as i64;
    is_local.then(|| i32::try_from(distance).ok()).flatten()
}

/// What was seen at each distance, over all looks.
#[derive(Debug, Default)]
pub(super) struct Observer {
    looks: u32,
    threads: HashSet<u64>,
    seen: BTreeMap<i32, Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Looks at which one of the thread's states was there.
    states: u32,
    /// Looks at which there was neither a state nor null.
    others: u32,
    /// Threads that had a state there.
    threads: HashSet<u64>,
}

impl Observer {
    /// Looks at every thread once.
    pub(super) fn look(&mut self, memory: &impl Memory, threads: &[Thread]) {
        let mut states: HashMap<u64, Vec<u64>> = HashMap::new();
        for thread in threads.iter().filter(|thread| thread.pointer != 0) {
            states.entry(thread.pointer).or_default().push(thread.state);
        }
        for (&pointer, states) in states.iter().take(MAX_OBSERVED) {
            // The ABI has the thread pointer there; otherwise `thread_id` is none, or the thread is gone.
            if memory.word(pointer).is_ok_and(|word| word == pointer) {
                self.look_at(memory, pointer, states);
            }
        }
    }

    fn look_at(&mut self, memory: &impl Memory, pointer: u64, states: &[u64]) {
        self.looks += 1;
        self.threads.insert(pointer);
        let mut start = pointer.saturating_sub(BELOW) & !7;
        let end = pointer.saturating_add(ABOVE);
        while start < end {
            let next = (start - start % PAGE).saturating_add(PAGE).min(end);
            if let Ok(bytes) = memory.read(start, (next - start) as usize) {
                let (words, _) = bytes.as_chunks::<8>();
                for (number, word) in words.iter().enumerate() {
                    let addr = start + number as u64 * 8;
                    let distance = addr.wrapping_sub(pointer) as i32;
                    self.note(distance, pointer, u64::from_le_bytes(*word), states);
                }
            }
            start = next;
        }
    }

    fn note(&mut self, distance: i32, pointer: u64, word: u64, states: &[u64]) {
        let seen = self.seen.entry(distance).or_default();
        if states.contains(&word) {
            seen.states += 1;
            seen.threads.insert(pointer);
        } else if word != 0 {
            seen.others += 1;
        }
    }

    /// Threads that were looked at.
    pub(super) fn threads(&self) -> usize {
        self.threads.len()
    }

    /// What the looks so far come to. Nothing that was not seen is known.
    pub(super) fn slots(&self, guess: SlotGuess) -> Slots {
        let always = self.always();
        let sometimes = self.candidates(|seen| {
            !is_most(seen.states, self.looks) && !is_some(seen.others, self.looks)
        });
        let mut own = best(&always, guess.own);
        let mut current = guess
            .has_current
            .then(|| best(&sometimes, guess.current))
            .flatten();
        if guess.has_current && current.is_none() && always.len() > 1 {
            // A thread that has kept the GIL all the time shows both words alike. Exchanged, they mean the same as
            // long as there is one interpreter.
            current = best(&always, guess.current);
            let rest: Vec<i32> = always
                .iter()
                .copied()
                .filter(|distance| Some(*distance) != current)
                .collect();
            own = best(&rest, guess.own);
        }
        let agree = |slot: Option<i32>| {
            slot.and_then(|slot| self.seen.get(&slot))
                .is_none_or(|seen| seen.threads.len() > 1)
        };
        Slots {
            own: own.unwrap_or(0),
            current: current.unwrap_or(0),
            is_certain: own.is_some()
                && always.len() == 1
                && self.threads.len() > 1
                && (agree(current) || current == Some(guess.current)),
        }
    }

    /// Whether more looks may tell more: some word was not seen yet, or several could be the same one.
    pub(super) fn is_open(&self, guess: SlotGuess) -> bool {
        self.always().len() != 1 || (guess.has_current && self.slots(guess).current == 0)
    }

    /// The distances at which threads have their own state. A thread that begins or ends may be without, so it is
    /// those that fail least.
    fn always(&self) -> Vec<i32> {
        let most = self.seen.values().map(|seen| seen.states).max();
        self.candidates(|seen| Some(seen.states) == most && is_most(seen.states, self.looks))
    }

    fn candidates(&self, fits: impl Fn(&Seen) -> bool) -> Vec<i32> {
        let seen = self.seen.iter();
        seen.filter(|(_, seen)| seen.states > 0 && fits(seen))
            .map(|(distance, _)| *distance)
            .collect()
    }
}

/// Whether so many of all looks are enough for a word that is always there.
fn is_most(looks: u32, all: u32) -> bool {
    looks * 4 >= all * 3
}

/// Whether so many of all looks are too many for what beginning and ending threads show.
fn is_some(looks: u32, all: u32) -> bool {
    looks * 8 > all
}

/// The one that was expected, or else the nearest to the thread pointer: further away lie stacks.
fn best(candidates: &[i32], expected: i32) -> Option<i32> {
    candidates
        .iter()
        .copied()
        .min_by_key(|distance| (*distance != expected, distance.unsigned_abs()))
}
