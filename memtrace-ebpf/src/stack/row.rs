//! Finds the unwind row of an address and applies it.

use memtrace_common::{
    limits::{PAGE_SHIFT, ROW_SEARCH_STEPS},
    stack::{self, FRAME_EXACT},
    unwind::{self, row_cfa_words, row_kind, row_rbp_words, row_rel},
};

use super::walk::{Step, Walk};
use crate::maps::{PAGES, ROWS};

/// Where `ucontext` keeps the interrupted registers (x86-64 `struct ucontext`, arch/x86/include/uapi/asm/sigcontext.h:
/// `uc_mcontext` at 40, its rbp, rsp and rip at 80, 120 and 128).
const UCONTEXT_RBP: u64 = 40 + 80;
const UCONTEXT_RSP: u64 = 40 + 120;
const UCONTEXT_RIP: u64 = 40 + 128;

/// Moves the walk to the caller of the frame at `addr`.
#[inline(always)]
pub(super) fn apply(walk: &mut Walk, addr: u64) -> Step {
    if walk.mapping.page_count == 0 {
        return walk.cut(walk.mapping.reason as u8, walk.pc);
    }
    let rel = addr.wrapping_sub(walk.mapping.bias);
    let Some(row) = find(walk, rel) else {
        return walk.cut(stack::CUT_NO_ROW, walk.pc);
    };
    let words = 8 * u64::from(row_cfa_words(row));
    let cfa = match row_kind(row) {
        unwind::ROW_RSP => walk.sp + words,
        unwind::ROW_RBP => walk.bp + words,
        unwind::ROW_CFA_AT_RBP => {
            let mut cfa = 0;
            if !realigned(walk, words, &mut cfa) {
                return walk.cut(stack::CUT_READ_FAULT, walk.pc);
            }
            cfa
        }
        unwind::ROW_PLT_11 => walk.sp + 8 + if addr & 15 >= 11 { 8 } else { 0 },
        unwind::ROW_PLT_10 => walk.sp + 8 + if addr & 15 >= 10 { 8 } else { 0 },
        unwind::ROW_SIGNAL => return signal_frame(walk),
        unwind::ROW_END => return Step::End,
        unwind::ROW_UNSUPPORTED => return walk.cut(stack::CUT_UNSUPPORTED, walk.pc),
        _ => return walk.cut(stack::CUT_NO_ROW, walk.pc),
    };
    to_caller(walk, cfa, row_rbp_words(row))
}

/// Reads the CFA of a frame that has realigned its stack, saved `distance` bytes below rbp. The caller's rbp is where rbp
/// points: its distance from the CFA is not known, so it is restored here.
#[inline(always)]
fn realigned(walk: &mut Walk, distance: u64, cfa: &mut u64) -> bool {
    let frame = walk.bp;
    let mut bp = 0;
    if !walk.stack_word(cfa, frame.wrapping_sub(distance)) || !walk.stack_word(&mut bp, frame) {
        return false;
    }
    walk.bp = bp;
    true
}

/// Restores rbp and the return address from the frame that ends at `cfa`.
#[inline(always)]
fn to_caller(walk: &mut Walk, cfa: u64, rbp_words: i8) -> Step {
    // A caller's frame lies above its callee's.
    if cfa <= walk.sp {
        return walk.cut(stack::CUT_STALLED, walk.pc);
    }
    if rbp_words != 0 {
        let mut bp = 0;
        if !walk.stack_word(&mut bp, cfa.wrapping_add((8 * i64::from(rbp_words)) as u64)) {
            return walk.cut(stack::CUT_READ_FAULT, walk.pc);
        }
        walk.bp = bp;
    }
    let mut pc = 0;
    if !walk.stack_word(&mut pc, cfa - 8) {
        return walk.cut(stack::CUT_READ_FAULT, walk.pc);
    }
    walk.pc = pc;
    walk.sp = cfa;
    walk.exact = 0;
    Step::Next
}

/// Goes on with the code that a signal has interrupted. It may run on another stack, so nothing is said of the order.
#[inline(always)]
fn signal_frame(walk: &mut Walk) -> Step {
    let context = walk.sp;
    let (mut bp, mut sp, mut pc) = (0, 0, 0);
    let readable = walk.stack_word(&mut bp, context + UCONTEXT_RBP)
        && walk.stack_word(&mut sp, context + UCONTEXT_RSP)
        && walk.stack_word(&mut pc, context + UCONTEXT_RIP);
    if !readable {
        return walk.cut(stack::CUT_READ_FAULT, walk.pc);
    }
    walk.bp = bp;
    walk.sp = sp;
    walk.pc = pc;
    walk.exact = FRAME_EXACT;
    Step::Next
}

/// The last row at or below `rel`.
#[inline(always)]
fn find(walk: &Walk, rel: u64) -> Option<u64> {
    let page = rel >> PAGE_SHIFT;
    if page >= u64::from(walk.mapping.page_count) {
        return None;
    }
    let entry = *PAGES.get(walk.mapping.page_base + page as u32)?;
    let first = entry as u32;
    let mut low = first;
    let mut high = (entry >> 32) as u32;
    for _ in 0..ROW_SEARCH_STEPS {
        if low >= high {
            break;
        }
        let middle = low + (high - low) / 2;
        if row_rel(*ROWS.get(middle)?) <= rel as u32 {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    if low == first {
        return None;
    }
    ROWS.get(low - 1).copied()
}
