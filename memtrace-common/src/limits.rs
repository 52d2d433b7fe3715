//! Every maximum the probes and the collector share, and the asserts that tie them together.

/// Frames of one stack. A deeper stack keeps its innermost frames and is cut with
/// [`CUT_DEPTH`](crate::stack::CUT_DEPTH).
pub const MAX_FRAMES: usize = 256;

/// Words the frame buffer has behind its last frame, so that verifiers older than 6.12, which lose the upper
/// bound of the frame counter between two pushes, still see every write inside the map value.
pub const SPARE_FRAMES: usize = 4;

/// Bytes of the traced stack that are read at once: a part of a page. One read serves the return addresses of about twenty
/// frames.
pub const STACK_WINDOW: usize = 2048;

/// Frames that one program of the tail-call set walks before it calls the next.
pub const FRAMES_PER_TAIL_CALL: usize = 8;

/// Tail calls the kernel allows in one run (`MAX_TAIL_CALL_CNT`, include/linux/bpf.h), the first program included.
pub const MAX_TAIL_CALLS: usize = 33;

/// Scratch slots of one CPU, 3.6 KiB each. A task that is preempted inside a probe keeps its slot while others on the same
/// CPU take the next: on a preemptible kernel, with more runnable threads than CPUs that do little but allocate, a good
/// part of them at once. A call that finds no slot goes without its stack and is counted.
pub const SCRATCH_SLOTS: u32 = 32;

/// Threads that have a slot of their own, by the low bits of their id; the others are looked up by hash.
pub const THREAD_SLOTS: u32 = 1 << 16;

/// Ids of stacks that are known without a look-up by hash, by their low bits.
pub const RECENT_STACKS: u32 = 1 << 16;

/// CPythons that are walked at the same time. Processes beyond have native stacks, with the reason.
pub const MAX_PYTHONS: u32 = 16_384;

/// Binary-search steps among the executable mappings of one process: 2^12 mappings at most.
pub const MAPPING_SEARCH_STEPS: u32 = 12;

/// Binary-search steps among the unwind rows of one page of text.
pub const ROW_SEARCH_STEPS: u32 = 9;

/// Executable segments of one object that the probe can place by itself.
pub const MAX_SEGMENTS: usize = 4;

/// Bytes of text that one entry of the page index covers, as a shift.
pub const PAGE_SHIFT: u32 = 8;

const _: () = assert!(MAX_FRAMES.is_power_of_two());
const _: () = assert!(STACK_WINDOW.is_power_of_two() && STACK_WINDOW <= 4096);
const _: () = assert!(SCRATCH_SLOTS.is_power_of_two());
const _: () = assert!(THREAD_SLOTS.is_power_of_two());
const _: () = assert!(RECENT_STACKS.is_power_of_two());
const _: () = assert!(FRAMES_PER_TAIL_CALL * MAX_TAIL_CALLS >= MAX_FRAMES);
// A page of text has at most one row for each of its bytes.
const _: () = assert!(1 << ROW_SEARCH_STEPS > 1 << PAGE_SHIFT);
