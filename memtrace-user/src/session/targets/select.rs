//! Which processes are selected: the rules, and what they ask of a process.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use memtrace_common::process::{PROCESS_FOLLOW, PROCESS_TRACED};

use super::Targets;
use crate::{
    ids::Pid,
    target::{
        procfs,
        rule::{Candidate, Rule},
    },
};

/// When a process that has begun a program is looked at for a CPython: the dynamic linker may be at work.
const LOADING: [Duration; 3] = [
    Duration::from_millis(20),
    Duration::from_millis(200),
    Duration::from_millis(2000),
];
/// Programs that wait for such a look; one that begins beyond is found by the next scan.
const MAX_UNDECIDED: usize = 4096;

/// Processes that may turn out to run a CPython, in the order in which they are due.
#[derive(Debug, Default)]
pub(super) struct Undecided {
    waiting: [VecDeque<(Instant, Pid)>; LOADING.len()],
}

impl Undecided {
    /// Adds a process that has just begun a program.
    pub(super) fn add(&mut self, pid: Pid) {
        let now = Instant::now();
        for (queue, wait) in self.waiting.iter_mut().zip(LOADING) {
            if queue.len() < MAX_UNDECIDED {
                queue.push_back((now + wait, pid));
            }
        }
    }

    /// Takes those whose time has come.
    fn take_due(&mut self, now: Instant) -> Vec<Pid> {
        let mut taken = Vec::new();
        for queue in &mut self.waiting {
            while queue.front().is_some_and(|(due, _)| *due <= now) {
                taken.extend(queue.pop_front().map(|(_, pid)| pid));
            }
        }
        taken
    }

    /// When the next is due.
    fn next(&self) -> Option<Instant> {
        self.waiting
            .iter()
            .filter_map(|queue| queue.front().map(|(due, _)| *due))
            .min()
    }
}

impl Targets {
    pub(super) fn selects(&mut self, pid: Pid, comm: &str) -> bool {
        self.any_rule_takes(pid, comm, |_| true)
    }

    /// Whether the children of a process of this name are selected as they are forked: they have its name, its cgroup and its
    /// Python, but not its id.
    fn follows(&mut self, pid: Pid, comm: &str) -> bool {
        self.selection.follow_children || self.any_rule_takes(pid, comm, Rule::is_open)
    }

    /// What the probes do with a process.
    pub(super) fn flags_of(&mut self, pid: Pid, comm: &str) -> u32 {
        let follow = if self.follows(pid, comm) {
            PROCESS_FOLLOW
        } else {
            0
        };
        PROCESS_TRACED | follow
    }

    /// A program has begun in a process that is not selected: it may load a CPython.
    pub(super) fn wait_for_python(&mut self, pid: Pid) {
        if self.asks_for_python() {
            self.undecided.add(pid);
        }
    }

    /// Selects the processes that have loaded a CPython since they began; gives the time of the next look.
    pub(super) fn decide(&mut self, now: Instant) -> Option<Instant> {
        for pid in self.undecided.take_due(now) {
            if !self.live.contains_key(&pid)
                && let Some(info) = procfs::process(pid)
                && self.selects(pid, &info.comm)
            {
                self.begin(info, false);
            }
        }
        self.undecided.next()
    }

    fn asks_for_python(&self) -> bool {
        self.selection
            .rules
            .iter()
            .any(|rule| matches!(rule, Rule::Python))
    }

    fn any_rule_takes(&mut self, pid: Pid, comm: &str, among: impl Fn(&Rule) -> bool) -> bool {
        let runs_python = self.asks_for_python() && self.presence.is_in(pid);
        let rules = &self.selection.rules;
        let by_cgroup = rules.iter().any(|rule| matches!(rule, Rule::Cgroup(_)));
        let cgroup = if by_cgroup { procfs::cgroup(pid) } else { None };
        let process = Candidate {
            pid,
            comm,
            cgroup: cgroup.as_deref(),
            runs_python,
        };
        rules.iter().any(|rule| among(rule) && rule.takes(&process))
    }
}
