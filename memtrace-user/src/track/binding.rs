//! When the sites of a process are bound to code objects, and when they are closed.
//!
//! Stacks come through a ring of their own, so a site may be opened before its stack is there. It is bound at the end of
//! the round that opened it, or sooner when something ends that it may rely on: a code object of its process, the
//! process, or the time in which a child has what its parent has. What ends while a site still waits for its stack is
//! remembered until it is bound ([`Codes`](super::codes::Codes)), and the site is closed, whether it relies on that or
//! not: so no block of a later time counts under it.

use memtrace_common::stack::{self, FRAME_PYTHON};

use super::{dictionary::Dictionary, obituaries::End, space::Space};
use crate::{
    ids::{BindingId, CodeId, Millis},
    snapshot::Stack,
};

impl Space {
    /// Binds the sites that were opened, as far as their stacks have arrived.
    pub(super) fn bind_opened(&mut self, dictionary: &mut Dictionary) {
        if !self.sites.has_opened() {
            return;
        }
        let mut waiting = Vec::new();
        for site in self.sites.opened().to_vec() {
            let id = self.sites.at(site).stack;
            match dictionary.stack(id).cloned() {
                None => waiting.push(site),
                Some(stack) if stack.is_python() => {
                    let binding = self.binding(site, &stack, dictionary);
                    self.sites.bind(site, binding);
                }
                Some(_) => {}
            }
        }
        self.sites.set_opened(waiting);
    }

    /// Binds what can be bound at the end of a round. The stacks of the rest have been lost on their way.
    pub(super) fn settle(&mut self, dictionary: &mut Dictionary) {
        self.bind_opened(dictionary);
        for site in self.sites.opened().to_vec() {
            let stack = self.sites.at(site).stack;
            dictionary.wait_for(stack, self.pid());
        }
        self.sites.set_opened(Vec::new());
        self.codes.forget_ends();
    }

    /// The code object at `addr` is about to be freed. `end` when an obituary was sent.
    pub(super) fn code_freed(&mut self, addr: u64, end: Option<End>, dictionary: &mut Dictionary) {
        self.bind_opened(dictionary);
        let pid = self.pid();
        let mut known = self.codes.remove(addr);
        if known.is_none() && end.is_some() && self.sites.has_opened() {
            // A stack that is still on its way may have it.
            known = Some((dictionary.number(pid, addr), Vec::new()));
        }
        if self.sites.has_opened() {
            self.close_waiting(addr, known.as_ref().map(|(id, _)| *id), dictionary);
        }
        if let Some((id, users)) = known {
            dictionary.tell_freed(id, pid, end);
            users.into_iter().for_each(|site| self.sites.close(site));
        }
    }

    /// Events were lost since `since` that may have told of freed code objects: what the addresses stand for is open,
    /// and so is whose the blocks of the sites are that were open in that time.
    pub(super) fn distrust_codes(&mut self, since: Millis, dictionary: &mut Dictionary) {
        self.bind_opened(dictionary);
        let inherited_too = self.begun >= since;
        self.sites.doubt_bound(inherited_too);
        self.drop_waiting(dictionary);
        self.codes.clear();
    }

    /// Closes the sites that wait for their stacks, with what `addr` stood for remembered for them.
    fn close_waiting(&mut self, addr: u64, id: Option<CodeId>, dictionary: &mut Dictionary) {
        let id = id.unwrap_or(CodeId::FREED);
        if !self.codes.remember_end(addr, id, self.sites.len()) {
            self.drop_waiting(dictionary);
            return;
        }
        for site in self.sites.opened().to_vec() {
            self.sites.close(site);
        }
    }

    /// Closes the sites that wait for their stacks; they will never be bound.
    fn drop_waiting(&mut self, dictionary: &mut Dictionary) {
        let waiting = self.sites.opened().to_vec();
        dictionary.count_unbound(waiting.len());
        for site in waiting {
            self.sites.close(site);
        }
        self.sites.set_opened(Vec::new());
        self.codes.forget_ends();
    }

    fn binding(&mut self, site: u32, stack: &Stack, dictionary: &mut Dictionary) -> BindingId {
        let pid = self.pid();
        let codes = python_codes(stack)
            .map(|addr| self.codes.at(addr, site, pid, dictionary))
            .collect();
        let id = self.sites.at(site).stack;
        dictionary.bind(id, codes)
    }
}

/// Addresses of the code objects of a stack's Python frames, innermost first.
fn python_codes(stack: &Stack) -> impl Iterator<Item = u64> {
    let frames = stack.frames.iter();
    frames
        .filter(|&&frame| frame & FRAME_PYTHON != 0)
        .map(|&frame| stack::code_of(frame))
}
