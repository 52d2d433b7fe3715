//! Reads the names of Python code objects on a thread of its own, soon after the drain has met them.
//!
//! The drain hands over what its tracker says at the end of a round, and when names wait, a time up to which it has
//! everything. It never waits: what the channel does not take stays with it up to a limit, beyond which names are given
//! up and counted.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{self, RecvTimeoutError, SyncSender, TrySendError},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    ids::Pid,
    python::{
        book::{BookLimits, CodeBook, Word},
        code::{CodeLayout, CodeObject},
        memory::ProcessMemory,
        name::{CodeName, CodeReader, ReadError},
        obituary::Obituary,
    },
};

/// How long it is known how the code objects of an ended process looked: what was copied of them may still be on its
/// way.
const KEPT: Duration = Duration::from_secs(2);
/// Rounds on their way to the thread.
const MAX_ROUNDS: usize = 64;
/// Words that wait for room in the channel.
const MAX_BACKLOG: usize = 1 << 16;
/// Code objects that are read before the drain is listened to again.
const BATCH: usize = 256;
/// Longest pause of the thread. A round ends it at once.
const IDLE: Duration = Duration::from_secs(1);

/// How the code objects of each process are read: written by the session, read by the thread.
#[derive(Clone, Debug, Default)]
pub(super) struct Layouts(Arc<RwLock<Known>>);

#[derive(Debug, Default)]
struct Known {
    running: HashMap<Pid, CodeLayout>,
    /// Of processes that have ended lately.
    ended: HashMap<Pid, (Instant, CodeLayout)>,
}

impl Layouts {
    /// From here on the process's code objects can be read.
    pub(super) fn insert(&self, pid: Pid, layout: CodeLayout) {
        let mut layouts = self.0.write().unwrap_or_else(PoisonError::into_inner);
        layouts.ended.remove(&pid);
        layouts.running.insert(pid, layout);
    }

    /// The process has ended, or runs another program.
    pub(super) fn remove(&self, pid: Pid) {
        let mut layouts = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        layouts
            .ended
            .retain(|_, (since, _)| now.duration_since(*since) < KEPT);
        if let Some(layout) = layouts.running.remove(&pid) {
            layouts.ended.insert(pid, (now, layout));
        }
    }
}

impl CodeReader for Layouts {
    fn read(&mut self, pid: Pid, addr: u64) -> Result<Arc<dyn CodeName>, ReadError> {
        let layout = {
            let layouts = self.0.read().unwrap_or_else(PoisonError::into_inner);
            *layouts.running.get(&pid).ok_or(ReadError::UnknownRuntime)?
        };
        let code = CodeObject::read(&ProcessMemory(pid), addr, &layout)?;
        Ok(Arc::new(code))
    }

    fn recall(&mut self, obituary: &Obituary) -> Result<Arc<dyn CodeName>, ReadError> {
        let layouts = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let ended = || layouts.ended.get(&obituary.pid).map(|(_, layout)| layout);
        let layout = layouts.running.get(&obituary.pid).or_else(ended);
        Ok(Arc::new(
            obituary.code(layout.ok_or(ReadError::UnknownRuntime)?)?,
        ))
    }
}

/// What the drain has to say after a round.
#[derive(Debug)]
struct Round {
    words: Vec<Word>,
    drained_until: Option<Duration>,
}

/// The names, for those who read them.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) book: Mutex<CodeBook>,
    changed: Condvar,
    wants_time: AtomicBool,
    sent: AtomicU64,
    applied: AtomicU64,
}

/// The drain's end.
#[derive(Debug)]
pub(super) struct Teller {
    rounds: SyncSender<Round>,
    names: Arc<Names>,
    backlog: Vec<Word>,
}

/// Starts the thread. It ends with the teller. `start` is the session's beginning.
pub(super) fn spawn(
    reader: Box<dyn CodeReader>,
    start: Instant,
) -> io::Result<(Teller, Arc<Names>)> {
    let names = Arc::new(Names {
        book: Mutex::new(CodeBook::new(BookLimits::default())),
        changed: Condvar::new(),
        wants_time: AtomicBool::new(false),
        sent: AtomicU64::new(0),
        applied: AtomicU64::new(0),
    });
    let (rounds, inbox) = mpsc::sync_channel(MAX_ROUNDS);
    let worker = Worker {
        names: Arc::clone(&names),
        reader,
        start,
    };
    thread::Builder::new()
        .name("names".into())
        .spawn(move || worker.run(&inbox))?;
    let teller = Teller {
        rounds,
        names: Arc::clone(&names),
        backlog: Vec::new(),
    };
    Ok((teller, names))
}

impl Teller {
    /// The end of a round. `drained_until` is asked only if a name waits for the answer.
    pub(super) fn round_ended(
        &mut self,
        words: Vec<Word>,
        drained_until: &dyn Fn() -> Option<Duration>,
    ) {
        self.backlog.extend(words);
        let wants_time = self.names.wants_time.load(Ordering::Relaxed);
        let drained_until = wants_time.then(drained_until).flatten();
        if self.backlog.is_empty() && drained_until.is_none() {
            return;
        }
        let words = std::mem::take(&mut self.backlog);
        let round = Round {
            words,
            drained_until,
        };
        self.names.sent.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = self.rounds.try_send(round) {
            self.names.sent.fetch_sub(1, Ordering::Relaxed);
            if let TrySendError::Full(round) = error {
                self.backlog = bounded(round.words);
            }
        }
    }
}

/// The words, or what they come to when they are too many.
fn bounded(words: Vec<Word>) -> Vec<Word> {
    if words.len() <= MAX_BACKLOG {
        return words;
    }
    let since = words.iter().filter_map(|word| match word {
        Word::Distrust { since } => Some(*since),
        _ => None,
    });
    let distrust = since.min().map(|since| Word::Distrust { since });
    [Word::Missed].into_iter().chain(distrust).collect()
}

impl Names {
    /// Waits until everything that the drain has said so far is named or gone, at most `limit`.
    pub(super) fn settle(&self, limit: Duration) {
        let sent = self.sent.load(Ordering::Relaxed);
        let is_open =
            |book: &mut CodeBook| self.applied.load(Ordering::Relaxed) < sent || book.is_waiting();
        drop(
            self.changed
                .wait_timeout_while(self.book(), limit, is_open)
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    fn book(&self) -> MutexGuard<'_, CodeBook> {
        // The book's own steps do not panic half-way.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Worker {
    names: Arc<Names>,
    reader: Box<dyn CodeReader>,
    start: Instant,
}

impl Worker {
    fn run(mut self, inbox: &mpsc::Receiver<Round>) {
        loop {
            let due = self.names.book().next_due();
            let pause = due.map_or(IDLE, |due| due.saturating_sub(self.start.elapsed()));
            match inbox.recv_timeout(pause.min(IDLE)) {
                Ok(round) => self.apply(round),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            while let Ok(round) = inbox.try_recv() {
                self.apply(round);
            }
            self.recall();
            self.read();
            let wants_time = self.names.book().wants_time();
            self.names.wants_time.store(wants_time, Ordering::Relaxed);
            self.names.changed.notify_all();
        }
    }

    fn apply(&self, round: Round) {
        let mut book = self.names.book();
        for word in round.words {
            book.tell(word);
        }
        if let Some(until) = round.drained_until {
            book.drained(until);
        }
        self.names.applied.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes names from what was copied.
    fn recall(&mut self) {
        loop {
            let copy = self.names.book().next_copy();
            let Some((id, obituary)) = copy else {
                return;
            };
            if let Ok(name) = self.reader.recall(&obituary) {
                let at = self.start.elapsed();
                self.names.book().recall(id, name, at);
            }
        }
    }

    /// Reads what is due. The book is free while the process's memory is read.
    fn read(&mut self) {
        for _ in 0..BATCH {
            let errand = self.names.book().next(self.start.elapsed());
            let Some(errand) = errand else {
                return;
            };
            let outcome = self.reader.read(errand.pid, errand.addr);
            let at = self.start.elapsed();
            self.names.book().hand_in(errand.id, outcome, at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ids::CodeId, python::name::Gone};

    #[derive(Debug)]
    struct Name(u64);

    impl CodeName for Name {
        fn function(&self) -> &str {
            "f"
        }

        fn file(&self) -> &str {
            "f.py"
        }

        fn line(&self, _instr: u32) -> Option<u32> {
            u32::try_from(self.0).ok()
        }

        fn bytes(&self) -> usize {
            8
        }
    }

    /// Finds a name at every address but 0x666.
    struct Reader;

    impl CodeReader for Reader {
        fn read(&mut self, _pid: Pid, addr: u64) -> Result<Arc<dyn CodeName>, ReadError> {
            match addr {
                0x666 => Err(ReadError::Fault),
                _ => Ok(Arc::new(Name(addr))),
            }
        }

        fn recall(&mut self, obituary: &Obituary) -> Result<Arc<dyn CodeName>, ReadError> {
            Ok(Arc::new(Name(obituary.addr)))
        }
    }

    fn new(id: u32, addr: u64) -> Word {
        Word::New {
            id: CodeId(id),
            pid: Pid(1),
            addr,
        }
    }

    #[test]
    fn names_come_when_the_drain_says_how_far_it_is() {
        let start = Instant::now();
        let (mut teller, names) = spawn(Box::new(Reader), start).unwrap();
        teller.round_ended(vec![new(2, 7), new(3, 8), new(4, 0x666)], &|| None);
        let freed = Word::Freed {
            id: CodeId(3),
            pid: Pid(1),
        };
        teller.round_ended(vec![freed], &|| None);
        let is_open = || {
            let book = names.book();
            book.counts().told < 3 || book.is_waiting()
        };
        while is_open() {
            assert!(start.elapsed() < Duration::from_secs(20));
            teller.round_ended(Vec::new(), &|| Some(start.elapsed()));
            names.settle(Duration::from_millis(5));
        }
        let book = names.book();
        assert_eq!(book.name(CodeId(2)).unwrap().line(0), Some(7));
        assert_eq!(book.name(CodeId(3)).err(), Some(Gone::Freed));
        assert_eq!(book.name(CodeId(4)).err(), Some(Gone::Unreadable));
    }

    #[test]
    fn a_backlog_that_is_too_long_says_so() {
        let since = |ms| Word::Distrust {
            since: Duration::from_millis(ms),
        };
        let few = vec![new(2, 7), since(9)];
        assert_eq!(bounded(few.clone()), few);
        let mut many = vec![new(2, 7); MAX_BACKLOG];
        many.extend([since(9), since(4), since(6)]);
        assert_eq!(bounded(many), [Word::Missed, since(4)]);
    }
}
