//! What is heard at functions that are only listened to, while somebody wants to know.
//!
//! Belongs to the drain's thread. Processes that nobody asks for are not kept.

use std::collections::{HashMap, HashSet};

use memtrace_common::event::{self, Event};

use crate::{ids::Pid, python::coverage::Heard};

/// Addresses that are kept for one process. Beyond it the trial is void.
const MAX_HEARD: usize = 1 << 20;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Listener {
    processes: HashMap<Pid, Addresses>,
}

#[derive(Debug, Default)]
struct Addresses {
    made: HashSet<u64>,
    freed: HashSet<u64>,
    is_full: bool,
}

impl Listener {
    /// From here on what is heard of a process is kept.
    pub(super) fn begin(&mut self, pid: Pid) {
        self.processes.insert(pid, Addresses::default());
    }

    /// What was heard of a process since then; `None` when that was too much.
    pub(super) fn end(&mut self, pid: Pid) -> Option<Heard> {
        let heard = self.processes.remove(&pid)?;
        (!heard.is_full).then(|| Heard {
            made: sorted(heard.made),
            freed: sorted(heard.freed),
        })
    }

    /// Takes an event if it is one that was only listened for.
    pub(super) fn takes(&mut self, event: &Event) -> bool {
        let is_made = match event.kind() {
            event::TRIAL_MADE => true,
            event::TRIAL_FREED => false,
            _ => return false,
        };
        if let Some(heard) = self.processes.get_mut(&Pid(event.tgid)) {
            let addresses = if is_made {
                &mut heard.made
            } else {
                &mut heard.freed
            };
            if addresses.len() < MAX_HEARD {
                addresses.insert(event.addr);
            } else {
                heard.is_full = true;
            }
        }
        true
    }
}

fn sorted(addresses: HashSet<u64>) -> Vec<u64> {
    let mut addresses: Vec<u64> = addresses.into_iter().collect();
    addresses.sort_unstable();
    addresses
}
