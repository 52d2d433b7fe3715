//! Which processes are traced, and what is attached to them: follows starts, forks, execs and ends.
//!
//! Owns the probes' handles and the library of files. Runs on the session's task; what waits for the kernel (attaching,
//! detaching) runs on blocking threads and reports back.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write as _,
    path::Path,
    sync::Arc,
    time::Instant,
};

use memtrace_common::{
    notice::{self, NOTICE_FOLLOWED, Notice},
    process::{PROCESS_FOLLOW, PROCESS_TRACED, Process},
};
use tokio::sync::mpsc;

use super::{
    attach::{self, Attached, Attaching},
    library::{Library, Sites},
    target::Target,
};
use crate::{
    ids::Pid,
    plan::Selection,
    probe::{Attacher, FileLinks, Maps},
    target::{
        maps::MapsError,
        object::Object,
        procfs::{self, ProcessInfo},
        rule::Rule,
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

/// See the module.
#[derive(Debug)]
pub(super) struct Targets {
    selection: Selection,
    attaching: Attaching,
    maps: Maps,
    library: Library,
    live: BTreeMap<Pid, Target>,
    exited: VecDeque<Target>,
    words: Vec<Word>,
}

impl Targets {
    pub(super) fn new(
        selection: Selection,
        attacher: Attacher,
        maps: Maps,
        library: Library,
    ) -> (Self, mpsc::UnboundedReceiver<Attached>) {
        let (attaching, results) = Attaching::new(attacher);
        let targets = Self {
            selection,
            attaching,
            maps,
            library,
            live: BTreeMap::new(),
            exited: VecDeque::new(),
            words: Vec::new(),
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

    /// The probes' tables and counters.
    pub(super) fn maps(&self) -> &Maps {
        &self.maps
    }

    /// What is to be said since the last call.
    pub(super) fn take_words(&mut self) -> Vec<Word> {
        std::mem::take(&mut self.words)
    }

    /// Traces every running process that is selected and not traced yet; gives their number.
    pub(super) fn scan(&mut self) -> usize {
        let own = std::process::id();
        let new: Vec<ProcessInfo> = procfs::processes()
            .into_iter()
            .filter(|info| info.pid.0 != own && !self.live.contains_key(&info.pid))
            .filter(|info| self.selects(info.pid, &info.comm))
            .collect();
        let count = new.len();
        for info in new {
            self.begin(info, false);
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
        let objects: Vec<_> = files
            .iter()
            .filter_map(|file| self.library.open(file.as_ref(), &mut self.maps))
            .collect();
        self.attach_objects(pid, objects);
    }

    /// Acts on what the probes have told.
    pub(super) fn on_notice(&mut self, told: &Notice) {
        let pid = Pid(told.tgid);
        match told.kind {
            notice::FORKED => self.on_fork(told),
            notice::EXECED => self.on_exec(pid, comm_of(told)),
            notice::RENAMED => self.on_rename(pid, &comm_of(told)),
            notice::EXITED => self.on_exit(pid),
            notice::NEED_MAPS => {
                if let Some(target) = self.live.get_mut(&pid) {
                    target.ask_look();
                }
            }
            notice::MAPS_CHANGED => self.look(pid),
            kind => log::warn!("the probes told something unknown: {kind}"),
        }
    }

    /// Takes the result of an attach.
    pub(super) fn on_attached(&mut self, attached: Attached) {
        let Attached {
            pid,
            object,
            result,
        } = attached;
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
        self.live.values().filter_map(Target::look_due).min()
    }

    /// Removes all probes; waits until they are gone.
    pub(super) fn detach_all(&mut self) {
        let links: Vec<FileLinks> = self
            .live
            .values_mut()
            .flat_map(|target| target.links.drain().map(|(_, links)| links))
            .collect();
        attach::drop_now(links);
    }

    fn selects(&self, pid: Pid, comm: &str) -> bool {
        let needs_cgroup = self
            .selection
            .rules
            .iter()
            .any(|rule| matches!(rule, Rule::Cgroup(_)));
        let cgroup = if needs_cgroup {
            procfs::cgroup(pid)
        } else {
            None
        };
        self.selection
            .rules
            .iter()
            .any(|rule| rule.takes(pid, comm, cgroup.as_deref()))
    }

    /// Whether the children of a process of this name are selected as they are forked.
    fn follows(&self, pid: Pid, comm: &str) -> bool {
        // A child has its parent's name and cgroup, but not its id.
        let inherits =
            self.selection.rules.iter().any(|rule| {
                rule.is_open() && rule.takes(pid, comm, procfs::cgroup(pid).as_deref())
            });
        self.selection.follow_children || inherits
    }

    fn begin(&mut self, info: ProcessInfo, followed: bool) {
        let pid = info.pid;
        self.live.insert(pid, Target::new(info, followed));
        self.look(pid);
    }

    /// Reads a process's mappings, tells the probes and attaches to allocators that are new.
    fn look(&mut self, pid: Pid) {
        let Some(target) = self.live.get_mut(&pid) else {
            return;
        };
        let map = match self.library.map_process(pid, &mut self.maps) {
            Ok(map) => map,
            Err(MapsError::Gone { .. }) => {
                // Its end is told by the probes, unless it had ended before they knew it.
                if !procfs::exists(pid) {
                    self.on_exit(pid);
                }
                return;
            }
            Err(error) => {
                let comm = target.info.comm.clone();
                self.words.push(Word::Trouble {
                    pid,
                    comm,
                    reason: error.to_string(),
                });
                target.looked(false);
                return;
            }
        };
        let old = std::mem::replace(&mut target.run, map.run.clone());
        let comm = target.info.comm.clone();
        let generation = target.exec_count;
        let flags = PROCESS_TRACED
            | if self.follows(pid, &comm) {
                PROCESS_FOLLOW
            } else {
                0
            };
        let process = Process {
            mapping_base: map.run.start,
            mapping_count: map.run.end - map.run.start,
            flags,
            mapping_generation: generation,
            maps_requested: 0,
            reserved: 0,
        };
        if let Err(error) = self.maps.processes.insert(pid.0, process, 0) {
            let reason = format!("no room in the probes' table of processes: {error}");
            self.words.push(Word::Trouble { pid, comm, reason });
        }
        self.library.retire(old);
        let mapped = map.objects.iter().map(|object| object.id).collect();
        let news = self.attach_objects(pid, map.objects);
        if let Some(target) = self.live.get_mut(&pid) {
            target.mapped = mapped;
            target.looked(news);
        }
        self.announce(pid);
    }

    /// Attaches to the allocators among `objects` that are not attached yet; says whether there were any.
    fn attach_objects(&mut self, pid: Pid, objects: Vec<Arc<Object>>) -> bool {
        let Some(target) = self.live.get_mut(&pid) else {
            return false;
        };
        let mut hidden = None;
        let mut news = false;
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
                    self.attaching.begin(pid, object, sites.clone());
                    news = true;
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
            .mapped
            .iter()
            .filter(|object| target.links.contains_key(object))
        {
            if let Some(Sites::Found(sites, flavour)) = self.library.known_sites(*object)
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

    fn on_fork(&mut self, told: &Notice) {
        let child = Pid(told.tgid);
        if told.flags & NOTICE_FOLLOWED == 0 || self.live.contains_key(&child) {
            return;
        }
        if let Some(info) = procfs::process(child) {
            self.begin(info, true);
        }
    }

    fn on_exec(&mut self, pid: Pid, comm: String) {
        let selected = self.selects(pid, &comm);
        let Some(target) = self.live.get_mut(&pid) else {
            if selected && let Some(info) = procfs::process(pid) {
                self.begin(info, false);
                if let Some(target) = self.live.get_mut(&pid) {
                    target.is_young();
                }
            }
            return;
        };
        if !selected && !(target.followed && self.selection.follow_children) {
            self.let_go(pid);
            return;
        }
        target.begin_program(comm);
        self.look(pid);
        if let Some(target) = self.live.get_mut(&pid) {
            target.is_young();
        }
    }

    fn on_rename(&mut self, pid: Pid, comm: &str) {
        if let Some(target) = self.live.get_mut(&pid) {
            // It stays selected: programs name themselves when they have begun.
            target.info.comm = comm.to_owned();
        } else if self.selects(pid, comm)
            && let Some(info) = procfs::process(pid)
        {
            self.begin(info, false);
        }
    }

    fn on_exit(&mut self, pid: Pid) {
        let Some(mut target) = self.live.remove(&pid) else {
            return;
        };
        target.exited = true;
        self.library
            .retire(std::mem::replace(&mut target.run, 0..0));
        for (_, links) in target.links.drain() {
            attach::drop_later(links);
        }
        if self.exited.len() == MAX_EXITED {
            self.exited.pop_front();
        }
        self.exited.push_back(target);
    }

    /// Stops tracing a process that is no longer selected.
    fn let_go(&mut self, pid: Pid) {
        // A process that is unknown to the probes makes no events; an error means that it is unknown already.
        let _ = self.maps.processes.remove(&pid.0);
        self.on_exit(pid);
    }
}

fn comm_of(told: &Notice) -> String {
    let end = told
        .comm
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(told.comm.len());
    String::from_utf8_lossy(&told.comm[..end]).into_owned()
}
