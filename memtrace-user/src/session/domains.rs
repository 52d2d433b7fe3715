//! What is known of CPython's allocator in each file, and the trials that find it out.
//!
//! Whether a build's own calls go through its allocator's functions is a fact of the file: what one process has shown
//! holds for all that map it. Does not know when a process is tried; see `targets::domains`.

use std::{
    collections::HashMap,
    sync::{Arc, mpsc::Sender},
    time::Duration,
};

use memtrace_common::{cookie, event, stats::Stats};
use tokio::sync::mpsc;

use super::{
    library::attach_order,
    sink::Ask,
    trial::{self, Finding, Trial},
};
use crate::{
    ids::{ObjectId, Pid},
    probe::{Attacher, ProbeSite},
    python::{
        allocator,
        coverage::{Coverage, Verdict},
        version::Version,
    },
    target::object::Object,
};

/// How long is listened the first time; twice as long each time that too little has changed.
const SHORTEST_WINDOW: Duration = Duration::from_millis(250);
const LONGEST_WINDOW: Duration = Duration::from_secs(2);
/// After more has been heard than can be kept.
const LEAST_WINDOW: Duration = Duration::from_millis(20);

/// A trial that has ended.
#[derive(Debug)]
pub(super) struct Tried {
    pub(super) pid: Pid,
    /// Programs the process had begun.
    pub(super) exec_count: u32,
    pub(super) object: ObjectId,
    pub(super) finding: Finding,
}

/// Where the functions are.
#[derive(Clone, Debug)]
struct Places {
    /// To count, in the order in which probes are attached.
    counting: Arc<[ProbeSite]>,
    /// To listen.
    listening: Arc<[ProbeSite]>,
}

#[derive(Debug)]
struct File {
    /// None when the file does not have them all.
    places: Option<Places>,
    verdict: Option<Verdict>,
    /// The process that is being tried.
    trying: Option<Pid>,
    /// What all trials have shown.
    coverage: Coverage,
    window: Duration,
    /// Events of trials that had been lost before the trial.
    lost: u64,
}

/// What is to be done with a process.
#[derive(Debug)]
pub(super) enum Step {
    /// Its answer will come, unless the sender is dropped.
    Tried(Sender<()>),
    /// Another process with the same file is being tried.
    Busy,
    /// The build inlines its allocator.
    Inlined,
    /// The file does not have all functions.
    Incomplete,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Domains {
    is_wanted: bool,
    attacher: Attacher,
    drain: Sender<Ask>,
    files: HashMap<ObjectId, File>,
    done: mpsc::UnboundedSender<Tried>,
}

impl Domains {
    /// Nothing known yet; what trials bring comes out of the receiver.
    pub(super) fn new(
        is_wanted: bool,
        attacher: Attacher,
        drain: Sender<Ask>,
    ) -> (Self, mpsc::UnboundedReceiver<Tried>) {
        let (done, tried) = mpsc::unbounded_channel();
        let domains = Self {
            is_wanted,
            attacher,
            drain,
            files: HashMap::new(),
            done,
        };
        (domains, tried)
    }

    /// Whether the functions are probed at all.
    pub(super) fn are_wanted(&self) -> bool {
        self.is_wanted
    }

    /// Where the functions of a file are probed, if it is known and has them.
    pub(super) fn sites(&self, object: ObjectId) -> Option<Arc<[ProbeSite]>> {
        let places = self.files.get(&object)?.places.as_ref()?;
        Some(places.counting.clone())
    }

    /// Goes on with a process that has `version` in `object`; `stats` are the probes' counters now.
    pub(super) fn step(
        &mut self,
        process: (Pid, u32),
        object: &Arc<Object>,
        version: Version,
        stats: &Stats,
    ) -> Step {
        let (pid, exec_count) = process;
        let file = self
            .files
            .entry(object.id)
            .or_insert_with(|| File::of(object));
        let Some(places) = &file.places else {
            return Step::Incomplete;
        };
        match (file.verdict, file.trying) {
            (Some(Verdict::Inlined), _) => return Step::Inlined,
            (None, Some(_)) => return Step::Busy,
            (None, None) => {
                file.trying = Some(pid);
                file.lost = lost(stats);
            }
            (Some(Verdict::EveryCall), _) => {}
        }
        let (stop, stopped) = std::sync::mpsc::channel();
        let trial = Trial {
            pid,
            version,
            object: object.clone(),
            sites: places.listening.clone(),
            window: file.window,
            attacher: self.attacher.clone(),
            drain: self.drain.clone(),
            stop: stopped,
        };
        let is_known = file.verdict.is_some();
        let (object, done) = (object.id, self.done.clone());
        tokio::task::spawn_blocking(move || {
            let finding = if is_known {
                trial::look_for_hooks(pid)
            } else {
                trial.run()
            };
            // The session may have ended.
            let _ = done.send(Tried {
                pid,
                exec_count,
                object,
                finding,
            });
        });
        Step::Tried(stop)
    }

    /// Takes what a trial has brought; `stats` are the probes' counters now. Gives the verdict on the file.
    pub(super) fn learn(&mut self, tried: &Tried, stats: &Stats) -> Option<Verdict> {
        let file = self.files.get_mut(&tried.object)?;
        if file.trying == Some(tried.pid) {
            file.trying = None;
        }
        match &tried.finding {
            Finding::Coverage(coverage) if lost(stats) == file.lost => {
                file.coverage.merge(coverage);
                file.verdict = file.verdict.or_else(|| file.coverage.verdict());
                file.window = (file.window * 2).min(LONGEST_WINDOW);
            }
            Finding::Coverage(_) | Finding::TooMuch => {
                file.window = (file.window / 4).max(LEAST_WINDOW);
            }
            _ => {}
        }
        file.verdict
    }
}

impl File {
    fn of(object: &Object) -> Self {
        Self {
            places: Places::of(object),
            verdict: None,
            trying: None,
            coverage: Coverage::default(),
            window: SHORTEST_WINDOW,
            lost: 0,
        }
    }
}

impl Places {
    fn of(object: &Object) -> Option<Self> {
        let functions = allocator::functions(object)?;
        let site = |point: &allocator::Function, cookie| ProbeSite {
            file_off: point.point.file_off,
            cookie,
        };
        let mut counting: Vec<ProbeSite> = functions
            .iter()
            .map(|function| site(function, function.cookie()))
            .collect();
        counting.sort_by_key(|site| attach_order(cookie::kind(site.cookie)));
        let listening = functions
            .iter()
            .filter_map(|function| Some(site(function, function.trial_cookie()?)));
        Some(Self {
            counting: counting.into(),
            listening: listening.collect(),
        })
    }
}

/// Events of trials that were lost.
fn lost(stats: &Stats) -> u64 {
    let lost = |kind: u8| stats.lost[usize::from(kind)];
    lost(event::TRIAL_MADE) + lost(event::TRIAL_FREED)
}
