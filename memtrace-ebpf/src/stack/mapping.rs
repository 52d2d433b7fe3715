//! Finds the executable mapping of a program counter: in the process's own run of mappings, or by asking the kernel.
//!
//! The kernel is asked when the collector has not caught up with the process: after a fork, an exec or a `dlopen`. It
//! names the file, and the file's rows may be loaded already because another process maps it.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_find_vma, bpf_get_current_task_btf};
use memtrace_common::{
    limits::{MAPPING_SEARCH_STEPS, MAX_SEGMENTS},
    notice::{self, Notice},
    stack,
    unwind::{FileKey, Mapping, Object},
};

use super::walk::Walk;
use crate::{
    emit,
    maps::{MAPPINGS, OBJECTS, OFFSETS, PROCESSES},
    read,
};

/// Puts the mapping of `addr` into the walk, or says why the walk ends here.
#[inline(always)]
pub(super) fn find<const FIND_VMA: bool>(walk: &mut Walk, addr: u64) -> Result<(), u8> {
    if let Some(mapping) = known(walk, addr) {
        walk.mapping = *mapping;
        return if mapping.object != 0 {
            Ok(())
        } else {
            Err(mapping.reason as u8)
        };
    }
    let found = if FIND_VMA {
        ask_kernel(walk, addr)
    } else {
        Err(stack::CUT_NOT_LOADED)
    };
    walk.forget_mappings();
    request_refresh(walk.event.tgid, addr);
    found
}

/// Looks in the process's run of mappings.
#[inline(always)]
fn known(walk: &Walk, addr: u64) -> Option<&'static Mapping> {
    let base = walk.mapping_base;
    let mut low = 0;
    let mut high = walk.mapping_count;
    for _ in 0..MAPPING_SEARCH_STEPS {
        if low >= high {
            break;
        }
        let middle = (low + high) / 2;
        if MAPPINGS.get(base + middle)?.start <= addr {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    if low == 0 {
        return None;
    }
    let mapping = MAPPINGS.get(base + low - 1)?;
    (addr >= mapping.start && addr < mapping.end).then_some(mapping)
}

/// What the kernel says of an address.
#[repr(C)]
#[derive(Default)]
struct Vma {
    start: u64,
    end: u64,
    page_offset: u64,
    key: FileKey,
}

/// Asks the kernel for the mapping and looks its file up among the loaded objects.
#[inline(always)]
fn ask_kernel(walk: &mut Walk, addr: u64) -> Result<(), u8> {
    if let Some(stats) = emit::stats() {
        stats.vma_lookups += 1;
    }
    let mut vma = Vma::default();
    let callback: unsafe extern "C" fn(*mut c_void, *mut c_void, *mut Vma) -> i64 = on_vma;
    // SAFETY: the callback has the form that the helper calls, and `vma` outlives the call.
    let error = unsafe {
        bpf_find_vma(
            bpf_get_current_task_btf(),
            addr,
            callback as *mut c_void,
            (&raw mut vma).cast(),
            0,
        )
    };
    if error == -EBUSY {
        return Err(stack::CUT_NOT_LOADED);
    }
    if error != 0 || vma.end == 0 || vma.key.ino == 0 {
        return Err(stack::CUT_NO_MAPPING);
    }
    // SAFETY: objects are replaced as a whole, never changed in place.
    let object = unsafe { OBJECTS.get(vma.key) }.ok_or(stack::CUT_NOT_LOADED)?;
    place(walk, &vma, object, addr).ok_or(stack::CUT_NO_MAPPING)
}

/// `-EBUSY`: the mappings are being changed right now.
const EBUSY: i64 = 16;

unsafe extern "C" fn on_vma(_task: *mut c_void, vma: *mut c_void, found: *mut Vma) -> i64 {
    let offsets = OFFSETS.load();
    let vma = vma as u64;
    // SAFETY: `bpf_find_vma` hands on the pointer it was given.
    let found = unsafe { &mut *found };
    let (Some(start), Some(end), Some(page_offset), Some(file)) = (
        read::kernel::<u64>(vma, offsets.vma_start),
        read::kernel::<u64>(vma, offsets.vma_end),
        read::kernel::<u64>(vma, offsets.vma_pgoff),
        read::kernel::<u64>(vma, offsets.vma_file),
    ) else {
        return 0;
    };
    found.start = start;
    found.page_offset = page_offset;
    found.end = end;
    if file == 0 {
        return 0;
    }
    let Some(inode) = read::kernel::<u64>(file, offsets.file_inode) else {
        return 0;
    };
    let Some(super_block) = read::kernel::<u64>(inode, offsets.inode_sb) else {
        return 0;
    };
    let (Some(ino), Some(dev)) = (
        read::kernel::<u64>(inode, offsets.inode_ino),
        read::kernel::<u32>(super_block, offsets.super_dev),
    ) else {
        return 0;
    };
    found.key = FileKey {
        dev: u64::from(dev),
        ino,
    };
    0
}

/// Computes the mapping's bias from the segment that holds `addr`.
#[inline(always)]
fn place(walk: &mut Walk, vma: &Vma, object: &Object, addr: u64) -> Option<()> {
    let file_off = addr
        .wrapping_sub(vma.start)
        .wrapping_add(vma.page_offset << 12);
    for index in 0..MAX_SEGMENTS {
        let segment = &object.segments[index];
        if file_off.wrapping_sub(segment.file_off) < segment.size {
            // rel = file_off - segment.file_off + segment.rel, and bias = addr - rel.
            let rel = file_off
                .wrapping_sub(segment.file_off)
                .wrapping_add(segment.rel);
            walk.mapping.start = vma.start;
            walk.mapping.end = vma.end;
            walk.mapping.bias = addr.wrapping_sub(rel);
            walk.mapping.object = object.id;
            walk.mapping.page_base = object.page_base;
            walk.mapping.page_count = object.page_count;
            walk.mapping.reason = object.reason;
            return Some(());
        }
    }
    None
}

/// Asks the session to look at the process's mappings again, once until it has answered.
#[inline(always)]
fn request_refresh(tgid: u32, addr: u64) {
    let Some(process) = PROCESSES.get_ptr_mut(tgid) else {
        return;
    };
    // SAFETY: the pointer is the map's. Two tasks that race here only send one notice too many.
    let process = unsafe { &mut *process };
    if process.maps_requested != 0 {
        return;
    }
    process.maps_requested = 1;
    if let Some(stats) = emit::stats() {
        let notice = Notice {
            kind: notice::NEED_MAPS,
            tgid,
            parent: 0,
            flags: 0,
            addr,
            comm: [0; 16],
        };
        emit::notice(stats, &notice);
    }
}
