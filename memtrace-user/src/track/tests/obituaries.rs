//! Ends of code objects with and without obituaries, early, late and lost: every name that the book gets is that of the
//! code object whose blocks the site holds, and it gets one whenever an obituary has come.

use std::{collections::HashMap, sync::Arc};

use memtrace_common::{
    obituary::ObituaryHeader,
    stack::{StackHeader, python_frame},
};
use proptest::prelude::*;

use super::*;
use crate::{
    ids::CodeId,
    python::{
        book::{BookLimits, CodeBook},
        name::CodeName,
        obituary::Obituary,
    },
};

const ADDRESSES: usize = 3;
const PID: u32 = 1;

fn addr_of(at: usize) -> u64 {
    0x7000_0000_1000 + 0x1000 * at as u64
}

/// What becomes of an obituary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It is there before its event.
    Early,
    /// It comes at the end of a later round.
    Late,
    /// It was sent, and never comes.
    Lost,
    /// There was no room to send it.
    Unsent,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A block from the stack that has the code object at this address.
    Alloc(usize),
    /// The code object there is freed; the next is another.
    Free(usize, Fate),
    /// An obituary whose event was lost.
    Orphan(usize),
    /// Stacks arrive.
    Arrive,
    /// The round ends: stacks arrive, then the obituaries that are late.
    Settle,
}

fn a_step() -> impl Strategy<Value = Step> {
    let fate = prop_oneof![
        4 => Just(Fate::Early),
        2 => Just(Fate::Late),
        1 => Just(Fate::Lost),
        1 => Just(Fate::Unsent),
    ];
    prop_oneof![
        6 => (0..ADDRESSES).prop_map(Step::Alloc),
        5 => (0..ADDRESSES, fate).prop_map(|(at, fate)| Step::Free(at, fate)),
        1 => (0..ADDRESSES).prop_map(Step::Orphan),
        1 => Just(Step::Arrive),
        2 => Just(Step::Settle),
    ]
}

/// The name of the incarnation with this number.
#[derive(Debug)]
struct Name(String);

impl CodeName for Name {
    fn function(&self) -> &str {
        &self.0
    }

    fn file(&self) -> &str {
        "f.py"
    }

    fn line(&self, _instr: u32) -> Option<u32> {
        None
    }

    fn bytes(&self) -> usize {
        10
    }
}

struct World {
    tracker: Tracker,
    book: CodeBook,
    /// Numbers of what is at the addresses. The size of a block is the number of what has allocated it.
    memory: [u64; ADDRESSES],
    made: u64,
    /// What became of the obituaries, by number.
    fates: HashMap<u64, Fate>,
    /// What is on its way.
    stacks: Vec<usize>,
    late: Vec<Obituary>,
    next_block: u64,
}

impl World {
    fn new() -> Self {
        Self {
            tracker: Tracker::new(ample(), BlockFilter::default()),
            book: CodeBook::new(BookLimits::default()),
            memory: [1, 2, 3],
            made: 3,
            fates: HashMap::new(),
            stacks: (0..ADDRESSES).collect(),
            late: Vec::new(),
            next_block: 0,
        }
    }

    /// Stamped with the number of the code object that is freed.
    fn obituary(&self, at: usize) -> Obituary {
        let header = ObituaryHeader {
            addr: addr_of(at),
            stamp: self.memory[at],
            tgid: PID,
            ..ObituaryHeader::default()
        };
        Obituary::new(&header, [&[]; 4])
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Alloc(at) => {
                self.next_block += 16;
                let event = alloc(PID, self.next_block, self.memory[at], at as u64 + 1);
                self.tracker.apply(&event, Millis(0));
            }
            Step::Free(at, fate) => self.free(at, fate),
            // No other end has its stamp.
            Step::Orphan(at) => {
                let header = ObituaryHeader {
                    addr: addr_of(at),
                    stamp: 1_000_000 + self.next_block,
                    tgid: PID,
                    ..ObituaryHeader::default()
                };
                self.tracker.add_obituary(Obituary::new(&header, [&[]; 4]));
            }
            Step::Arrive => self.arrive(),
            Step::Settle => {
                self.arrive();
                self.tracker.settle();
                for obituary in std::mem::take(&mut self.late) {
                    self.tracker.add_obituary(obituary);
                }
                self.tell();
            }
        }
    }

    fn free(&mut self, at: usize, fate: Fate) {
        let obituary = self.obituary(at);
        let mut freed = event(event::CODE_FREED, PID, addr_of(at), 1, self.memory[at]);
        match fate {
            Fate::Early => self.tracker.add_obituary(obituary),
            Fate::Late => self.late.push(obituary),
            Fate::Lost => {}
            Fate::Unsent => freed = event(event::CODE_FREED, PID, addr_of(at), 0, 0),
        }
        let lacks = self.tracker.lacks_obituary(&freed);
        assert_eq!(lacks, matches!(fate, Fate::Late | Fate::Lost));
        self.tracker.apply(&freed, Millis(0));
        self.fates.insert(self.memory[at], fate);
        self.made += 1;
        self.memory[at] = self.made;
    }

    fn arrive(&mut self) {
        for at in std::mem::take(&mut self.stacks) {
            let header = StackHeader {
                id: at as u64 + 1,
                count: 1,
                ..StackHeader::default()
            };
            self.tracker
                .add_stack(&header, &[python_frame(addr_of(at), 3)]);
        }
    }

    /// The names' thread.
    fn tell(&mut self) {
        for word in self.tracker.take_words() {
            self.book.tell(word);
        }
        while let Some((id, obituary)) = self.book.next_copy() {
            let name = Arc::new(Name(obituary.stamp.to_string()));
            self.book.recall(id, name, Duration::ZERO);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn an_obituary_names_its_own_code_object(steps in prop::collection::vec(a_step(), 0..60)) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
        }
        world.take(Step::Settle);
        let snapshot = world.tracker.freeze(BlockFilter::default(), Duration::ZERO);
        for site in snapshot.processes.iter().flat_map(|process| &process.sites) {
            let number = site.live_bytes.0 / site.live_blocks;
            let binding = snapshot.bindings.get(&site.binding);
            let code = binding.and_then(|binding| binding.codes.first().copied());
            let name = code.and_then(|code| world.book.name(code).ok());
            if let Some(name) = &name {
                prop_assert_eq!(number * site.live_blocks, site.live_bytes.0, "mixed: {:?}", site);
                prop_assert_eq!(name.function(), number.to_string());
            }
            match world.fates.get(&number) {
                _ if code == Some(CodeId::FREED) => {
                    // Its end was heard of before its stack, without an obituary.
                }
                Some(Fate::Early | Fate::Late) => prop_assert!(name.is_some(), "{:?}", site),
                Some(Fate::Lost | Fate::Unsent) | None => prop_assert!(name.is_none()),
            }
        }
        prop_assert!(!world.book.is_waiting() || world.memory.iter().any(|number| !world.fates.contains_key(number)));
    }

    #[test]
    fn with_all_obituaries_everything_that_was_freed_is_named(
        steps in prop::collection::vec((0..ADDRESSES, 0..3_u8), 0..60),
    ) {
        let mut world = World::new();
        for (at, what) in steps {
            world.take(match what {
                0 => Step::Free(at, Fate::Early),
                1 => Step::Free(at, Fate::Late),
                _ => Step::Alloc(at),
            });
        }
        world.take(Step::Settle);
        let snapshot = world.tracker.freeze(BlockFilter::default(), Duration::ZERO);
        for site in snapshot.processes.iter().flat_map(|process| &process.sites) {
            let number = site.live_bytes.0 / site.live_blocks;
            if world.fates.contains_key(&number) {
                let binding = &snapshot.bindings[&site.binding];
                let name = world.book.name(binding.codes[0]).unwrap();
                prop_assert_eq!(name.function(), number.to_string());
            }
        }
    }
}
