//! Which obituary belongs to which end of a code object.
//!
//! Obituaries come through a ring of their own. The event of an end carries its obituary's stamp; with process and address
//! that is one end only, so whatever is lost, no obituary goes to another code object. An obituary is there before its
//! event, unless one that is still being written hides it: then the end is noted, and the obituary goes to it later.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    ids::{CodeId, Pid},
    python::obituary::Obituary,
};

/// Obituaries that wait for their events: more than the ring holds.
const MAX_EARLY: usize = 4096;
/// Ends that wait for their obituaries.
const MAX_AWAITED: usize = 4096;
/// Rounds for which an end waits.
const MAX_ROUNDS: u32 = 64;
/// Obituaries that are kept, here and on the way to their names, a few KiB each at most.
const MAX_HELD: usize = 8192;

/// An end of a code object. The stamp comes first, so that the oldest is the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct End {
    pub(super) stamp: u64,
    pub(super) pid: Pid,
    pub(super) addr: u64,
}

impl End {
    fn of(obituary: &Obituary) -> Self {
        Self {
            stamp: obituary.stamp,
            pid: obituary.pid,
            addr: obituary.addr,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Obituaries {
    early: BTreeMap<End, Arc<Obituary>>,
    /// The code objects that have ended, and the round in which they did.
    awaited: BTreeMap<End, (CodeId, u32)>,
    round: u32,
    /// Every obituary that is kept anywhere has a reference.
    ticket: Arc<()>,
    dropped: u64,
}

impl Obituaries {
    /// Takes an obituary; gives it back with the code object that has waited for it.
    pub(super) fn add(&mut self, mut obituary: Obituary) -> Option<(CodeId, Arc<Obituary>)> {
        if Arc::strong_count(&self.ticket) > MAX_HELD {
            self.dropped += 1;
            return None;
        }
        obituary.hold(Arc::clone(&self.ticket));
        let end = End::of(&obituary);
        let obituary = Arc::new(obituary);
        if let Some((id, _)) = self.awaited.remove(&end) {
            return Some((id, obituary));
        }
        self.early.insert(end, obituary);
        // The oldest are those whose events have been lost.
        if self.early.len() > MAX_EARLY {
            self.early.pop_first();
            self.dropped += 1;
        }
        None
    }

    /// Whether the obituary of an end is here.
    pub(super) fn has(&self, end: &End) -> bool {
        self.early.contains_key(end)
    }

    /// Takes the obituary of an end.
    pub(super) fn take(&mut self, end: &End) -> Option<Arc<Obituary>> {
        self.early.remove(end)
    }

    /// A code object's obituary is to come.
    pub(super) fn wait_for(&mut self, end: End, id: CodeId) {
        self.awaited.insert(end, (id, self.round));
        if self.awaited.len() > MAX_AWAITED {
            self.awaited.pop_first();
        }
    }

    /// Whether any obituary is to come.
    pub(super) fn awaits(&self) -> bool {
        !self.awaited.is_empty()
    }

    /// A round has ended.
    pub(super) fn settle(&mut self) {
        self.round = self.round.wrapping_add(1);
        let round = self.round;
        self.awaited
            .retain(|_, (_, begun)| round.wrapping_sub(*begun) < MAX_ROUNDS);
    }

    /// No code object that has ended is what it was taken for.
    pub(super) fn distrust(&mut self) {
        self.awaited.clear();
    }

    /// Obituaries for which there was no room.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use memtrace_common::obituary::ObituaryHeader;

    use super::*;

    fn obituary(stamp: u64) -> Obituary {
        let header = ObituaryHeader {
            stamp,
            tgid: 1,
            addr: 0x10,
            ..ObituaryHeader::default()
        };
        Obituary::new(&header, [&[]; 4])
    }

    fn end(stamp: u64) -> End {
        End::of(&obituary(stamp))
    }

    #[test]
    fn an_obituary_goes_to_its_end_whichever_is_first() {
        let mut obituaries = Obituaries::default();
        assert_eq!(obituaries.add(obituary(1)), None);
        assert!(obituaries.has(&end(1)) && !obituaries.awaits());
        assert_eq!(obituaries.take(&end(2)), None);
        assert_eq!(obituaries.take(&end(1)).map(|found| found.stamp), Some(1));
        obituaries.wait_for(end(3), CodeId(7));
        assert!(obituaries.awaits());
        let (id, found) = obituaries.add(obituary(3)).unwrap();
        assert_eq!(
            (id, found.stamp, obituaries.awaits()),
            (CodeId(7), 3, false)
        );
    }

    #[test]
    fn an_end_does_not_wait_for_ever() {
        let mut obituaries = Obituaries::default();
        obituaries.wait_for(end(3), CodeId(7));
        for _ in 1..MAX_ROUNDS {
            obituaries.settle();
        }
        assert!(obituaries.awaits());
        obituaries.settle();
        assert!(!obituaries.awaits());
        obituaries.wait_for(end(3), CodeId(7));
        obituaries.distrust();
        assert_eq!(obituaries.add(obituary(3)), None);
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_rest_is_counted() {
        let mut obituaries = Obituaries::default();
        for stamp in 0..MAX_EARLY as u64 + 2 {
            obituaries.add(obituary(stamp));
        }
        assert_eq!(obituaries.dropped(), 2);
        assert!(!obituaries.has(&end(1)) && obituaries.has(&end(2)));

        let mut held = Vec::new();
        for stamp in 0..MAX_HELD as u64 {
            obituaries.wait_for(end(10_000 + stamp), CodeId(7));
            held.extend(obituaries.add(obituary(10_000 + stamp)));
        }
        assert_eq!(held.len(), MAX_HELD - MAX_EARLY);
        held.clear();
        obituaries.wait_for(end(90_000), CodeId(7));
        assert!(obituaries.add(obituary(90_000)).is_some());
    }
}
