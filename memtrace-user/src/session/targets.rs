//! Which processes are traced, and what is attached to them: follows starts, forks, execs and ends.
//!
//! Owns the probes' handles and the library of files. Runs on the session's task; what waits for the kernel (attaching,
//! detaching) runs on blocking threads and reports back.

mod domains;
mod follow;
mod python;
mod select;

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write as _,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use memtrace_common::{cookie, kind, process::Process};
use tokio::sync::mpsc;

pub(super) use self::{domains::DomainState, python::PythonState};
use self::{follow::Bystander, select::Undecided};
use super::{
    attach::{self, Attached, Attaching, Job, Purpose},
    domains::Domains,
    library::{Library, Sites},
    names::Layouts,
    pythons::Pythons,
    target::Target,
};
use crate::{
    ids::Pid,
    plan::Selection,
    probe::{Attacher, FileLinks, Maps},
    python::presence::Presence,
    target::{
        maps::MapsError,
        object::Object,
        procfs::{self, ProcessInfo},
    },
};

/// Ended processes that are remembered for reports.
const MAX_EXITED: usize = 1024;

/// What the user is told while the session runs.
#[derive(Debug)]
pub(super) enum Word {
    /// The probes of a process are in place.
    Tracing {
        pid: Pid,
        comm: String,
        what: String,
    },
    /// A process cannot be traced, or not wholly.
    Trouble {
        pid: Pid,
        comm: String,
        reason: String,
    },
}

/// What the tracker must be told of a process, because no event does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unheard {
    /// It has ended or is let go.
    End(Pid),
    /// It runs another program, its so-and-so-many-th.
    Exec(Pid, u32),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Targets {
    selection: Selection,
    attaching: Attaching,
    maps: Maps,
    library: Library,
    pythons: Pythons,
    layouts: Layouts,
    presence: Presence,
    undecided: Undecided,
    domains: Domains,
    live: BTreeMap<Pid, Target>,
    exited: VecDeque<Target>,
    words: Vec<Word>,
    /// Children that have inherited probes and are not traced, the oldest first.
    bystanders: VecDeque<Bystander>,
    /// What the tracker must be told.
    unheard: Vec<Unheard>,
}

impl Targets {
    pub(super) fn new(
        selection: Selection,
        attacher: Attacher,
        maps: Maps,
        library: Library,
        pythons: Pythons,
        layouts: Layouts,
        domains: Domains,
    ) -> (Self, mpsc::UnboundedReceiver<Attached>) {
        let (attaching, results) = Attaching::new(attacher);
        let targets = Self {
            selection,
            attaching,
            maps,
            library,
            pythons,
            layouts,
            presence: Presence::default(),
            undecided: Undecided::default(),
            domains,
            live: BTreeMap::new(),
            exited: VecDeque::new(),
            words: Vec::new(),
            bystanders: VecDeque::new(),
            unheard: Vec::new(),
        };
        (targets, results)
    }

    /// Traced processes that run.
    pub(super) fn live(&mut self) -> impl Iterator<Item = &mut Target> {
        self.live.values_mut()
    }

    /// Traced processes that have ended, as far as they are remembered.
    pub(super) fn exited(&self) -> impl Iterator<Item = &Target> {
        self.exited.iter()
    }

    /// Whether nothing is traced and nothing is being attached.
    pub(super) fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// Whether nothing has been traced so far.
    pub(super) fn is_untouched(&self) -> bool {
        self.live.is_empty() && self.exited.is_empty()
    }

    /// Whether all probes of a process are in place, or it is gone.
    pub(super) fn is_attached(&self, pid: Pid) -> bool {
        self.live
            .get(&pid)
            .is_none_or(|target| target.pending.is_empty())
    }

    /// Files that could not be opened because there are too many.
    pub(super) fn refused_objects(&self) -> u64 {
        self.library.refused_objects()
    }

    /// The probes' tables and counters.
    pub(super) fn maps(&self) -> &Maps {
        &self.maps
    }

    /// What the tracker must be told, since the last call.
    pub(super) fn take_unheard(&mut self) -> Vec<Unheard> {
        std::mem::take(&mut self.unheard)
    }

    /// The CPU time that a process had used when it ended.
    pub(super) fn note_cpu(&mut self, pid: Pid, used: Duration) {
        for target in self.live.values_mut().chain(&mut self.exited) {
            if target.pid() == pid {
                target.cpu_since = target.cpu_since.max(used);
            }
        }
    }

    /// What is to be said since the last call.
    pub(super) fn take_words(&mut self) -> Vec<Word> {
        std::mem::take(&mut self.words)
    }

    /// Traces every running process that is selected and not traced yet; gives their number.
    pub(super) fn scan(&mut self) -> usize {
        let own = [Some(Pid(std::process::id())), self.attaching.guard()];
        let mut count = 0;
        for info in procfs::processes() {
            let is_new = !own.contains(&Some(info.pid)) && !self.live.contains_key(&info.pid);
            if is_new && self.selects(info.pid, &info.comm) {
                self.begin(info, false);
                count += 1;
            }
        }
        count
    }

    /// Traces a held child before it becomes its program: attaches to the files the program will map.
    pub(super) fn begin_held(&mut self, pid: Pid, program: &Path, files: &[impl AsRef<Path>]) {
        if let Some(mut info) = procfs::process(pid) {
            info.comm = program
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            self.begin(info, false);
        }
        if let Some(target) = self.live.get_mut(&pid) {
            target.announced = true; // as what it will be, not as what it is
        }
        let objects: Vec<_> = files
            .iter()
            .filter_map(|file| self.library.open(file.as_ref(), &mut self.maps))
            .collect();
        self.pythons.prepare(&objects);
        self.attach_objects(pid, objects);
    }

    /// Takes the result of an attach.
    pub(super) fn on_attached(&mut self, attached: Attached) {
        let Attached {
            pid,
            object,
            purpose,
            result,
        } = attached;
        match purpose {
            Purpose::CodeObjects => return self.on_code_probe(pid, object.id, result),
            Purpose::Domains => return self.on_domain_probes(pid, result),
            Purpose::Allocators => {}
        }
        let Some(target) = self.live.get_mut(&pid) else {
            if let Ok(links) = result {
                attach::drop_later(links);
            }
            return;
        };
        target.pending.remove(&object.id);
        match result {
            Ok(links) => {
                target.links.insert(object.id, links);
            }
            Err(_) if !procfs::exists(pid) => {}
            Err(error) => {
                let reason = format!("failed to attach to `{}`: {error:#}", object.path.display());
                self.words.push(Word::Trouble {
                    pid,
                    comm: target.info.comm.clone(),
                    reason,
                });
            }
        }
        self.announce(pid);
    }

    /// Looks at processes whose time has come; gives the next time.
    pub(super) fn tick(&mut self, now: Instant) -> Option<Instant> {
        let due: Vec<Pid> = self
            .live
            .values()
            .filter(|target| target.look_due().is_some_and(|due| due <= now))
            .map(Target::pid)
            .collect();
        for pid in due {
            self.look(pid);
        }
        let cleaning = self.clean_bystanders(now);
        let python = self.check_pythons(now);
        let undecided = self.decide(now);
        let domains = self.check_domains(now);
        self.live
            .values()
            .filter_map(Target::look_due)
            .chain(cleaning)
            .chain(python)
            .chain(undecided)
            .chain(domains)
            .min()
    }

    /// Removes all probes; waits until they are gone.
    pub(super) fn detach_all(&mut self) {
        self.attaching.close();
        let links: Vec<FileLinks> = self
            .live
            .values_mut()
            .flat_map(|target| {
                let code = target.python.take_links();
                let domains = target.domains.take_links();
                let links = target.links.drain().map(|(_, links)| links);
                links.chain(code).chain(domains)
            })
            .collect();
        attach::drop_now(links);
    }

    fn begin(&mut self, info: ProcessInfo, followed: bool) {
        let pid = info.pid;
        // The probes know it before anything is read, so that its end is told from here on.
        let process = Process {
            flags: self.flags_of(pid, &info.comm),
            ..Process::default()
        };
        if let Err(error) = self.maps.introduce(pid, process) {
            self.words.push(Word::Trouble {
                pid,
                comm: info.comm,
                reason: format!("{error:#}"),
            });
            return;
        }
        if procfs::process(pid).is_none_or(|now| now.start_ticks != info.start_ticks) {
            self.maps.forget(pid);
            return;
        }
        self.live.insert(pid, Target::new(info, followed));
        self.look(pid);
    }

    /// Reads a process's mappings, tells the probes and attaches to allocators that are new.
    fn look(&mut self, pid: Pid) {
        let Some(target) = self.live.get_mut(&pid) else {
            return;
        };
        let comm = target.info.comm.clone();
        let map = match self.library.map_process(pid, &target.run, &mut self.maps) {
            Ok(map) => map,
            // Its end is told by the probes; until it is, there may be a look or two in vain.
            Err(MapsError::Gone { .. }) if procfs::process(pid).is_none() => {
                self.end(pid);
                return;
            }
            Err(error) => {
                target.looked(false);
                self.words.push(Word::Trouble {
                    pid,
                    comm,
                    reason: error.to_string(),
                });
                return;
            }
        };
        let changed = map.changed;
        let old = std::mem::replace(&mut target.run, map.run);
        let objects = map.files.iter().map(|file| file.object.clone()).collect();
        target.placed = map.files;
        if !self.tell_probes(pid) {
            return;
        }
        if changed {
            self.library.retire(old);
            self.look_at_python(pid);
        }
        let news = self.attach_objects(pid, objects);
        if let Some(target) = self.live.get_mut(&pid) {
            target.looked(news || changed);
        }
        self.announce(pid);
    }

    /// Tells the probes what is known of a process. `false` when they do not know it any more: it has ended, and the notice of
    /// that is on its way.
    fn tell_probes(&mut self, pid: Pid) -> bool {
        let Some(comm) = self.live.get(&pid).map(|target| target.info.comm.clone()) else {
            return false;
        };
        let flags = self.flags_of(pid, &comm);
        let Some(target) = self.live.get(&pid) else {
            return false;
        };
        let process = Process {
            mapping_base: target.run.start,
            mapping_count: target.run.end - target.run.start,
            flags,
            python: target.python.reference(),
            ..Process::default()
        };
        match self.maps.update(pid, process) {
            Ok(known) => known,
            Err(error) => {
                let reason = format!("{error:#}");
                self.words.push(Word::Trouble { pid, comm, reason });
                true
            }
        }
    }

    /// Attaches to the allocators among `objects` that are not attached yet; says whether there were any.
    fn attach_objects(&mut self, pid: Pid, objects: Vec<Arc<Object>>) -> bool {
        let Some(target) = self.live.get_mut(&pid) else {
            return false;
        };
        let mut hidden = None;
        let mut files = Vec::new();
        // Links outlive an exec: what the program before had attached to, this one maps again.
        let mut again = false;
        for object in objects {
            if target.links.contains_key(&object.id) || target.pending.contains(&object.id) {
                again |= target.links.contains_key(&object.id);
                continue;
            }
            match self.library.sites_of(&object) {
                Sites::Found(sites, _) => {
                    target.pending.insert(object.id);
                    files.push(Job {
                        object: object.clone(),
                        sites: sites.clone(),
                        purpose: Purpose::Allocators,
                    });
                }
                Sites::Hidden => hidden = Some(object),
                Sites::None => {}
            }
        }
        if let (Some(object), true, true) =
            (hidden, target.links.is_empty(), target.pending.is_empty())
        {
            if !target.announced {
                target.announced = true;
                let comm = target.info.comm.clone();
                let reason = format!(
                    "no allocator found: `{}` is statically linked and stripped of symbols",
                    object.path.display()
                );
                self.words.push(Word::Trouble { pid, comm, reason });
            }
        } else if again && target.pending.is_empty() {
            self.announce(pid);
        }
        let news = !files.is_empty();
        if news {
            // An interposer before the allocator that it calls: otherwise a block could be made by the inner call, seen, and
            // freed through the outer one, unseen.
            files.sort_by_key(|job| {
                !job.sites
                    .iter()
                    .any(|site| cookie::kind(site.cookie) == kind::FREE_OUTER)
            });
            self.attaching.begin(pid, files);
        }
        news
    }

    /// Says once for each program that its probes are in place.
    fn announce(&mut self, pid: Pid) {
        let Some(target) = self.live.get_mut(&pid) else {
            return;
        };
        if target.announced || !target.pending.is_empty() {
            return;
        }
        let mut found = Vec::new();
        let mut functions = 0;
        let mut left_alone = 0;
        // A link outlives the program it was made for: only files that are mapped count.
        for object in target
            .placed
            .iter()
            .map(|file| file.object.id)
            .filter(|object| target.links.contains_key(object))
        {
            if let Some(Sites::Found(sites, flavour)) = self.library.known_sites(object)
                && flavour != "linker"
            {
                left_alone += self.attaching.left_alone(sites);
                functions += sites.len();
                found.push(flavour.clone());
            }
        }
        if found.is_empty() {
            return; // only the dynamic linker so far
        }
        target.announced = true;
        found.sort();
        let mut what = format!(
            "{}, {} functions",
            found.join(" + "),
            functions - left_alone
        );
        if left_alone > 0 {
            let _ = write!(
                what,
                "; {left_alone} forms of operator new are left alone: before Linux 6.13 a probe would end a program in which they throw"
            );
        }
        self.words.push(Word::Tracing {
            pid,
            comm: target.info.comm.clone(),
            what,
        });
    }
}
