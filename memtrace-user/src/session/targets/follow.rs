//! What the probes tell of processes, and what follows from it: forks, execs, renames, ends.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use memtrace_common::notice::{self, NOTICE_FOLLOWED, NOTICE_SHARES_MEMORY, NOTICE_TRACED, Notice};

use super::{MAX_EXITED, Target, Targets, Unheard, attach};
use crate::{
    ids::Pid,
    probe::ProbeSite,
    target::{
        object::Object,
        procfs::{self, ProcessInfo},
    },
};

/// How long a child that is not traced is given to run another program before the probes are taken out of its memory.
const BEFORE_CLEANING: Duration = Duration::from_millis(20);
/// Children that wait for it; what comes beyond is left as it is until the probes go.
const MAX_CHILDREN: usize = 1024;

/// A child that was forked with the probes in its memory and is not traced.
#[derive(Debug)]
pub(super) struct Bystander {
    child: ProcessInfo,
    parent: Pid,
    due: Instant,
}

impl Targets {
    /// Acts on what the probes have told. Several notices of one kind about one process are one.
    pub(in crate::session) fn on_notices(&mut self, told: &[Notice]) {
        let mut remapped = BTreeSet::new();
        for notice in told {
            let pid = Pid(notice.tgid);
            match notice.kind {
                notice::FORKED => self.on_fork(notice),
                notice::EXECED
                    if notice.flags & NOTICE_TRACED == 0 && self.live.contains_key(&pid) =>
                {
                    self.on_early_exec(pid, comm_of(notice));
                }
                notice::EXECED => self.on_exec(pid, comm_of(notice)),
                notice::RENAMED => self.on_rename(pid, &comm_of(notice)),
                notice::EXITED => self.on_exit(pid),
                notice::NEED_MAPS => {
                    if let Some(target) = self.live.get_mut(&pid) {
                        target.ask_look();
                    }
                }
                notice::MAPS_CHANGED => {
                    remapped.insert(pid);
                }
                kind => log::warn!("the probes told something unknown: {kind}"),
            }
        }
        for pid in remapped {
            self.look(pid);
        }
    }

    /// Looks for what has happened to processes without a notice: ends, other programs, new processes, children.
    pub(in crate::session) fn check_all(&mut self) {
        for pid in self.live.keys().copied().collect::<Vec<_>>() {
            self.check(pid);
        }
        self.scan();
        if self.selection.follow_children {
            while self.adopt() > 0 {}
        }
    }

    /// Looks at a process of which a notice may have been lost.
    fn check(&mut self, pid: Pid) {
        let Some(target) = self.live.get(&pid) else {
            return;
        };
        let Some(now) =
            procfs::process(pid).filter(|now| now.start_ticks == target.info.start_ticks)
        else {
            self.end(pid);
            return;
        };
        let program = procfs::program(pid);
        if program.is_some() && program != target.program {
            self.on_exec(pid, now.comm);
            if let Some(target) = self.live.get(&pid) {
                self.unheard.push(Unheard::Exec(pid, target.exec_count));
            }
        }
    }

    /// Traces the children that traced processes have forked since they are traced; gives their number.
    fn adopt(&mut self) -> usize {
        let before = self.live.len();
        for info in procfs::processes() {
            let is_child = || {
                let parent = self.live.get(&procfs::parent(info.pid)?)?;
                Some(info.start_ticks >= parent.since_ticks)
            };
            if !self.live.contains_key(&info.pid) && is_child() == Some(true) {
                self.begin(info, true);
            }
        }
        self.live.len().saturating_sub(before)
    }

    /// Takes the probes out of children that had time to run another program and did not; gives the next time.
    pub(super) fn clean_bystanders(&mut self, now: Instant) -> Option<Instant> {
        while let Some(first) = self.bystanders.front() {
            if first.due > now {
                return Some(first.due);
            }
            let Some(Bystander { child, parent, .. }) = self.bystanders.pop_front() else {
                break;
            };
            // After an exec the memory is new, and the name as a rule another.
            if procfs::process(child.pid).as_ref() == Some(&child)
                && !self.live.contains_key(&child.pid)
            {
                let files = self.attached_files(parent);
                self.attaching.clean(child.pid, files);
            }
        }
        None
    }

    /// The files that a process has probes in, for another that has inherited them.
    fn attached_files(&self, pid: Pid) -> Vec<(Arc<Object>, Arc<[ProbeSite]>)> {
        let Some(target) = self.live.get(&pid) else {
            return Vec::new();
        };
        let code = target
            .python
            .probed()
            .and_then(|(object, site)| Some((self.library.get(object)?, Arc::from([site]))));
        target
            .links
            .keys()
            .filter_map(|id| self.library.attachable(*id))
            .chain(code)
            .chain(self.domain_file(pid))
            .collect()
    }

    fn on_fork(&mut self, told: &Notice) {
        let child = Pid(told.tgid);
        if self.live.contains_key(&child) {
            return;
        }
        let Some(info) = procfs::process(child) else {
            return;
        };
        if told.flags & NOTICE_FOLLOWED != 0 {
            self.begin(info, true);
        } else if told.flags & NOTICE_SHARES_MEMORY == 0 && self.bystanders.len() < MAX_CHILDREN {
            let (parent, due) = (Pid(told.parent), Instant::now() + BEFORE_CLEANING);
            self.bystanders.push_back(Bystander {
                child: info,
                parent,
                due,
            });
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
            } else if !selected {
                self.wait_for_python(pid);
            }
            return;
        };
        target.begin_program(comm);
        self.forget_python(pid);
        let Some(target) = self.live.get_mut(&pid) else {
            return;
        };
        let stays = selected || target.followed && self.selection.follow_children;
        if !stays {
            // It is no longer selected. It has begun a generation in the tracker, which nothing else would end.
            self.end(pid);
            return;
        }
        self.look(pid);
        // What it maps may have been read after the exec and before its notice: then nothing has changed since.
        if self
            .live
            .get(&pid)
            .is_some_and(|target| !target.python.is_looked_at())
        {
            self.look_at_python(pid);
        }
        if let Some(target) = self.live.get_mut(&pid) {
            target.is_young();
        }
    }

    /// The process began its program just before it was introduced to the probes: it was found by its new name, or by a look
    /// at all processes, sooner than this was heard. The tracker has not seen it run another one.
    fn on_early_exec(&mut self, pid: Pid, comm: String) {
        let selected = self.selects(pid, &comm);
        let follows = self.selection.follow_children;
        let stays = |target: &Target| selected || target.followed && follows;
        if !self.live.get(&pid).is_some_and(stays) {
            self.end(pid);
        } else if let Some(target) = self.live.get_mut(&pid) {
            target.renamed_from = None;
            target.info.comm = comm;
            target.is_young();
        }
    }

    fn on_rename(&mut self, pid: Pid, comm: &str) {
        if let Some(target) = self.live.get_mut(&pid) {
            // It stays selected: programs name themselves when they have begun.
            target.renamed_from = Some(std::mem::replace(&mut target.info.comm, comm.to_owned()));
        } else if self.selects(pid, comm)
            && let Some(info) = procfs::process(pid)
        {
            self.begin(info, false);
        }
    }

    /// The process has ended, and the tracker knows by itself.
    pub(super) fn on_exit(&mut self, pid: Pid) {
        self.maps.forget(pid);
        let Some(mut target) = self.live.remove(&pid) else {
            return;
        };
        // A process that nobody has waited for yet still shows its CPU time.
        target.measure();
        target.exited = true;
        self.library
            .retire(std::mem::replace(&mut target.run, 0..0));
        target.last_runtime = Some(target.python.facts());
        self.release_python(pid, std::mem::take(&mut target.python));
        let domains = target.domains.take_links();
        for links in target.links.drain().map(|(_, links)| links).chain(domains) {
            attach::drop_later(links);
        }
        if self.exited.len() == MAX_EXITED {
            self.exited.pop_front();
        }
        self.exited.push_back(target);
    }

    /// The process is let go, or has ended unheard: the tracker has to be told.
    pub(super) fn end(&mut self, pid: Pid) {
        self.on_exit(pid);
        self.unheard.push(Unheard::End(pid));
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
