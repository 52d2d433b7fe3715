//! One traced process as the session holds it.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    ops::Range,
    path::PathBuf,
    time::{Duration, Instant},
};

use super::{
    pythons::Placed,
    targets::{DomainState, PythonState},
};
use crate::{
    ids::{Bytes, ObjectId, Pid},
    probe::FileLinks,
    report::{ProcessFacts, RuntimeFacts},
    target::procfs::{self, ProcessInfo},
};

/// When the mappings of a process that has just begun a program are looked at again: its dynamic linker may be at work.
const YOUNG: [Duration; 4] = [
    Duration::from_millis(5),
    Duration::from_millis(30),
    Duration::from_millis(150),
    Duration::from_millis(1000),
];
/// Shortest and longest time between two looks that stacks ask for. A look that brings nothing new doubles it.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Earlier programs of a process that are remembered.
const MAX_FORMER: usize = 64;

/// A traced process.
#[derive(Debug)]
pub(super) struct Target {
    /// Id, name and start.
    pub(super) info: ProcessInfo,
    /// When it was first seen, in clock ticks since boot.
    pub(super) since_ticks: u64,
    /// What it runs.
    pub(super) exe: PathBuf,
    /// The file of that: device and inode.
    pub(super) program: Option<(u64, u64)>,
    /// Programs it has begun since it was first seen.
    pub(super) exec_count: u32,
    /// Whether it is traced because its parent is.
    pub(super) followed: bool,
    /// Its probes, by file.
    pub(super) links: HashMap<ObjectId, FileLinks>,
    /// Files with code that it mapped when it was last looked at.
    pub(super) placed: Vec<Placed>,
    /// Its Python, if it has one.
    pub(super) python: PythonState,
    /// What was known of its runtime when it ended.
    pub(super) last_runtime: Option<RuntimeFacts>,
    /// That Python's allocator.
    pub(super) domains: DomainState,
    /// Files whose probes are being attached.
    pub(super) pending: HashSet<ObjectId>,
    /// Whether the user has been told of it.
    pub(super) announced: bool,
    /// Its run of mappings.
    pub(super) run: Range<u32>,
    /// Whether it has ended.
    pub(super) exited: bool,
    /// Name before the last change of it.
    pub(super) renamed_from: Option<String>,
    /// Resident memory when last seen.
    pub(super) rss: Bytes,
    /// What was known of it when it ran other programs, the latest ones.
    pub(super) former: VecDeque<((Pid, u32), ProcessFacts)>,
    /// CPU time it had used when it was first seen.
    pub(super) cpu_before: Duration,
    /// CPU time it has used since, as last seen.
    pub(super) cpu_since: Duration,
    looks: Looks,
}

/// When the mappings are looked at again.
#[derive(Debug)]
struct Looks {
    due: Option<Instant>,
    young: std::slice::Iter<'static, Duration>,
    began: Instant,
    pause: Duration,
    last: Instant,
}

impl Target {
    pub(super) fn new(info: ProcessInfo, followed: bool) -> Self {
        let pid = info.pid;
        let now = Instant::now();
        Self {
            info,
            since_ticks: procfs::ticks_since_boot(),
            exe: procfs::exe(pid).unwrap_or_default(),
            program: procfs::program(pid),
            exec_count: 0,
            followed,
            links: HashMap::new(),
            placed: Vec::new(),
            python: PythonState::default(),
            last_runtime: None,
            domains: DomainState::default(),
            pending: HashSet::new(),
            announced: false,
            run: 0..0,
            exited: false,
            renamed_from: None,
            rss: procfs::rss(pid).unwrap_or_default(),
            former: VecDeque::new(),
            cpu_before: procfs::cpu_time(pid).unwrap_or_default(),
            cpu_since: Duration::ZERO,
            looks: Looks {
                due: None,
                young: [].iter(),
                began: now,
                pause: SHORTEST_PAUSE,
                last: now,
            },
        }
    }

    /// Its id.
    pub(super) fn pid(&self) -> Pid {
        self.info.pid
    }

    /// Generation as reports print it: id, start, programs begun.
    pub(super) fn generation(&self) -> String {
        format!(
            "{}-{}-{}",
            self.info.pid, self.info.start_ticks, self.exec_count
        )
    }

    /// What reports say of it.
    pub(super) fn facts(&self) -> ProcessFacts {
        ProcessFacts {
            comm: self.info.comm.clone(),
            exe: self.exe.to_string_lossy().into_owned(),
            generation: self.generation(),
            rss: self.rss,
            ended: None,
            notes: self.domains.words().into_iter().collect(),
            runtime: self
                .last_runtime
                .clone()
                .unwrap_or_else(|| self.python.facts()),
        }
    }

    /// It runs another program from here on.
    pub(super) fn begin_program(&mut self, comm: String) {
        if self.former.len() == MAX_FORMER {
            self.former.pop_front();
        }
        // An exec changes the name before it is told.
        if let Some(name) = self.renamed_from.take().filter(|_| self.info.comm == comm) {
            self.info.comm = name;
        }
        self.former
            .push_back(((self.pid(), self.exec_count), self.facts()));
        self.exec_count += 1;
        self.info.comm = comm;
        self.exe = procfs::exe(self.pid()).unwrap_or_default();
        self.program = procfs::program(self.pid());
        self.announced = false;
        self.is_young();
    }

    /// Its dynamic linker may be at work: it is looked at several times soon.
    pub(super) fn is_young(&mut self) {
        let looks = &mut self.looks;
        looks.began = Instant::now();
        looks.young = YOUNG.iter();
        looks.due = looks.young.next().map(|after| looks.began + *after);
    }

    /// Something may have changed: it is looked at as soon as the pause allows.
    pub(super) fn ask_look(&mut self) {
        let looks = &mut self.looks;
        let soonest = looks.last + looks.pause;
        looks.due = Some(looks.due.map_or(soonest, |due| due.min(soonest)));
    }

    /// When it is to be looked at.
    pub(super) fn look_due(&self) -> Option<Instant> {
        self.looks.due.filter(|_| !self.exited)
    }

    /// It has been looked at; `news` says whether anything had changed.
    pub(super) fn looked(&mut self, news: bool) {
        let looks = &mut self.looks;
        looks.last = Instant::now();
        looks.pause = if news {
            SHORTEST_PAUSE
        } else {
            (looks.pause * 2).min(LONGEST_PAUSE)
        };
        looks.due = looks.young.next().map(|after| looks.began + *after);
    }

    /// Reads the CPU time it has used.
    pub(super) fn measure(&mut self) {
        if let Some(used) = procfs::cpu_time(self.pid()) {
            self.cpu_since = used.saturating_sub(self.cpu_before);
        }
    }
}
