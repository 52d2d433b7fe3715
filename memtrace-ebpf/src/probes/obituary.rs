//! Obituaries: copies what a name needs of a code object that is about to be freed.
//!
//! At the entry of its destructor a code object and its texts are intact. What is copied goes straight into the ring's
//! record, so that no buffer is shared with a task that preempts this one. Whether anybody wants the name is not known
//! here: the tracker drops what belongs to no stack.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    bindings::BPF_RB_NO_WAKEUP,
    helpers::generated::{bpf_ktime_get_ns, bpf_probe_read_user},
};
use memtrace_common::{
    obituary::{BYTES_HEAD, LARGE, MAX_HEAD, ObituaryHeader, SMALL, Slots},
    python::Python,
    stats::Stats,
};

use crate::{
    intrinsics::count,
    maps::{OBITUARIES, PROCESSES, PYTHONS},
    read,
    thread::ThreadKey,
};

/// `PyASCIIObject.length`, `PyBytesObject.ob_size`
const LENGTH: u64 = 16;
/// `PyASCIIObject.state`
const STATE: u64 = 32;
/// In `state`: bytes of a character (3 bits), and whether the text is compact and ASCII.
const KIND_SHIFT: u64 = 2;
const KIND_MASK: u64 = 7;
const COMPACT: u64 = 1 << 5;
const ASCII: u64 = 1 << 6;

/// A record of the ring.
#[repr(C, align(8))]
struct Record<const FILE: usize, const NAME: usize, const LINES: usize> {
    header: ObituaryHeader,
    head: [u8; MAX_HEAD],
    file: [u8; FILE],
    name: [u8; NAME],
    lines: [u8; LINES],
}

type Small = Record<{ SMALL.file }, { SMALL.name }, { SMALL.lines }>;
type Large = Record<{ LARGE.file }, { LARGE.name }, { LARGE.lines }>;

const _: () = assert!(size_of::<Small>() == SMALL.record());
const _: () = assert!(size_of::<Large>() == LARGE.record());

/// Sends the obituary of the code object at `code`; gives its stamp, 0 when there is none.
#[inline(always)]
pub(super) fn send(stats: &mut Stats, key: ThreadKey, code: u64) -> u64 {
    // SAFETY: the entry is plain integers.
    let Some(process) = (unsafe { PROCESSES.get(key.tgid()) }) else {
        return 0;
    };
    if process.python == 0 {
        return 0;
    }
    let Some(python) = PYTHONS.get(process.python - 1) else {
        return 0;
    };
    if python.code_head == 0 {
        return 0;
    }
    // SAFETY: a helper without arguments.
    let stamp = unsafe { bpf_ktime_get_ns() };
    let mut header = ObituaryHeader {
        addr: code,
        stamp,
        file: 0,
        name: 0,
        lines: 0,
        tgid: key.tgid(),
        head_size: u32::from(python.code_head),
        file_size: 0,
        name_size: 0,
        lines_size: 0,
        reserved: 0,
    };
    measure(&mut header, python);
    let sent = if fits(&header, SMALL) {
        send_as::<{ SMALL.file }, { SMALL.name }, { SMALL.lines }>(stats, &header)
    } else if fits(&header, LARGE) {
        send_as::<{ LARGE.file }, { LARGE.name }, { LARGE.lines }>(stats, &header)
    } else {
        count(&mut stats.obituaries_unread);
        false
    };
    if sent { stamp } else { 0 }
}

/// Finds the parts and their sizes. A text without a size could not be read, or is in no form that is copied.
#[inline(always)]
fn measure(header: &mut ObituaryHeader, python: &Python) {
    let at = |offset: u16| header.addr.wrapping_add(u64::from(offset));
    let (file, name, lines) = (
        at(python.code_file),
        at(python.code_name),
        at(python.code_lines),
    );
    read::user_word(&mut header.file, file);
    read::user_word(&mut header.name, name);
    read::user_word(&mut header.lines, lines);
    header.file_size = text_size(header.file, python);
    header.name_size = text_size(header.name, python);
    header.lines_size = lines_size(header.lines);
}

/// Bytes of a compact `str`; 0 when it is none or far too large.
#[inline(always)]
fn text_size(text: u64, python: &Python) -> u32 {
    let mut length = 0;
    let mut state = 0;
    if !read::user_word(&mut length, text.wrapping_add(LENGTH))
        || !read::user_word(&mut state, text.wrapping_add(STATE))
        || state & COMPACT == 0
        || length > LARGE.file as u64
    {
        return 0;
    }
    let head = if state & ASCII != 0 {
        python.ascii_text
    } else {
        python.wide_text
    };
    u32::from(head) + (length * (state >> KIND_SHIFT & KIND_MASK)) as u32
}

/// Bytes of the `bytes` object with the lines, or of its head when it is too large.
#[inline(always)]
fn lines_size(lines: u64) -> u32 {
    let mut length = 0;
    if !read::user_word(&mut length, lines.wrapping_add(LENGTH)) {
        return 0;
    }
    if length < (LARGE.lines - BYTES_HEAD) as u64 {
        BYTES_HEAD as u32 + length as u32
    } else {
        BYTES_HEAD as u32
    }
}

#[inline(always)]
fn fits(header: &ObituaryHeader, slots: Slots) -> bool {
    let fits = |size: u32, slot: usize| size != 0 && (size as usize) < slot;
    fits(header.file_size, slots.file)
        && fits(header.name_size, slots.name)
        && fits(header.lines_size, slots.lines)
}

#[inline(always)]
fn send_as<const FILE: usize, const NAME: usize, const LINES: usize>(
    stats: &mut Stats,
    header: &ObituaryHeader,
) -> bool {
    let Some(mut entry) = OBITUARIES.reserve::<Record<FILE, NAME, LINES>>(0) else {
        count(&mut stats.obituaries_lost);
        return false;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: the record is the ring's and has room for the type, of which every byte that is read is written first. It
    // holds plain bytes.
    let is_whole = unsafe {
        ptr::write(&raw mut (*record).header, *header);
        let header = &raw const (*record).header;
        copy(
            &raw mut (*record).head,
            &raw const (*header).head_size,
            (*header).addr,
        ) && copy(
            &raw mut (*record).file,
            &raw const (*header).file_size,
            (*header).file,
        ) && copy(
            &raw mut (*record).name,
            &raw const (*header).name_size,
            (*header).name,
        ) && copy(
            &raw mut (*record).lines,
            &raw const (*header).lines_size,
            (*header).lines,
        )
    };
    if is_whole {
        entry.submit(u64::from(BPF_RB_NO_WAKEUP));
        count(&mut stats.obituaries_sent);
    } else {
        entry.discard(u64::from(BPF_RB_NO_WAKEUP));
        count(&mut stats.obituaries_unread);
    }
    is_whole
}

/// Copies a part into its slot.
///
/// # Safety
/// Both pointers must be into a record.
#[inline(always)]
unsafe fn copy<const SLOT: usize>(slot: *mut [u8; SLOT], size: *const u32, from: u64) -> bool {
    // Volatile, so that the mask stays: verifiers before 5.16 forget the bound of a number that has been on the stack.
    // SAFETY: by the contract; the mask keeps the size below the slot's, a power of two.
    unsafe {
        let size = ptr::read_volatile(size) & (SLOT as u32 - 1);
        bpf_probe_read_user(slot.cast(), size, from as *const c_void) == 0
    }
}
