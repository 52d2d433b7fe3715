//! Memory that changes, misleads or never ends.

use std::{cell::Cell, collections::HashMap, io};

use proptest::prelude::*;

use crate::{
    ids::ObjectId,
    python::{
        Refusal,
        code::CodeLayout,
        code_type::TP_DEALLOC,
        image::PythonImage,
        memory::Memory,
        offsets::Layout,
        runtime::{Reach, Runtime, Unfound, find_in},
        selftest::Fault,
        slots::SlotGuess,
        threads::{MAX_INTERPRETERS, MAX_THREADS},
        version::Version,
    },
};

/// Reads that the whole search may take.
const MAX_READS: u64 = 250_000;

const VERSION: Version = Version {
    major: 3,
    minor: 12,
    micro: Some(1),
};
const RUNTIME: u64 = 0x10_0000;
const CODE_TYPE: u64 = 0x20_0000;
const MEMBERS: u64 = 0x21_0000;
const DEALLOC: u64 = 0x30_0000;

/// What a search needs of the file.
fn image() -> PythonImage {
    PythonImage {
        version: VERSION,
        eval: Default::default(),
        layout: Layout::of(VERSION, None).unwrap(),
        runtime: RUNTIME,
        code_type: CODE_TYPE,
        dealloc_in_file: Some(0),
        text: std::iter::once(DEALLOC..DEALLOC + 64).collect(),
        guess: SlotGuess::default(),
    }
}

/// The words of a `PyCode_Type` as 3.12 has it.
fn code_type() -> HashMap<u64, u64> {
    let known = image().layout.code;
    let mut words = HashMap::from([
        (CODE_TYPE + TP_DEALLOC, DEALLOC),
        (CODE_TYPE + 32, known.bytecode.unwrap().into()),
        (CODE_TYPE + 240, MEMBERS),
    ]);
    let members = [
        ("co_filename", known.filename),
        ("co_name", known.name),
        ("co_qualname", known.qualname.unwrap()),
        ("co_firstlineno", known.first_line),
        ("co_linetable", known.line_table),
    ];
    for (number, (name, offset)) in (0..).zip(members) {
        let (member, text) = (MEMBERS + number * 40, MEMBERS + 0x1000 + number * 32);
        words.extend([(member, text), (member + 16, offset.into())]);
        let mut bytes = name.as_bytes().to_vec();
        bytes.resize(32, 0);
        for (number, word) in (0..).zip(bytes.as_chunks::<8>().0) {
            words.insert(text + number * 8, u64::from_le_bytes(*word));
        }
    }
    words.insert(MEMBERS + 5 * 40, 0);
    words
}

/// Memory whose words a function makes; `None` where there is none.
struct Made<F> {
    fixed: HashMap<u64, u64>,
    word: F,
    reads: Cell<u64>,
}

impl<F: Fn(u64, u64) -> Option<u64>> Made<F> {
    /// `word` gets an address and the number of the read.
    fn new(word: F) -> Self {
        Self {
            fixed: code_type(),
            word,
            reads: Cell::new(0),
        }
    }

    /// Searches, and checks that it ends.
    fn search(&self) -> Result<Runtime, Unfound> {
        let found = find_in(self, ObjectId(1), 0, &image());
        assert!(self.reads.get() < MAX_READS, "{} reads", self.reads.get());
        found
    }

    fn word_around(&self, addr: u64, reads: u64) -> io::Result<u64> {
        let start = addr & !7;
        let known = self.fixed.get(&start).copied();
        let word = known.or_else(|| (self.word)(start, reads));
        word.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl<F: Fn(u64, u64) -> Option<u64>> Memory for Made<F> {
    fn read_into(&self, addr: u64, bytes: &mut [u8]) -> io::Result<()> {
        let reads = self.reads.get();
        self.reads.set(reads + 1);
        let mut at = addr;
        for part in bytes.chunks_mut(8) {
            // An unaligned part lies in two words.
            let first = self.word_around(at, reads)? >> (at % 8 * 8);
            let last = self.word_around(at.wrapping_add(7), reads)?;
            let rest = last.checked_shl(64 - (at % 8 * 8) as u32).unwrap_or(0);
            part.copy_from_slice(&(first | rest).to_le_bytes()[..part.len()]);
            at = at.wrapping_add(8);
        }
        Ok(())
    }
}

fn fault_of(found: Result<Runtime, Unfound>) -> Option<Fault> {
    match found {
        Err(Unfound::Refused(Refusal::SelfTest { fault, .. })) => Some(fault),
        _ => None,
    }
}

const INTERPRETERS: u64 = 1 << 40;
const STATES: u64 = 2 << 40;
const LINKS: u64 = 3 << 40;
const FRAMES: u64 = 4 << 40;
const CODES: u64 = 5 << 40;
const POINTERS: u64 = 6 << 40;
const APART: u64 = 0x1_0000;

/// Interpreters with threads with frames, none of which end: numbers are in the addresses.
fn endless(addr: u64) -> Option<u64> {
    let (kind, number, field) = (
        addr >> 40 << 40,
        (addr & 0xff_ffff_ffff) / APART,
        addr % APART,
    );
    let at = |kind: u64, number: u64| Some(kind + (number & 0xff_ffff) * APART);
    match (kind, field) {
        (0, _) if addr == RUNTIME + 40 => at(INTERPRETERS, 1),
        (0, _) => Some(0),
        (INTERPRETERS, 0) => at(INTERPRETERS, number + 1),
        // So many threads that only the first interpreters' are looked at.
        (INTERPRETERS, 72) => at(STATES, number * 100),
        (STATES, 8) if number % 100 == 99 => Some(0),
        (STATES, 8) => at(STATES, number + 1),
        (STATES, 16) => at(INTERPRETERS, number / 100),
        (STATES, 136) => at(POINTERS, number),
        (STATES, 56) => at(LINKS, number),
        (LINKS, 0) => at(FRAMES, number * 1000),
        (FRAMES, 8) => at(FRAMES, number + 1),
        (FRAMES, 0) => at(CODES, number),
        (FRAMES, 56) => Some(CODES + number * APART + 200),
        (FRAMES, _) => Some(0),
        (CODES, 8) => Some(CODE_TYPE),
        (POINTERS, 0) => Some(addr),
        // The own state, at 64 bytes from the thread pointer.
        (POINTERS, 64) => at(STATES, number),
        (POINTERS, _) => Some(0),
        _ => None,
    }
}

#[test]
fn what_never_ends_is_cut() {
    let found = Made::new(|addr, _| endless(addr)).search().unwrap();
    assert!(found.is_cut && !found.provisional);
    assert!(found.interpreters <= MAX_INTERPRETERS);
    assert_eq!(found.threads.len(), MAX_THREADS);
    assert_eq!((found.python.own_slot, found.reach), (64, Reach::Always));
}

#[test]
fn each_fault_is_named() {
    let with = |change: fn(u64) -> Option<Option<u64>>| {
        fault_of(Made::new(move |addr, _| change(addr).unwrap_or_else(|| endless(addr))).search())
    };
    let cycle =
        with(|addr| (addr == STATES + 101 * APART + 8).then_some(Some(STATES + 100 * APART)));
    assert_eq!(
        cycle,
        Some(Fault::List("the list of threads does not end".into()))
    );
    let foreign = with(|addr| (addr == STATES + 101 * APART + 16).then_some(Some(7)));
    let words = "a thread's state does not name its interpreter";
    assert_eq!(foreign, Some(Fault::List(words.into())));
    let frames = |frame: u64, field: u64| FRAMES + (100_000 + frame) * APART + field;
    assert_eq!(frames(0, 0), FRAMES + 100 * 1000 * APART);
    let looped = with(|addr| {
        (addr == FRAMES + 100_003 * APART + 8).then_some(Some(FRAMES + 100_000 * APART))
    });
    assert_eq!(
        looped,
        Some(Fault::Frames("a chain of frames does not end".into()))
    );
    let unreadable = with(|addr| (addr == FRAMES + 100_003 * APART + 8).then_some(None));
    assert_eq!(
        unreadable,
        Some(Fault::Frames("a frame cannot be read".into()))
    );
    let no_code = with(|addr| (addr == CODES + 100_009 * APART + 8).then_some(Some(CODE_TYPE + 8)));
    assert_eq!(no_code, Some(Fault::NotCode));
    let outside = with(|addr| (addr == FRAMES + 100_009 * APART + 56).then_some(Some(16)));
    assert_eq!(outside, Some(Fault::Outside));
}

/// A thread that fails once because it goes on is no fault.
#[test]
fn what_changes_is_looked_at_again() {
    let memory = Made::new(|addr, reads| match addr {
        _ if addr == FRAMES + 100_009 * APART && reads < 10_000 => Some(CODES - 64),
        _ => endless(addr),
    });
    assert!(memory.search().is_ok());
}

#[test]
fn without_a_common_place_frames_are_not_reached() {
    // As musl has it: threads keep states in memory of their own.
    let memory = Made::new(|addr, _| match (addr >> 40 << 40, addr % APART) {
        (POINTERS, 64) => Some(0),
        _ => endless(addr),
    });
    let found = memory.search().unwrap();
    assert_eq!((found.python.own_slot, found.reach), (0, Reach::Never));
    assert_eq!(found.threads.len(), MAX_THREADS);
}

#[test]
fn one_that_has_not_begun_is_provisional_and_one_that_is_not_loaded_is_not_there() {
    let zero = Made::new(|_, _| Some(0)).search().unwrap();
    assert!(zero.provisional && zero.reach == Reach::Untold && zero.threads.is_empty());
    let mut unloaded = Made::new(|_, _| Some(0));
    unloaded.fixed.insert(CODE_TYPE + TP_DEALLOC, 0);
    assert_eq!(unloaded.search().unwrap_err(), Unfound::NotYet);
    unloaded.fixed.insert(CODE_TYPE + TP_DEALLOC, DEALLOC + 64);
    assert_eq!(fault_of(unloaded.search()), Some(Fault::Dealloc));
    let mut other = Made::new(|_, _| Some(0));
    other.fixed.insert(MEMBERS + 16, 96);
    assert_eq!(fault_of(other.search()), Some(Fault::CodeLayout));
    let nothing = Made {
        fixed: HashMap::new(),
        ..Made::new(|_, _| None)
    };
    assert_eq!(fault_of(nothing.search()), Some(Fault::Memory));
}

#[test]
fn code_objects_are_read_as_their_type_says() {
    let code: CodeLayout = Made::new(|addr, _| endless(addr)).search().unwrap().code;
    assert_eq!(
        (code.code_type, code.filename, code.qualname),
        (CODE_TYPE, 112, Some(128))
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn garbage_ends_without_harm(
        soup in prop::collection::vec(
            prop_oneof![
                Just(Some(0)), Just(None), any::<u64>().prop_map(Some),
                (0_u64..64).prop_map(|number| Some(STATES + number * 8)),
                Just(Some(CODE_TYPE)), Just(Some(STATES)),
            ],
            1..80,
        ),
        changes in any::<bool>(),
    ) {
        let memory = Made::new(|addr, reads| {
            let salt = if changes { reads } else { 0 };
            soup[((addr / 8).wrapping_add(salt) % soup.len() as u64) as usize]
        });
        let _any = memory.search();
    }
}
