//! CPython's allocator in traced processes (`--exact`): tried first, then attached or left alone.
//!
//! ```text
//! CPython found ─► trial ─► every call ─► probes that count
//!                   │  └──► inlined, debug hooks: left alone, and said
//!                   └ too little to tell: again later
//! ```
//!
//! With probes that see a part of the calls every number would be wrong. So nothing counts before a trial has shown that
//! they see all, and a build that inlines its allocator is traced as it is without `--exact`.

use std::{
    fmt,
    sync::{Arc, mpsc::Sender},
    time::{Duration, Instant},
};

use super::{Targets, Word};
use crate::{
    ids::{ObjectId, Pid},
    probe::{FileLinks, ProbeSite},
    python::coverage::Verdict,
    session::{
        attach::{self, Job, Purpose},
        domains::{Step, Tried},
        trial::Finding,
    },
    target::{object::Object, procfs},
};

/// When a process is asked again while another with its file is tried.
const BUSY_PAUSE: Duration = Duration::from_millis(250);
/// When a process that has shown too little is tried again; twice as long each time.
const SHORTEST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What is known of CPython's allocator in a process.
#[derive(Debug, Default)]
pub(in crate::session) struct DomainState {
    stage: Stage,
    /// The probes that count.
    links: Option<FileLinks>,
    /// Ends the trial that is under way when it is dropped.
    trial: Option<Sender<()>>,
    /// When it goes on.
    due: Option<Instant>,
    /// Trials that have shown too little.
    trials: u32,
}

/// How far it has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// Nothing is wanted, or there is no CPython.
    #[default]
    Off,
    /// Not known yet whether every call would be seen.
    Untested,
    /// There are no pools.
    NoPools,
    /// Every call is seen.
    Attached,
    /// The build inlines its allocator.
    Inlined,
    /// The debug hooks are at work.
    Hooks,
    /// The file does not have all functions, or probes cannot be placed.
    Failed(String),
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CPython's allocator (raw, mem and object domains): ")?;
        f.write_str(match self {
            Self::Off => "not probed",
            Self::Untested => {
                "not tested yet, so not probed: too little has been allocated to tell whether this build inlines it"
            }
            Self::NoPools => {
                "not probed: it is not in use (PYTHONMALLOC), every object is a block of the C library's allocator"
            }
            Self::Attached => "every call is seen",
            Self::Inlined => {
                "this build inlines it, so it is not probed: objects of up to 512 bytes are not seen by this tier, \
                 larger ones as blocks of the C library's allocator"
            }
            Self::Hooks => {
                "not probed: its debug hooks are at work (PYTHONMALLOC or -X dev); only what it takes from the C \
                 library's allocator is seen"
            }
            Self::Failed(reason) => return write!(f, "not probed: {reason}"),
        })
    }
}

impl DomainState {
    /// What reports say.
    pub(in crate::session) fn words(&self) -> Option<String> {
        (self.stage != Stage::Off).then(|| self.stage.to_string())
    }

    /// Takes the probes out, and ends a trial.
    pub(super) fn take_links(&mut self) -> Option<FileLinks> {
        self.trial = None;
        self.due = None;
        self.links.take()
    }

    /// Whether the memory may have breakpoints of it.
    fn is_probed(&self) -> bool {
        self.links.is_some() || self.trial.is_some() || self.stage == Stage::Attached
    }
}

impl Targets {
    /// A CPython was found in a process: its allocator is next, if that is wanted.
    pub(super) fn begin_domains(&mut self, pid: Pid) {
        if let (true, Some(target)) = (self.domains.are_wanted(), self.live.get_mut(&pid))
            && target.domains.stage == Stage::Off
        {
            target.domains.stage = Stage::Untested;
            self.step_domains(pid);
        }
    }

    /// Goes on with the processes whose time has come; gives the next time.
    pub(super) fn check_domains(&mut self, now: Instant) -> Option<Instant> {
        let due: Vec<Pid> = self
            .live
            .values()
            .filter(|target| target.domains.due.is_some_and(|due| due <= now))
            .map(super::Target::pid)
            .collect();
        for pid in due {
            self.step_domains(pid);
        }
        self.live
            .values()
            .filter_map(|target| target.domains.due)
            .min()
    }

    fn step_domains(&mut self, pid: Pid) {
        let found = self.live.get(&pid).and_then(|target| {
            let (object, version) = target.python.found()?;
            Some(((pid, target.exec_count), object, version))
        });
        let Some((process, object, version)) = found else {
            return;
        };
        let (Some(object), Ok(stats)) = (self.library.get(object), self.maps.stats()) else {
            return;
        };
        let step = self.domains.step(process, &object, version, &stats);
        let Some(target) = self.live.get_mut(&pid) else {
            return;
        };
        target.domains.due = None;
        match step {
            Step::Tried(stop) => target.domains.trial = Some(stop),
            Step::Busy => target.domains.due = Some(Instant::now() + BUSY_PAUSE),
            Step::Inlined => self.leave_domains(pid, Stage::Inlined),
            Step::Incomplete => {
                let reason = "the file does not have all of its functions".to_owned();
                self.leave_domains(pid, Stage::Failed(reason));
            }
        }
    }

    /// Acts on what a trial has brought.
    pub(in crate::session) fn on_tried(&mut self, tried: Tried) {
        let Ok(stats) = self.maps.stats() else {
            return;
        };
        let verdict = self.domains.learn(&tried, &stats);
        if verdict.is_some() {
            self.wake_domains(tried.object);
        }
        let Some(target) = self
            .live
            .get_mut(&tried.pid)
            .filter(|target| target.exec_count == tried.exec_count)
        else {
            return; // it has ended, or runs another program
        };
        let pid = tried.pid;
        target.domains.trial = None;
        match (tried.finding, verdict) {
            (Finding::Stopped, _) => {}
            (Finding::Failed(_), _) if !procfs::exists(pid) => {}
            (Finding::Failed(reason), _) => self.leave_domains(pid, Stage::Failed(reason)),
            (Finding::Hooks, _) => self.leave_domains(pid, Stage::Hooks),
            (_, Some(Verdict::Inlined)) => self.leave_domains(pid, Stage::Inlined),
            (_, Some(Verdict::EveryCall)) => self.attach_domains(pid, tried.object),
            (finding, None) => {
                if matches!(finding, Finding::NoPools) {
                    target.domains.stage = Stage::NoPools;
                }
                let pause = SHORTEST_PAUSE * (1 << target.domains.trials.min(10));
                target.domains.trials += 1;
                target.domains.due = Some(Instant::now() + pause.min(LONGEST_PAUSE));
            }
        }
    }

    /// The file's verdict is known: processes that wait for it go on.
    fn wake_domains(&mut self, object: ObjectId) {
        for target in self.live.values_mut() {
            let is_of_file = target
                .python
                .found()
                .is_some_and(|(found, _)| found == object);
            if is_of_file && target.domains.due.is_some() {
                target.domains.due = Some(Instant::now());
            }
        }
    }

    fn attach_domains(&mut self, pid: Pid, object: ObjectId) {
        if let (Some(object), Some(sites)) = (self.library.get(object), self.domains.sites(object))
        {
            let job = Job {
                object,
                sites,
                purpose: Purpose::Domains,
            };
            self.attaching.begin(pid, vec![job]);
        }
    }

    /// The probes that count are in place, or could not be placed.
    pub(super) fn on_domain_probes(&mut self, pid: Pid, result: anyhow::Result<FileLinks>) {
        let Some(target) = self.live.get_mut(&pid) else {
            if let Ok(links) = result {
                attach::drop_later(links);
            }
            return;
        };
        match result {
            Ok(links) if target.domains.stage == Stage::Off => attach::drop_later(links),
            Ok(links) => {
                target.domains.links = Some(links);
                target.domains.stage = Stage::Attached;
                self.words.push(Word::Tracing {
                    pid,
                    comm: target.info.comm.clone(),
                    what: Stage::Attached.to_string(),
                });
            }
            Err(_) if !procfs::exists(pid) => {}
            Err(error) => self.leave_domains(pid, Stage::Failed(format!("{error:#}"))),
        }
    }

    fn leave_domains(&mut self, pid: Pid, stage: Stage) {
        if let Some(target) = self.live.get_mut(&pid) {
            self.words.push(Word::Trouble {
                pid,
                comm: target.info.comm.clone(),
                reason: stage.to_string(),
            });
            target.domains.due = None;
            target.domains.stage = stage;
        }
    }

    /// The file in which a process may have breakpoints for its domains.
    pub(super) fn domain_file(&self, pid: Pid) -> Option<(Arc<Object>, Arc<[ProbeSite]>)> {
        let target = self.live.get(&pid)?;
        let (object, _) = target.python.found()?;
        let sites = self.domains.sites(object)?;
        let object = self.library.get(object)?;
        target.domains.is_probed().then_some((object, sites))
    }
}
