//! Takes breakpoints out that nobody wants.
//!
//! A probe that the kernel has failed to remove is still in its list, with nobody who wants its hits. To register another
//! at the same place of the same file finds it; to remove that one, with no signal pending, walks all processes that map
//! the file and takes the breakpoint out wherever no other probe wants it. Probes of other tracers, and of another
//! memtrace, stay.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
};

use aya_obj::generated::bpf_insn;

use super::message::Watched;
use crate::{
    ids::Pid,
    probe::{link, program::ATTACH_MULTI, sys},
};

/// `BPF_ALU64 | BPF_MOV | BPF_K` and `BPF_JMP | BPF_EXIT`: a program that returns 0.
const IDLE: [u8; 2] = [0xb7, 0x95];

/// Registers a probe of this process at each place, and removes it.
///
/// Where the kernel can, by one link for a file, which goes in 30-40 ms. A perf event takes twice that for each place.
pub(super) fn heal(files: &[Watched]) {
    let idle = load_idle().ok();
    let events = link::uprobe_pmu().ok();
    let own = Pid(std::process::id());
    for Watched { file, points } in files {
        let path = OsString::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let linked = idle
            .as_ref()
            .ok_or(io::ErrorKind::Unsupported.into())
            .and_then(|idle| link_all(idle.as_fd(), &path, points, own));
        match (linked, events) {
            (Ok(link), _) => drop(link),
            (Err(_), Some(source)) => {
                for point in points {
                    // A place that cannot be probed has no breakpoint.
                    drop(sys::open_uprobe(source, &path, *point, own, false));
                }
            }
            (Err(_), None) => {}
        }
    }
}

/// A program for the links; the guard's own calls may run it.
fn load_idle() -> io::Result<OwnedFd> {
    let instructions = IDLE.map(|code| bpf_insn {
        code,
        _bitfield_align_1: [],
        _bitfield_1: bpf_insn::new_bitfield_1(0, 0),
        off: 0,
        imm: 0,
    });
    let load = sys::ProgramLoad {
        name: "idle",
        attach_type: ATTACH_MULTI,
        instructions: &instructions,
        btf: None,
    };
    sys::load_program(&load, &mut [])
}

fn link_all(
    program: BorrowedFd<'_>,
    path: &OsStr,
    points: &[u64],
    pid: Pid,
) -> io::Result<OwnedFd> {
    let cookies = vec![0; points.len()];
    sys::link_uprobes(program, ATTACH_MULTI, path, (points, &cookies), pid, false)
}
