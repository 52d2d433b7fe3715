//! The book against what really was at an address, in any order of ends, reads and times.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

/// A name that says which incarnation it is of.
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

fn name(text: &str) -> Arc<dyn CodeName> {
    Arc::new(Name(text.to_owned()))
}

fn ms(time: u64) -> Duration {
    Duration::from_millis(time)
}

fn new(id: u32, addr: u64) -> Word {
    Word::New {
        id: CodeId(id),
        pid: Pid(1),
        addr,
    }
}

fn freed(id: u32) -> Word {
    Word::Freed {
        id: CodeId(id),
        pid: Pid(1),
    }
}

/// A book that knows code 7 and has read it at 10 ms.
fn read_at_10() -> CodeBook {
    let mut book = CodeBook::new(BookLimits::default());
    book.tell(new(7, 0x1000));
    let errand = book.next(ms(9)).unwrap();
    assert_eq!((errand.id, errand.addr), (CodeId(7), 0x1000));
    assert_eq!(book.next(ms(9)), None);
    book.hand_in(CodeId(7), Ok(name("seven")), ms(10));
    book
}

fn outcome(book: &CodeBook) -> Result<String, Gone> {
    book.name(CodeId(7)).map(|name| name.function().to_owned())
}

#[test]
fn a_name_counts_when_all_is_told_that_happened_before_it_was_read() {
    let mut book = read_at_10();
    assert_eq!(outcome(&book), Err(Gone::NotYet));
    book.drained(ms(9));
    assert_eq!(outcome(&book), Err(Gone::NotYet));
    assert!(book.wants_time());
    book.drained(ms(10));
    assert_eq!(outcome(&book), Ok("seven".to_owned()));
    // What is accepted stays: the name was the incarnation's.
    book.tell(freed(7));
    book.tell(Word::Ended(Pid(1)));
    book.tell(Word::Missed);
    assert_eq!(outcome(&book), Ok("seven".to_owned()));
    assert_eq!(
        (
            book.counts().read,
            book.counts().accepted,
            book.counts().gone
        ),
        (1, 1, 0)
    );
    assert!(!book.wants_time() && !book.is_waiting());
}

#[test]
fn a_name_that_was_read_is_gone_when_an_end_is_told_first() {
    for (word, gone) in [
        (freed(7), Gone::Freed),
        (Word::Ended(Pid(1)), Gone::Ended),
        (Word::Missed, Gone::Behind),
        (Word::Distrust { since: ms(0) }, Gone::EventsLost),
    ] {
        let mut book = read_at_10();
        book.tell(word);
        book.drained(ms(20));
        assert_eq!(outcome(&book), Err(gone));
        assert_eq!((book.counts().accepted, book.counts().gone), (0, 1));
        assert!(!book.is_waiting());
    }
}

#[test]
fn ends_of_others_do_not_matter() {
    let mut book = read_at_10();
    book.tell(Word::Freed {
        id: CodeId(7),
        pid: Pid(2),
    });
    book.tell(Word::Ended(Pid(2)));
    book.tell(freed(8));
    book.drained(ms(20));
    assert_eq!(outcome(&book), Ok("seven".to_owned()));
}

#[test]
fn names_that_were_accepted_while_events_were_lost_are_gone() {
    let mut book = read_at_10();
    book.drained(ms(20));
    book.tell(Word::Distrust { since: ms(10) });
    assert_eq!(outcome(&book), Ok("seven".to_owned()));
    book.tell(Word::Distrust { since: ms(9) });
    assert_eq!(outcome(&book), Err(Gone::EventsLost));
}

#[test]
fn a_fault_is_tried_again_and_not_for_ever() {
    let mut book = CodeBook::new(BookLimits::default());
    book.tell(new(7, 0x1000));
    let mut now = ms(0);
    for pause in PAUSES {
        assert!(book.next(now).is_some());
        book.hand_in(CodeId(7), Err(ReadError::Fault), now);
        assert_eq!(outcome(&book), Err(Gone::NotYet));
        assert_eq!(book.next(now + pause - ms(1)), None);
        assert_eq!(book.next_due(), Some(now + pause));
        now += pause;
    }
    assert!(book.next(now).is_some());
    book.hand_in(CodeId(7), Err(ReadError::Fault), now);
    assert_eq!(outcome(&book), Err(Gone::Unreadable));
    assert_eq!(book.next_due(), None);

    book.tell(new(8, 0x1000));
    assert!(book.next(now).is_some());
    book.hand_in(CodeId(8), Err(ReadError::UnknownRuntime), now);
    assert_eq!(book.name(CodeId(8)).err(), Some(Gone::UnknownRuntime));
}

#[test]
fn what_finds_no_room_is_counted() {
    let limits = BookLimits {
        codes: 2,
        bytes: Bytes(2 * ENTRY_COST + 15),
    };
    let mut book = CodeBook::new(limits);
    for id in 2..5 {
        book.tell(new(id, 0x10));
    }
    while let Some(errand) = book.next(ms(0)) {
        book.hand_in(errand.id, Ok(name("x")), ms(1));
    }
    book.drained(ms(1));
    let names: Vec<_> = (2..5).map(|id| book.name(CodeId(id)).err()).collect();
    assert_eq!(names, [None, Some(Gone::Full), Some(Gone::Full)]);
    let counts = book.counts();
    assert_eq!(
        (counts.told, counts.accepted, counts.full, counts.gone),
        (3, 1, 2, 2)
    );
}

/// What happens in the traced process, in the drain and in the reader, in any order.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The process uses what is at an address.
    Use(usize),
    /// The process frees it; the next use makes another.
    Free(usize),
    /// The program ends, and another begins.
    End,
    /// The drain begins a round: it notes the time and what is in the ring.
    BeginRound,
    /// The drain delivers this many records, and tells the time that it noted when it has all that was there.
    Drain(usize),
    /// The reader begins to read, faults, or ends a read.
    BeginRead,
    Fault,
    EndRead,
}

const ADDRESSES: usize = 3;

fn a_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..ADDRESSES).prop_map(Step::Use),
        2 => (0..ADDRESSES).prop_map(Step::Free),
        1 => Just(Step::End),
        2 => Just(Step::BeginRound),
        4 => (1..6_usize).prop_map(Step::Drain),
        4 => Just(Step::BeginRead),
        1 => Just(Step::Fault),
        4 => Just(Step::EndRead),
    ]
}

/// A record on its way from the process to the drain.
#[derive(Clone, Copy, Debug)]
enum Record {
    Used { addr: usize, truth: u32 },
    Freed { addr: usize },
    Ended,
}

/// The traced process, the ring, and the tracker's part: numbering incarnations by what comes out of the ring.
#[derive(Default)]
struct World {
    /// What is at each address now; 0 = nothing.
    memory: [u32; ADDRESSES],
    made: u32,
    ring: VecDeque<Record>,
    known: HashMap<usize, CodeId>,
    numbered: u32,
    /// What each incarnation really is.
    truth: HashMap<CodeId, u32>,
}

impl World {
    fn happen(&mut self, step: Step) {
        match step {
            Step::Use(addr) => {
                if self.memory[addr] == 0 {
                    self.made += 1;
                    self.memory[addr] = self.made;
                }
                let truth = self.memory[addr];
                self.ring.push_back(Record::Used { addr, truth });
            }
            Step::Free(addr) if self.memory[addr] != 0 => {
                self.memory[addr] = 0;
                self.ring.push_back(Record::Freed { addr });
            }
            Step::End => {
                self.memory = [0; ADDRESSES];
                self.ring.push_back(Record::Ended);
            }
            _ => {}
        }
    }

    fn deliver(&mut self, book: &mut CodeBook) {
        match self.ring.pop_front() {
            Some(Record::Used { addr, truth }) if !self.known.contains_key(&addr) => {
                self.numbered += 1;
                let id = CodeId(CodeId::FIRST.0 + self.numbered);
                self.known.insert(addr, id);
                self.truth.insert(id, truth);
                book.tell(new(id.0, addr as u64));
            }
            Some(Record::Freed { addr }) => {
                if let Some(id) = self.known.remove(&addr) {
                    book.tell(freed(id.0));
                }
            }
            Some(Record::Ended) => {
                self.known.clear();
                book.tell(Word::Ended(Pid(1)));
            }
            Some(Record::Used { .. }) | None => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_name_is_right_or_gone(steps in prop::collection::vec(a_step(), 0..120)) {
        let mut world = World::default();
        let mut book = CodeBook::new(BookLimits::default());
        let mut reading: Option<(Errand, u32)> = None;
        let mut round: Option<(Duration, usize)> = None;
        for (now, step) in (1..).map(ms).zip(steps) {
            match step {
                Step::BeginRound if round.is_none() => round = Some((now, world.ring.len())),
                Step::Drain(count) => {
                    for _ in 0..count {
                        world.deliver(&mut book);
                    }
                    if let Some((until, left)) = &mut round {
                        *left = left.saturating_sub(count);
                        if *left == 0 {
                            book.drained(*until);
                            round = None;
                        }
                    }
                }
                Step::BeginRead if reading.is_none() => {
                    // What is found is what is there now, whoever it is.
                    let errand = book.next(now);
                    reading = errand.map(|errand| (errand, world.memory[errand.addr as usize]));
                }
                Step::Fault => {
                    if let Some((errand, _)) = reading.take() {
                        book.hand_in(errand.id, Err(ReadError::Fault), now);
                    }
                }
                Step::EndRead => {
                    if let Some((errand, found)) = reading.take() {
                        let left = world.memory[errand.addr as usize];
                        let outcome = match (found, left) {
                            (0, _) => Err(ReadError::Damaged),
                            (begun, ended) if begun == ended => Ok(name(&found.to_string())),
                            // Half of one and half of the other, and it looks whole.
                            _ => Ok(name("torn")),
                        };
                        book.hand_in(errand.id, outcome, now);
                    }
                }
                other => world.happen(other),
            }
            for (&id, truth) in &world.truth {
                if let Ok(name) = book.name(id) {
                    prop_assert_eq!(name.function(), truth.to_string());
                }
            }
        }
        let counts = book.counts();
        let named = world.truth.keys().filter(|id| book.name(**id).is_ok()).count();
        prop_assert_eq!(counts.accepted, named as u64);
        prop_assert_eq!(counts.told, world.truth.len() as u64);
    }

    #[test]
    fn a_process_at_rest_gets_all_its_names(uses in prop::collection::vec((0..ADDRESSES, any::<bool>()), 1..40)) {
        let mut world = World::default();
        let mut book = CodeBook::new(BookLimits::default());
        for (addr, free) in uses {
            world.happen(if free { Step::Free(addr) } else { Step::Use(addr) });
        }
        while !world.ring.is_empty() {
            world.deliver(&mut book);
        }
        while let Some(errand) = book.next(ms(1)) {
            let found = world.memory[errand.addr as usize];
            book.hand_in(errand.id, Ok(name(&found.to_string())), ms(2));
        }
        book.drained(ms(3));
        for (addr, id) in &world.known {
            let name = book.name(*id).unwrap();
            prop_assert_eq!(name.function(), world.memory[*addr].to_string());
        }
        prop_assert!(!book.is_waiting());
    }
}

fn copied(id: u32) -> Word {
    let header = memtrace_common::obituary::ObituaryHeader::default();
    let obituary = Arc::new(Obituary::new(&header, [&[]; 4]));
    let id = CodeId(id);
    Word::Copied { id, obituary }
}

#[test]
fn an_obituary_names_whatever_ended_first() {
    let ends = [
        vec![copied(7), freed(7)],
        vec![freed(7), copied(7)],
        vec![freed(7), Word::Ended(Pid(1)), copied(7)],
        vec![Word::Ended(Pid(1)), copied(7)],
        vec![Word::Missed, copied(7)],
    ];
    for words in ends {
        for mut book in [read_at_10(), unread()] {
            for word in words.clone() {
                book.tell(word);
            }
            assert!(book.is_waiting());
            let (id, _) = book.next_copy().unwrap();
            book.recall(id, name("seven"), ms(20));
            book.drained(ms(30));
            assert_eq!(outcome(&book), Ok("seven".to_owned()));
            let counts = book.counts();
            assert_eq!((counts.accepted, counts.recalled, counts.gone), (1, 1, 0));
            assert!(!book.is_waiting() && book.next_due().is_none());
            // What has a name needs no other.
            book.tell(copied(7));
            assert!(book.next_copy().is_none());
        }
    }
}

fn unread() -> CodeBook {
    let mut book = CodeBook::new(BookLimits::default());
    book.tell(new(7, 0x1000));
    book
}

#[test]
fn an_obituary_is_not_believed_when_the_number_is_in_doubt() {
    let distrust = Word::Distrust { since: ms(5) };
    for words in [
        vec![copied(7), distrust.clone()],
        vec![distrust.clone(), copied(7)],
    ] {
        let mut book = unread();
        words.into_iter().for_each(|word| book.tell(word));
        assert!(book.next_copy().is_none());
        assert_eq!(outcome(&book), Err(Gone::EventsLost));
    }
    let mut book = unread();
    book.recall(CodeId(7), name("seven"), ms(6));
    book.tell(distrust);
    assert_eq!(outcome(&book), Err(Gone::EventsLost));
    assert_eq!((book.counts().accepted, book.counts().gone), (0, 1));
    // Of nobody that is known.
    book.tell(copied(9));
    assert!(book.next_copy().is_none());
}

#[test]
fn an_obituary_without_room_is_counted() {
    let limits = BookLimits {
        codes: 2,
        bytes: Bytes(ENTRY_COST + 5),
    };
    let mut book = CodeBook::new(limits);
    book.tell(new(7, 0x10));
    book.recall(CodeId(7), name("x"), ms(1));
    let counts = book.counts();
    assert_eq!((counts.full, counts.gone, counts.recalled), (1, 1, 0));
    assert_eq!(outcome(&book), Err(Gone::Full));
}
