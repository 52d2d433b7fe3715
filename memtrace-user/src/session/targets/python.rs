//! Python frames of traced processes: from the first look at a process to the moment at which its frames are walked.
//!
//! ```text
//! mapped files ─► look ─► found ─► probe on freed code objects ─► the walk is told
//!                  │ not begun yet: again soon       threads appear: looked at again
//! ```
//!
//! The probe comes first: a code object whose end is not seen could lend its name to another.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use memtrace_common::kind;

use super::{Targets, Word};
use crate::{
    ids::{ObjectId, Pid},
    probe::{FileLinks, ProbeSite},
    python::{
        Refusal,
        runtime::{Reach, Runtime},
        version::Version,
    },
    report::RuntimeFacts,
    session::{
        attach::{self, Job, Purpose},
        pythons::{Look, Looked},
    },
    target::{elf::Elf, object::Object, procfs},
};

/// When a runtime that has not begun is looked at again.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// How often a runtime is looked at again because it has new threads, or because what is known of it is provisional.
const CHECK: Duration = Duration::from_secs(5);
/// A runtime that is provisional is looked at again after this time, and each time after twice as long, until [`CHECK`] sets
/// the pace.
const EARLY_CHECK: Duration = Duration::from_millis(20);
const EARLY_CHECKS: u32 = 7;

/// What is known of a process's Python.
#[derive(Debug, Default)]
pub(in crate::session) struct PythonState {
    phase: Phase,
    /// A look is under way.
    looking: bool,
    /// When it is to be looked at next.
    due: Option<Instant>,
    /// Looks since the last that brought something.
    looks: u32,
}

#[derive(Debug, Default)]
enum Phase {
    /// No CPython, as far as is known.
    #[default]
    None,
    /// One whose frames cannot be walked.
    Refused(Refusal),
    /// One whose frames are walked, or will be when the probe is in place.
    Found(Box<Found>),
}

#[derive(Debug)]
struct Found {
    runtime: Runtime,
    object: ObjectId,
    /// Threads the process had.
    threads: u32,
    /// What the probes refer to its record by.
    reference: u32,
    /// The probe on freed code objects.
    links: Option<FileLinks>,
    /// Where that probe is.
    site: ProbeSite,
}

impl Found {
    /// Whether stacks hold its frames.
    fn stacks(&self) -> Result<(), String> {
        if self.links.is_none() {
            return Err("not attached yet".to_owned());
        }
        match self.runtime.reach {
            Reach::Always | Reach::WithGil | Reach::Untold => Ok(()),
            Reach::Never => Err(self.runtime.reach.to_string()),
        }
    }
}

impl PythonState {
    /// What reports say of it.
    pub(in crate::session) fn facts(&self) -> RuntimeFacts {
        match &self.phase {
            Phase::None => RuntimeFacts::Native,
            Phase::Refused(refusal @ Refusal::PyPy) => RuntimeFacts::Other(refusal.to_string()),
            Phase::Refused(refusal) => RuntimeFacts::CPython {
                version: refusal.version(),
                stacks: Err(refusal.to_string()),
                objects: Vec::new(),
            },
            Phase::Found(found) => RuntimeFacts::CPython {
                version: Some(found.runtime.version),
                stacks: found.stacks(),
                objects: vec![found.object],
            },
        }
    }

    /// What the probes refer to its record by; 0 = its frames are not walked.
    pub(super) fn reference(&self) -> u32 {
        match &self.phase {
            Phase::Found(found) if found.links.is_some() => found.reference,
            _ => 0,
        }
    }

    /// Whether a look is under way.
    pub(super) fn is_looked_at(&self) -> bool {
        self.looking
    }

    /// When it is to be looked at.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due.filter(|_| !self.looking)
    }

    /// It has not begun yet: it is looked at again soon, then less and less soon.
    fn ask_soon(&mut self) {
        let wait = SHORTEST_WAIT * (1 << self.looks.min(10));
        self.due = Some(Instant::now() + wait.min(LONGEST_WAIT));
        self.looks += 1;
    }

    /// It was found. What is provisional is looked at again a few times soon.
    fn schedule_check(&mut self, provisional: bool) {
        let wait = if provisional && self.looks < EARLY_CHECKS {
            EARLY_CHECK * (1 << self.looks)
        } else {
            CHECK
        };
        self.looks += 1;
        self.due = Some(Instant::now() + wait);
    }

    /// Its file and version, once stacks show its frames.
    pub(super) fn found(&self) -> Option<(ObjectId, Version)> {
        match &self.phase {
            Phase::Found(found) if found.links.is_some() => {
                Some((found.object, found.runtime.version))
            }
            _ => None,
        }
    }

    /// Where its memory has a breakpoint.
    pub(super) fn probed(&self) -> Option<(ObjectId, ProbeSite)> {
        match &self.phase {
            Phase::Found(found) => Some((found.object, found.site)),
            _ => None,
        }
    }

    /// Takes the probe on freed code objects out.
    pub(super) fn take_links(&mut self) -> Option<FileLinks> {
        match &mut self.phase {
            Phase::Found(found) => found.links.take(),
            _ => None,
        }
    }
}

impl Targets {
    /// Looks for a CPython in a process, or again at the one it has.
    pub(super) fn look_at_python(&mut self, pid: Pid) {
        let Some(target) = self.live.get_mut(&pid) else {
            return;
        };
        if target.python.looking {
            // What that look was given may lack what has been mapped since.
            target.python.due = Some(Instant::now());
            return;
        }
        target.python.looking = true;
        target.python.due = None;
        self.pythons
            .look(pid, target.exec_count, target.placed.clone());
    }

    /// Looks at the Pythons whose time has come; gives the next time.
    pub(super) fn check_pythons(&mut self, now: Instant) -> Option<Instant> {
        let due: Vec<Pid> = self
            .live
            .values()
            .filter(|target| target.python.due().is_some_and(|due| due <= now))
            .map(super::Target::pid)
            .collect();
        for pid in due {
            if self.is_settled(pid) {
                if let Some(target) = self.live.get_mut(&pid) {
                    target.python.due = Some(now + CHECK);
                }
            } else {
                self.look_at_python(pid);
            }
        }
        self.live
            .values()
            .filter_map(|target| target.python.due())
            .min()
    }

    /// Whether all is known of a process's Python: no thread has come since the last look.
    fn is_settled(&self, pid: Pid) -> bool {
        let Some(Phase::Found(found)) = self.live.get(&pid).map(|target| &target.python.phase)
        else {
            return false;
        };
        !found.runtime.provisional
            && procfs::threads(pid).is_none_or(|threads| threads <= found.threads)
    }

    /// Acts on what a look has brought.
    pub(in crate::session) fn on_looked(&mut self, looked: Looked) {
        let Looked {
            pid,
            exec_count,
            look,
        } = looked;
        let Some(target) = self
            .live
            .get_mut(&pid)
            .filter(|target| target.exec_count == exec_count)
        else {
            return; // it has ended, or runs another program
        };
        target.python.looking = false;
        match look {
            Look::None => {}
            Look::NotYet => target.python.ask_soon(),
            Look::Refused(refusal) => self.on_refused(pid, refusal),
            Look::Found(runtime, object) => self.on_found(pid, *runtime, &object),
        }
    }

    fn on_refused(&mut self, pid: Pid, refusal: Refusal) {
        let Some(target) = self.live.get_mut(&pid) else {
            return;
        };
        let state = &mut target.python;
        // A runtime changes while it is looked at; one that was found once stays found.
        if !refusal.is_final() {
            state.looks += 1;
            state.due = Some(Instant::now() + CHECK);
        }
        match &state.phase {
            Phase::Found(_) => {}
            Phase::Refused(known) if *known == refusal => {}
            Phase::None | Phase::Refused(_) => {
                self.words.push(Word::Trouble {
                    pid,
                    comm: target.info.comm.clone(),
                    reason: format!("native stacks only: {refusal}"),
                });
                state.phase = Phase::Refused(refusal);
            }
        }
    }

    fn on_found(&mut self, pid: Pid, runtime: Runtime, object: &Arc<Object>) {
        let Some(target) = self.live.get_mut(&pid) else {
            return;
        };
        target.python.schedule_check(runtime.provisional);
        let threads = procfs::threads(pid).unwrap_or(0);
        if let Phase::Found(found) = &mut target.python.phase {
            found.threads = threads;
            if found.runtime.python == runtime.python {
                found.runtime = runtime;
                return;
            }
            let Some(reference) = self.pythons.enter(runtime.python) else {
                return;
            };
            self.pythons
                .leave(std::mem::replace(&mut found.reference, reference));
            found.runtime = runtime;
            self.tell_probes(pid);
            return;
        }
        self.begin_python(pid, runtime, object, threads);
    }

    /// A CPython was found in a process for the first time.
    fn begin_python(&mut self, pid: Pid, runtime: Runtime, object: &Arc<Object>, threads: u32) {
        let Some(target) = self.live.get_mut(&pid) else {
            return;
        };
        let place = target
            .placed
            .iter()
            .find(|file| file.object.id == object.id);
        let file_off = place.and_then(|place| {
            file_off(
                object.elf.as_ref().ok()?,
                runtime.code_dealloc.wrapping_sub(place.bias),
            )
        });
        let entered = self.pythons.enter(runtime.python);
        let (Some(file_off), Some(reference)) = (file_off, entered) else {
            self.pythons.leave(entered.unwrap_or(0));
            let refusal = if entered.is_none() {
                Refusal::TooMany
            } else {
                Refusal::NotWatched("their destructor lies in no code of the file".to_owned())
            };
            self.on_refused(pid, refusal);
            return;
        };
        let site = ProbeSite {
            file_off,
            cookie: kind::CODE_FREED,
        };
        target.python.phase = Phase::Found(Box::new(Found {
            runtime,
            object: object.id,
            threads,
            reference,
            links: None,
            site,
        }));
        self.attaching.begin(
            pid,
            vec![Job {
                object: object.clone(),
                sites: Arc::from([site]),
                purpose: Purpose::CodeObjects,
            }],
        );
    }

    /// The probe on freed code objects is in place: the frames can be walked.
    pub(super) fn on_code_probe(
        &mut self,
        pid: Pid,
        object: ObjectId,
        result: anyhow::Result<FileLinks>,
    ) {
        let Some(target) = self.live.get_mut(&pid) else {
            if let Ok(links) = result {
                attach::drop_later(links);
            }
            return;
        };
        let comm = target.info.comm.clone();
        match (&mut target.python.phase, result) {
            (Phase::Found(found), Ok(links)) if found.object == object => {
                found.links = Some(links);
                self.layouts.insert(pid, found.runtime.code);
                let version = found.runtime.version;
                self.words.push(Word::Tracing {
                    pid,
                    comm,
                    what: format!("CPython {version}, stacks show its functions"),
                });
                self.tell_probes(pid);
                self.begin_domains(pid);
            }
            (_, Ok(links)) => attach::drop_later(links),
            (_, Err(_)) if !procfs::exists(pid) => {}
            (_, Err(error)) => {
                self.forget_python(pid);
                self.on_refused(pid, Refusal::NotWatched(format!("{error:#}")));
            }
        }
    }

    /// Its Python is gone: it has ended, or runs another program.
    pub(super) fn forget_python(&mut self, pid: Pid) {
        if let Some(target) = self.live.get_mut(&pid) {
            if let Some(links) = target.domains.take_links() {
                attach::drop_later(links);
            }
            target.domains = super::DomainState::default();
            let state = std::mem::take(&mut target.python);
            self.release_python(pid, state);
        }
    }

    /// Gives back what a process's Python held.
    pub(super) fn release_python(&mut self, pid: Pid, state: PythonState) {
        if let Phase::Found(found) = state.phase {
            self.layouts.remove(pid);
            self.pythons.leave(found.reference);
            if let Some(links) = found.links {
                attach::drop_later(links);
            }
        }
    }
}

/// Offset in the file of an address relative to the load base.
fn file_off(elf: &Elf, rel: u64) -> Option<u64> {
    elf.code()
        .find(|segment| (segment.rel..segment.rel + segment.file_size).contains(&rel))
        .map(|segment| segment.file_off + (rel - segment.rel))
}
