//! The tracker's meaning with nothing clever in it: one plain map a process, copied on fork, added up anew
//! for every question.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use memtrace_common::event::{self, Event};

use crate::{
    ids::{Bytes, Millis, Pid, StackId},
    snapshot::{BlockFilter, ProcessSnapshot, SiteCounts},
};

#[derive(Clone, Copy, Debug)]
struct Block {
    size: u64,
    stack: u64,
    birth: u32,
    inherited: bool,
}

#[derive(Clone, Debug, Default)]
struct Process {
    exec_count: u32,
    begun: u32,
    table: HashMap<u64, Block>,
    parked: BTreeMap<(u32, u32), (u64, Option<Block>)>,
    /// Bytes and blocks by stack.
    allocated: BTreeMap<u64, (u64, u64)>,
    unknown_frees: u64,
    superseded: u64,
    folded: (u64, u64),
    uncertain: bool,
    peak: u64,
}

#[derive(Debug)]
pub(super) struct Model {
    running: BTreeMap<u32, Process>,
    sharing: BTreeMap<u32, u32>,
    exited: Vec<ProcessSnapshot>,
    max_blocks: usize,
    pub(super) malformed: u64,
}

impl Process {
    fn live(&self) -> impl Iterator<Item = &Block> {
        let parked = self.parked.values().filter_map(|(_, block)| block.as_ref());
        self.table.values().chain(parked)
    }

    fn untouched(&self) -> bool {
        self.live().count() == 0
            && self.allocated.is_empty()
            && self.unknown_frees == 0
            && self.folded == (0, 0)
    }

    fn put_back(&mut self, addr: u64, block: Option<Block>) {
        if let Some(block) = block
            && self.table.insert(addr, block).is_some_and(|newer| {
                self.table.insert(addr, newer);
                true
            })
        {
            self.superseded += 1;
        }
    }

    fn fork(&self, now: u32) -> Self {
        let inherit = |block: &Block| Block {
            birth: now,
            inherited: true,
            ..*block
        };
        let mut child = Self {
            begun: now,
            uncertain: self.uncertain,
            ..Self::default()
        };
        for (addr, block) in &self.table {
            child.table.insert(*addr, inherit(block));
        }
        for (addr, block) in self.parked.values() {
            if let Some(block) = block {
                child.table.entry(*addr).or_insert_with(|| inherit(block));
            }
        }
        child.watch_peak();
        child
    }

    fn watch_peak(&mut self) {
        let live = self.live().map(|block| block.size).sum();
        self.peak = self.peak.max(live);
    }

    fn freeze(&self, pid: u32, filter: &BlockFilter, now: u32) -> ProcessSnapshot {
        let mut sites: BTreeMap<u64, SiteCounts> = BTreeMap::new();
        let mut frozen = ProcessSnapshot {
            pid: Pid(pid),
            exec_count: self.exec_count,
            unknown_frees: self.unknown_frees,
            superseded_blocks: self.superseded,
            peak_bytes: Bytes(self.peak),
            begun: Duration::from_millis(self.begun.into()),
            folded_blocks: self.folded.0,
            folded_bytes: Bytes(self.folded.1),
            frees_uncertain: self.uncertain,
            ..ProcessSnapshot::default()
        };
        for block in self.live() {
            let age = Duration::from_millis((now - block.birth).into());
            let too_small = filter.min_size.is_some_and(|min| block.size < min.0);
            let too_large = filter.max_size.is_some_and(|max| block.size > max.0);
            if age < filter.min_age || too_small || too_large {
                continue;
            }
            frozen.live_bytes.0 += block.size;
            frozen.live_blocks += 1;
            frozen.inherited_blocks += u64::from(block.inherited);
            let site = sites.entry(block.stack).or_default();
            site.live_bytes.0 += block.size;
            site.live_blocks += 1;
            site.oldest = site.oldest.max(age);
        }
        for (stack, (bytes, blocks)) in &self.allocated {
            frozen.allocated_bytes.0 += bytes;
            frozen.allocated_blocks += blocks;
            let site = sites.entry(*stack).or_default();
            site.allocated_bytes.0 += bytes;
            site.allocated_blocks += blocks;
        }
        for (stack, site) in sites {
            frozen.sites.push(SiteCounts {
                stack: StackId(stack),
                ..site
            });
        }
        frozen
    }
}

impl Model {
    pub(super) fn new(max_blocks: usize) -> Self {
        Self {
            running: BTreeMap::new(),
            sharing: BTreeMap::new(),
            exited: Vec::new(),
            max_blocks,
            malformed: 0,
        }
    }

    pub(super) fn apply(&mut self, event: &Event, now: Millis) {
        let (pid, thread, now) = (event.tgid, (event.tgid, event.tid), now.0);
        match event.kind() {
            event::ALLOC => self.alloc(event, now),
            event::FREE => {
                let process = self.process(pid, now);
                if process.table.remove(&event.addr).is_none() {
                    process.unknown_frees += 1;
                }
            }
            event::REALLOC_ENTER => {
                let process = self.process(pid, now);
                if let Some((_, Some(_))) = process.parked.remove(&thread) {
                    process.superseded += 1;
                }
                let block = process.table.remove(&event.addr);
                if block.is_some() || self.stored() < self.max_blocks {
                    self.process(pid, now)
                        .parked
                        .insert(thread, (event.addr, block));
                }
            }
            event::REALLOC_RETURN => {
                let process = self.process(pid, now);
                match process.parked.remove(&thread) {
                    Some((addr, block)) if event.addr == 0 && event.size() > 0 => {
                        process.put_back(addr, block);
                    }
                    Some((_, None)) => process.unknown_frees += 1,
                    Some((_, Some(_))) | None => {}
                }
                if event.addr != 0 {
                    self.alloc(event, now);
                }
            }
            event::FORK => self.fork(event, now),
            event::EXEC => self.exec(pid, now),
            event::EXIT => self.end(pid, now),
            _ => self.malformed += 1,
        }
    }

    pub(super) fn begin(&mut self, pid: u32, now: u32) {
        self.process(pid, now);
    }

    pub(super) fn end(&mut self, pid: u32, now: u32) {
        self.stop_sharing(pid);
        if let Some(process) = self.running.remove(&pid) {
            self.sharing.retain(|_, owner| *owner != pid);
            let last = process.freeze(pid, &BlockFilter::default(), now);
            self.exited.push(ProcessSnapshot {
                exited: true,
                ..last
            });
        }
    }

    pub(super) fn freeze(&self, filter: &BlockFilter, now: u32) -> Vec<ProcessSnapshot> {
        let running = self.running.iter();
        let running = running.map(|(pid, process)| process.freeze(*pid, filter, now));
        running.chain(self.exited.iter().cloned()).collect()
    }

    fn process(&mut self, pid: u32, now: u32) -> &mut Process {
        let owner = self.sharing.get(&pid).copied().unwrap_or(pid);
        let new = || Process {
            begun: now,
            ..Process::default()
        };
        self.running.entry(owner).or_insert_with(new)
    }

    fn stored(&self) -> usize {
        let stored = |process: &Process| process.table.len() + process.parked.len();
        self.running.values().map(stored).sum()
    }

    fn alloc(&mut self, event: &Event, now: u32) {
        let (size, stack) = (event.size(), event.stack);
        let process = self.process(event.tgid, now);
        let (bytes, blocks) = process.allocated.entry(stack).or_default();
        *bytes += size;
        *blocks += 1;
        if process.table.remove(&event.addr).is_some() {
            process.superseded += 1;
        }
        let fits = self.stored() < self.max_blocks;
        let process = self.process(event.tgid, now);
        if fits {
            let block = Block {
                size,
                stack,
                birth: now,
                inherited: false,
            };
            process.table.insert(event.addr, block);
        } else {
            process.folded.0 += 1;
            process.folded.1 += size;
            process.uncertain = true;
        }
        process.watch_peak();
    }

    fn fork(&mut self, event: &Event, now: u32) {
        let Some(child) = u32::try_from(event.addr)
            .ok()
            .filter(|child| *child != event.tgid)
        else {
            self.malformed += 1;
            return;
        };
        self.end(child, now);
        let copy = self.process(event.tgid, now).fork(now);
        if event.size() == 1 {
            let owner = self.sharing.get(&event.tgid).copied().unwrap_or(event.tgid);
            self.sharing.insert(child, owner);
        } else {
            self.running.insert(child, copy);
        }
    }

    fn exec(&mut self, pid: u32, now: u32) {
        let exec_count = self
            .running
            .get(&pid)
            .map_or(0, |process| process.exec_count)
            + 1;
        if self.running.get(&pid).is_some_and(Process::untouched) {
            self.running.remove(&pid);
            self.sharing.retain(|_, owner| *owner != pid);
        }
        self.end(pid, now);
        let process = Process {
            exec_count,
            begun: now,
            ..Process::default()
        };
        self.running.insert(pid, process);
    }

    fn stop_sharing(&mut self, pid: u32) {
        let Some(owner) = self
            .sharing
            .remove(&pid)
            .and_then(|owner| self.running.get_mut(&owner))
        else {
            return;
        };
        let threads: Vec<_> = owner
            .parked
            .keys()
            .filter(|(tgid, _)| *tgid == pid)
            .copied()
            .collect();
        for thread in threads {
            if let Some((addr, block)) = owner.parked.remove(&thread) {
                owner.put_back(addr, block);
            }
        }
    }
}
