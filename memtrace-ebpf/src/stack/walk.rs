//! The state of a walk and its one step.

use memtrace_common::{
    domain,
    event::Event,
    limits::{MAX_FRAMES, SPARE_FRAMES, STACK_WINDOW},
    python::Python,
    stack::{self, StackHeader},
    unwind::Mapping,
};

use super::{
    mapping,
    python::{self, Frames},
    row,
};
use crate::{
    emit,
    maps::{PROCESSES, PYTHONS},
    read::{self, Registers},
};

/// Words of the stack window.
const WINDOW_WORDS: usize = STACK_WINDOW / 8;

/// Whether the walk goes on.
pub(crate) enum Step {
    /// There is a caller.
    Next,
    /// The walk has ended: the stack is complete, or cut.
    End,
}

/// A walk: where it is, what it has found, and the event that waits for it.
#[repr(C)]
pub(crate) struct Walk {
    /// Task that has taken the slot; 0 = free.
    pub(super) owner: u64,
    /// Emitted when the stack's id is known.
    pub(super) event: Event,
    /// Program counter of the frame to place next: a return address, unless `exact`.
    pub(super) pc: u64,
    /// Its stack pointer.
    pub(super) sp: u64,
    /// Its rbp.
    pub(super) bp: u64,
    /// `FRAME_EXACT` when `pc` is the interrupted instruction itself, otherwise 0.
    pub(super) exact: u64,
    /// Hash of the frames so far.
    hash: u64,
    /// Address of the first word of `window`, aligned to its size; odd when there is none.
    window_base: u64,
    /// Mapping of the last frame: most frames stay in one object.
    pub(super) mapping: Mapping,
    /// Mapping of a frame before it.
    former: Mapping,
    /// Epoch for which the mappings hold; 0 = for none.
    epoch: u64,
    /// Process whose they are.
    tgid: u32,
    reserved: u32,
    /// The process's run of mappings.
    pub(super) mapping_base: u32,
    /// Length of that run.
    pub(super) mapping_count: u32,
    /// Frames so far.
    count: u32,
    /// Why the walk was cut.
    cut: u32,
    /// The process's CPython; its `object` is 0 when there is none.
    pub(super) python: Python,
    /// Where the walk is in Python's frames.
    pub(super) frames_of_python: Frames,
    /// A piece of the traced stack, read at once.
    window: [u64; WINDOW_WORDS],
    /// Head of the record; the frames must follow it.
    header: StackHeader,
    frames: [u64; MAX_FRAMES + SPARE_FRAMES],
}

/// Whether `addr` lies in the mapping, and the mapping in an object.
#[inline(always)]
fn holds(mapping: &Mapping, addr: u64) -> bool {
    addr >= mapping.start && addr < mapping.end && mapping.object != 0
}

impl Walk {
    /// Sets up a walk that begins with the frame `regs` returns to.
    #[inline(always)]
    pub(super) fn begin(&mut self, regs: Registers, event: &Event) {
        self.event = *event;
        self.pc = regs.pc();
        self.sp = regs.sp();
        self.bp = regs.bp();
        self.exact = 0;
        self.hash = 0;
        self.window_base = 1;
        self.frames_of_python.begin();
        self.set_count(0);
        self.cut = u32::from(stack::CUT_NONE);
        self.header.cut_addr = 0;
        self.find_process(event.tgid);
    }

    /// The stack begins with the word of CPython's `domain`, if it is one.
    #[inline(always)]
    pub(super) fn begin_in(&mut self, domain: u32) {
        if domain != domain::NONE {
            self.push(domain::word(domain));
        }
    }

    /// Finds the process's run of mappings. The slot remembers the last one, with the mappings that were in use: as long as
    /// nothing has changed, they hold for the next stack of the same process.
    #[inline(always)]
    fn find_process(&mut self, tgid: u32) {
        // Before the process: what is read behind it is at least as new.
        let epoch = emit::epoch();
        if epoch != 0 && self.epoch == epoch && self.tgid == tgid {
            return;
        }
        self.epoch = epoch;
        self.tgid = tgid;
        self.mapping.start = 0;
        self.mapping.end = 0;
        self.former.start = 0;
        self.former.end = 0;
        self.mapping_base = 0;
        self.mapping_count = 0;
        self.python.object = 0;
        // SAFETY: the entry is replaced as a whole, never changed in place, but for the flag that is not read here.
        if let Some(process) = unsafe { PROCESSES.get(tgid) } {
            self.mapping_base = process.mapping_base;
            self.mapping_count = process.mapping_count;
            if process.python != 0
                && let Some(python) = PYTHONS.get(process.python - 1)
            {
                self.python = *python;
            }
        }
    }

    /// Puts the mapping of `addr` into place: that of the last frame, the one before it, or one that is looked for. Stacks go
    /// to and fro between few objects.
    #[inline(always)]
    fn find_mapping<const FIND_VMA: bool>(&mut self, addr: u64) -> Result<(), u8> {
        if holds(&self.mapping, addr) {
            return Ok(());
        }
        core::mem::swap(&mut self.mapping, &mut self.former);
        if holds(&self.mapping, addr) {
            return Ok(());
        }
        mapping::find::<FIND_VMA>(self, addr)
    }

    /// The mapping in use was not the process's own entry: it is not remembered for the next stack.
    #[inline(always)]
    pub(super) fn forget_mappings(&mut self) {
        self.epoch = 0;
    }

    /// Places the current frame and moves to its caller. `FIND_VMA`: the kernel has `bpf_find_vma`.
    #[inline(always)]
    pub(crate) fn step<const FIND_VMA: bool>(&mut self) -> Step {
        if self.frames_of_python.are_next() {
            return python::step(self);
        }
        if self.pc == 0 {
            // Threads of some runtimes end in a zeroed return address instead of an undefined one.
            return Step::End;
        }
        if self.is_full() {
            return self.cut(stack::CUT_DEPTH, self.pc);
        }
        // A return address may be the first byte behind its function.
        let lookup = if self.exact == 0 {
            self.pc - 1
        } else {
            self.pc
        };
        if let Err(reason) = self.find_mapping::<FIND_VMA>(lookup) {
            return self.cut(reason, self.pc);
        }
        let rel = self.pc.wrapping_sub(self.mapping.bias) as u32;
        self.push(stack::frame(self.mapping.object, rel) | self.exact);
        let in_eval = python::is_eval(self, lookup);
        let next = row::apply(self, lookup);
        if in_eval {
            python::enter(self);
        }
        next
    }

    /// Whether there is no room for another frame.
    #[inline(always)]
    pub(super) fn is_full(&self) -> bool {
        self.count() >= MAX_FRAMES as u32
    }

    /// Ends the walk before the stack's end.
    #[inline(always)]
    pub(crate) fn cut(&mut self, reason: u8, addr: u64) -> Step {
        self.cut = u32::from(reason);
        self.header.cut_addr = addr;
        Step::End
    }

    /// Appends a frame word.
    #[inline(always)]
    pub(super) fn push(&mut self, word: u64) {
        let count = self.count() as usize;
        if count >= MAX_FRAMES {
            return;
        }
        let index = count & (MAX_FRAMES - 1);
        // SAFETY: the index is masked to the array; volatile keeps the mask that the verifier wants to see.
        unsafe { core::ptr::write_volatile(self.frames.as_mut_ptr().add(index), word) };
        self.hash = (self.hash.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.set_count(count as u32 + 1);
    }

    /// Reads a word of the traced stack into `word`, through the window where possible. `false` when it cannot be read.
    #[inline(always)]
    pub(super) fn stack_word(&mut self, word: &mut u64, addr: u64) -> bool {
        if addr & 7 != 0 {
            return read::user_word(word, addr);
        }
        let base = addr & !(STACK_WINDOW as u64 - 1);
        if base != self.window_base {
            // Aligned, so a part of one page: it is there when the word is, also at the end of the stack.
            if !read::user_words(&mut self.window, base) {
                self.window_base = 1;
                return false;
            }
            self.window_base = base;
        }
        let index = ((addr >> 3) as usize) & (WINDOW_WORDS - 1);
        // SAFETY: the index is masked to the array.
        *word = unsafe { core::ptr::read_volatile(self.window.as_ptr().add(index)) };
        true
    }

    /// Final hash of the stack, never 0.
    #[inline(always)]
    pub(super) fn id(&self) -> u64 {
        let mut hash = self.hash ^ u64::from(self.cut) << 56 ^ u64::from(self.count());
        hash ^= hash >> 32;
        hash = hash.wrapping_mul(0xd6e8_feb8_6659_fd93);
        hash ^= hash >> 32;
        if hash == 0 { 1 } else { hash }
    }

    /// Fills the record's head and gives the record with its number of frames.
    #[inline(always)]
    pub(super) fn record(&mut self, id: u64) -> (*const StackHeader, u32) {
        let count = self.count();
        self.header.id = id;
        self.header.count = count as u16;
        self.header.cut = self.cut as u8;
        self.header.reserved = 0;
        self.header.tgid = self.event.tgid;
        (&raw const self.header, count)
    }

    /// Why the walk was cut.
    #[inline(always)]
    pub(super) fn cut_reason(&self) -> u32 {
        self.cut
    }

    // The counter goes through volatile accesses: compilers prove `count + 1 <= MAX_FRAMES` and drop checks that
    // verifiers before 6.12 need to see.

    /// Frames so far.
    #[inline(always)]
    pub(super) fn count(&self) -> u32 {
        // SAFETY: a read through a reference.
        unsafe { core::ptr::read_volatile(&raw const self.count) }
    }

    #[inline(always)]
    fn set_count(&mut self, count: u32) {
        // SAFETY: a write through a reference.
        unsafe { core::ptr::write_volatile(&raw mut self.count, count) }
    }
}
