//! What was measured of the trace itself, and what follows from it.

use std::{collections::BTreeMap, time::Duration};

use memtrace_common::{event, stack, stats::Stats};

use super::{
    model::{Losses, Process, Trust},
    units::{Counted, Share},
};
use crate::{ids::Bytes, python::book::BookCounts, resolve::cut_words, snapshot::Snapshot};

/// What the session measured of itself and its targets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Measured {
    /// The probes' counters, summed over all CPUs.
    pub stats: Stats,
    /// Programs of process tracepoints that the kernel has skipped.
    pub skipped_tracepoints: u64,
    /// Programs of allocator functions that the kernel has skipped.
    pub skipped_probes: u64,
    /// Files beyond the limit of objects.
    pub refused_objects: u64,
    /// CPU time memtrace has used.
    pub self_cpu: Duration,
    /// Resident memory of memtrace.
    pub self_rss: Bytes,
    /// CPU time the targets have used since attach.
    pub target_cpu: Duration,
    /// Part of it that the probes took: hits times calibrated cost.
    pub target_cost: Duration,
}

impl Trust {
    pub(super) fn of(
        measured: &Measured,
        snapshot: &Snapshot,
        python: BookCounts,
        processes: &[Process],
    ) -> Self {
        let Measured { stats, .. } = measured;
        let lost = Losses::of(measured, snapshot);
        // What is only listened to counts nowhere.
        let trial_events = [event::TRIAL_MADE, event::TRIAL_FREED]
            .map(|kind| stats.lost[usize::from(kind)])
            .iter()
            .sum::<u64>();
        let unnamed = unnamed_frames(processes);
        let [target_cpu_s, target_cost_s] =
            [measured.target_cpu, measured.target_cost].map(|time| time.as_secs_f64());
        let cost = Share {
            part: target_cost_s,
            whole: target_cpu_s,
        };
        Self {
            events: snapshot.events,
            lost_events: stats.lost.iter().sum::<u64>() - trial_events,
            stacks: stats.walked.iter().sum(),
            cut_stacks: stats.walked.iter().sum::<u64>()
                - stats.walked[usize::from(stack::CUT_NONE)],
            unnamed_frames: unnamed.values().sum(),
            self_cpu_s: measured.self_cpu.as_secs_f64(),
            self_rss_bytes: measured.self_rss,
            target_cpu_s,
            target_cost_s,
            cost_pct: cost.percent(),
            distinct_stacks: snapshot.distinct_stacks,
            frames: sites(processes).map(|site| site.frames.len() as u64).sum(),
            python_names: python.accepted,
            python_names_gone: python.gone,
            lost,
            cut: cut_stacks(stats),
            unnamed,
            not_known: lost.consequences(),
        }
    }
}

impl Losses {
    fn of(measured: &Measured, snapshot: &Snapshot) -> Self {
        let stats = &measured.stats;
        let lost = |kind: u8| stats.lost[usize::from(kind)];
        Self {
            allocations: lost(event::ALLOC),
            frees: lost(event::FREE),
            realloc_enters: lost(event::REALLOC_ENTER),
            realloc_returns: lost(event::REALLOC_RETURN),
            forks: lost(event::FORK),
            ends: lost(event::EXEC) + lost(event::EXIT),
            code_ends: lost(event::CODE_FREED),
            unbound_sites: snapshot.unbound_sites,
            obituaries: stats.obituaries_lost + snapshot.dropped_obituaries,
            stacks: stats.stacks_lost,
            unwalked_stacks: stats.scratch_busy,
            unfollowed_calls: stats.threads_full,
            unread_results: stats.result_faults,
            notices: stats.notices_lost,
            skipped_tracepoints: measured.skipped_tracepoints,
            skipped_probes: measured.skipped_probes,
            malformed: snapshot.malformed,
            refused_events: snapshot.refused_events,
            dropped_stacks: snapshot.dropped_stacks,
            refused_objects: measured.refused_objects,
        }
    }

    /// The causes that occurred, in words.
    pub(super) fn causes(&self) -> Vec<String> {
        let count = |count, noun| (count > 0).then(|| Counted(count, noun).to_string());
        [
            count(self.allocations, "allocation"),
            count(self.frees, "free"),
            count(self.realloc_enters, "entered realloc"),
            count(self.realloc_returns, "returned realloc"),
            count(self.forks, "fork"),
            count(self.ends, "program end"),
            count(self.code_ends, "freed code object"),
            count(self.obituaries, "uncopied code object"),
            count(self.stacks, "stack"),
            count(self.unwalked_stacks, "unwalked stack"),
            count(self.unfollowed_calls, "unfollowed call"),
            count(self.unread_results, "unread result"),
            count(self.notices, "process notice"),
            count(self.skipped_tracepoints, "skipped tracepoint"),
            count(self.skipped_probes, "skipped probe"),
            count(self.malformed, "malformed record"),
            count(self.refused_events, "refused event"),
            count(self.dropped_stacks, "dropped stack"),
            count(self.refused_objects, "unopened file"),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// What cannot be known any more. A reallocation whose end is lost leaves both open: whether there is a new
    /// block, and whether the old one is gone.
    fn consequences(&self) -> Vec<String> {
        let missing =
            self.allocations + self.realloc_returns + self.unfollowed_calls + self.unread_results;
        let gone = self.frees + self.realloc_enters + self.realloc_returns;
        let siteless = self.stacks + self.unwalked_stacks + self.dropped_stacks;
        [
            (
                missing,
                "block",
                "live may be too small by up to # (lost allocations)",
            ),
            (gone, "block", "up to # shown live may be gone (lost frees)"),
            (self.forks, "child process", "# may miss inherited blocks"),
            (self.ends, "ended program", "blocks of # may be shown live"),
            (
                siteless,
                "stack",
                "# did not arrive; their blocks have no site",
            ),
            (
                self.code_ends,
                "end",
                "Python names known before were given up (lost # of code objects)",
            ),
            (self.unbound_sites, "site", "# may lack Python names"),
            (
                self.notices,
                "process",
                "# may not be traced (lost notices)",
            ),
            (
                self.skipped_tracepoints,
                "tracepoint",
                "# (fork, exec, exit of any process) skipped by the kernel: processes were looked for, not all can be found",
            ),
            (
                self.skipped_probes,
                "allocator call",
                "# passed unseen (skipped by the kernel)",
            ),
            (self.malformed, "record", "# could not be understood"),
            (
                self.refused_events,
                "event",
                "# came from processes beyond the limit; these are not followed",
            ),
            (
                self.refused_objects,
                "file",
                "# beyond the limit of objects: frames there have no names, allocators there are not traced",
            ),
        ]
        .into_iter()
        .filter(|(count, ..)| *count > 0)
        .map(|(count, noun, sentence)| sentence.replace('#', &Counted(count, noun).to_string()))
        .collect()
    }
}

fn cut_stacks(stats: &Stats) -> BTreeMap<&'static str, u64> {
    let mut cut = BTreeMap::new();
    for (reason, &count) in (0_u8..).zip(&stats.walked) {
        if let Some(words) = cut_words(reason).filter(|_| count > 0) {
            *cut.entry(words).or_default() += count;
        }
    }
    cut
}

fn unnamed_frames(processes: &[Process]) -> BTreeMap<String, u64> {
    let mut unnamed = BTreeMap::new();
    for reason in sites(processes)
        .flat_map(|site| &site.frames)
        .filter_map(|frame| frame.reason.as_ref())
    {
        *unnamed.entry(reason.clone()).or_default() += 1;
    }
    unnamed
}

fn sites(processes: &[Process]) -> impl Iterator<Item = &super::model::Site> {
    processes.iter().flat_map(|process| &process.sites)
}
