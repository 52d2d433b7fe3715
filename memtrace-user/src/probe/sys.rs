//! The system calls of this layer that aya does not make: `bpf(2)` for programs and links with an attach type of our
//! choice, `perf_event_open(2)`, and a file system of our own.
//!
//! All unsafe code of the layer but the memory maps and the guard's process stands here.

use std::{
    ffi::{CStr, CString, OsStr},
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
};

use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_insn, bpf_prog_info};

use crate::ids::Pid;

/// `BPF_F_UPROBE_MULTI_RETURN` (include/uapi/linux/bpf.h).
const UPROBE_MULTI_RETURN: u32 = 1;

/// `BPF_MAP_TYPE_PROG_ARRAY`
const MAP_TYPE_PROG_ARRAY: u32 = 3;
/// `FSCONFIG_CMD_CREATE` (include/uapi/linux/mount.h)
const FSCONFIG_CREATE: libc::c_ulong = 6;
/// `FSOPEN_CLOEXEC` and `FSMOUNT_CLOEXEC`
const FS_CLOEXEC: libc::c_ulong = 1;

/// `BPF_PROG_TYPE_KPROBE`: the type of every uprobe program.
const PROGRAM_TYPE_KPROBE: u32 = 2;

/// `PERF_TYPE_TRACEPOINT`
const PERF_TYPE_TRACEPOINT: u32 = 2;
/// `PERF_FLAG_FD_CLOEXEC`
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;
/// `PERF_EVENT_IOC_ENABLE`, `_IO('$', 0)`
const PERF_IOC_ENABLE: libc::c_ulong = 0x2400;
/// `PERF_EVENT_IOC_SET_BPF`, `_IOW('$', 8, __u32)`
const PERF_IOC_SET_BPF: libc::c_ulong = 0x4004_2408;

/// `bpf(2)` with a command that returns a descriptor.
fn bpf_fd(command: bpf_cmd, attr: &bpf_attr) -> io::Result<OwnedFd> {
    // SAFETY: the attribute lives until the call returns and every pointer in it is valid for the length beside it:
    // the callers below build them from slices.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_int,
            std::ptr::from_ref(attr),
            size_of::<bpf_attr>(),
        )
    };
    owned(fd)
}

/// An attribute of zeroes, which is every command's default.
fn zeroed_attr() -> bpf_attr {
    // SAFETY: the union's members are plain integers and arrays of them.
    unsafe { std::mem::zeroed() }
}

/// A program to load.
#[derive(Debug)]
pub(super) struct ProgramLoad<'a> {
    pub(super) name: &'a str,
    pub(super) attach_type: u32,
    pub(super) instructions: &'a [bpf_insn],
    /// The object's type information, with `functions` describing the program's functions.
    pub(super) btf: Option<(BorrowedFd<'a>, &'a [u8], u32)>,
}

/// Loads a uprobe program. On refusal the verifier's log is returned with the error when `log` asks for it.
pub(super) fn load_program(load: &ProgramLoad<'_>, log: &mut [u8]) -> io::Result<OwnedFd> {
    let license = c"Dual MIT/GPL";
    let mut attr = zeroed_attr();
    // SAFETY: writes to a union of plain integers; this is the member that `BPF_PROG_LOAD` reads.
    let program = unsafe { &mut attr.__bindgen_anon_3 };
    program.prog_type = PROGRAM_TYPE_KPROBE;
    program.expected_attach_type = load.attach_type;
    program.insns = load.instructions.as_ptr() as u64;
    program.insn_cnt = load.instructions.len() as u32;
    program.license = license.as_ptr() as u64;
    for (to, from) in program.prog_name.iter_mut().take(15).zip(load.name.bytes()) {
        *to = from as libc::c_char;
    }
    if let Some((btf, functions, record_size)) = load.btf {
        program.prog_btf_fd = btf.as_raw_fd() as u32;
        program.func_info = functions.as_ptr() as u64;
        program.func_info_rec_size = record_size;
        program.func_info_cnt = functions.len() as u32 / record_size.max(1);
    }
    if !log.is_empty() {
        program.log_level = 1;
        program.log_buf = log.as_mut_ptr() as u64;
        program.log_size = log.len() as u32;
    }
    bpf_fd(bpf_cmd::BPF_PROG_LOAD, &attr)
}

/// Loads type information.
pub(super) fn load_btf(btf: &[u8]) -> io::Result<OwnedFd> {
    let mut attr = zeroed_attr();
    // SAFETY: as above, for `BPF_BTF_LOAD`.
    let load = unsafe { &mut attr.__bindgen_anon_7 };
    load.btf = btf.as_ptr() as u64;
    load.btf_size = btf.len() as u32;
    bpf_fd(bpf_cmd::BPF_BTF_LOAD, &attr)
}

/// Makes a program array with one entry.
pub(super) fn make_program_array() -> io::Result<OwnedFd> {
    let mut attr = zeroed_attr();
    // SAFETY: as above, for `BPF_MAP_CREATE`.
    let map = unsafe { &mut attr.__bindgen_anon_1 };
    map.map_type = MAP_TYPE_PROG_ARRAY;
    (map.key_size, map.value_size, map.max_entries) = (4, 4, 1);
    bpf_fd(bpf_cmd::BPF_MAP_CREATE, &attr)
}

/// How often the kernel has not run a program because another run was under way on the CPU (`recursion_misses`); 0 where
/// it does not count (before 5.12; for perf tracepoints before 6.7).
pub(super) fn skipped_runs(program: BorrowedFd<'_>) -> io::Result<u64> {
    // SAFETY: plain integers and arrays of them.
    let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
    let mut attr = zeroed_attr();
    attr.info.bpf_fd = program.as_raw_fd() as u32;
    attr.info.info_len = size_of::<bpf_prog_info>() as u32;
    attr.info.info = std::ptr::from_mut(&mut info) as u64;
    // SAFETY: attribute and structure live until the call returns, and the attribute says the structure's size.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            bpf_cmd::BPF_OBJ_GET_INFO_BY_FD as libc::c_int,
            std::ptr::from_ref(&attr),
            size_of::<bpf_attr>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(info.recursion_misses)
}

/// Runs a raw tracepoint's program once, without the tracepoint, and gives what it returns.
pub(super) fn run_program(program: BorrowedFd<'_>) -> io::Result<i32> {
    let mut attr = zeroed_attr();
    attr.test.prog_fd = program.as_raw_fd() as u32;
    // SAFETY: the attribute lives until the call returns; it points nowhere.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            bpf_cmd::BPF_PROG_TEST_RUN as libc::c_int,
            std::ptr::from_mut(&mut attr),
            size_of::<bpf_attr>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has filled this member.
    Ok(unsafe { attr.test.retval }.cast_signed())
}

/// A mount of a file system without a device that nobody else can see; it ends with its descriptor. Gives its root.
pub(super) fn mount_privately(file_system: &CStr) -> io::Result<OwnedFd> {
    let none = std::ptr::null::<u8>();
    // SAFETY: the name lives until the call returns.
    let context =
        owned(unsafe { libc::syscall(libc::SYS_fsopen, file_system.as_ptr(), FS_CLOEXEC) })?;
    let fd = context.as_raw_fd();
    // SAFETY: this command takes neither key nor value.
    if unsafe { libc::syscall(libc::SYS_fsconfig, fd, FSCONFIG_CREATE, none, none, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call takes integers only.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, fd, FS_CLOEXEC, 0_u32) })
}

/// Puts a program into a program array.
pub(super) fn set_program(
    array: BorrowedFd<'_>,
    index: u32,
    program: BorrowedFd<'_>,
) -> io::Result<()> {
    let value = program.as_raw_fd();
    let mut attr = zeroed_attr();
    // SAFETY: as above, for `BPF_MAP_UPDATE_ELEM`.
    let update = unsafe { &mut attr.__bindgen_anon_2 };
    update.map_fd = array.as_raw_fd() as u32;
    update.key = std::ptr::from_ref(&index) as u64;
    update.__bindgen_anon_1.value = std::ptr::from_ref(&value) as u64;
    // SAFETY: key and value are 4 bytes, which is what a program array has, and live until the call returns.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            bpf_cmd::BPF_MAP_UPDATE_ELEM as libc::c_int,
            std::ptr::from_ref(&attr),
            size_of::<bpf_attr>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// The part of `bpf_attr` that `BPF_LINK_CREATE` reads for uprobes (include/uapi/linux/bpf.h, `link_create.uprobe_multi`).
#[repr(C)]
#[derive(Debug, Default)]
struct UprobeMultiAttr {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    path: u64,
    offsets: u64,
    ref_ctr_offsets: u64,
    cookies: u64,
    count: u32,
    multi_flags: u32,
    pid: u32,
    reserved: u32,
}

/// Attaches a program to many functions of one file in one process. `offsets` and `cookies` have one length.
pub(super) fn link_uprobes(
    program: BorrowedFd<'_>,
    attach_type: u32,
    path: &OsStr,
    (offsets, cookies): (&[u64], &[u64]),
    pid: Pid,
    at_return: bool,
) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_bytes())?;
    let link = UprobeMultiAttr {
        prog_fd: program.as_raw_fd() as u32,
        attach_type,
        path: path.as_ptr() as u64,
        offsets: offsets.as_ptr() as u64,
        cookies: cookies.as_ptr() as u64,
        count: offsets.len().min(cookies.len()) as u32,
        multi_flags: if at_return { UPROBE_MULTI_RETURN } else { 0 },
        pid: pid.0,
        ..UprobeMultiAttr::default()
    };
    let mut attr = zeroed_attr();
    // SAFETY: the union is larger than what is copied, and both are plain integers.
    unsafe {
        std::ptr::copy_nonoverlapping(
            std::ptr::from_ref(&link).cast::<u8>(),
            std::ptr::from_mut(&mut attr).cast::<u8>(),
            size_of::<UprobeMultiAttr>(),
        );
    }
    bpf_fd(bpf_cmd::BPF_LINK_CREATE, &attr)
}

/// `struct perf_event_attr` up to `config2` (`PERF_ATTR_SIZE_VER1`, 72 bytes); the rest is not needed for a uprobe.
#[repr(C)]
#[derive(Debug, Default)]
struct PerfEventAttr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    path: u64,
    offset: u64,
}

/// Opens a tracepoint by its number. The processor is a formality: the programs of a tracepoint run on all.
pub(super) fn open_tracepoint(id: u64) -> io::Result<OwnedFd> {
    let attr = PerfEventAttr {
        kind: PERF_TYPE_TRACEPOINT,
        size: size_of::<PerfEventAttr>() as u32,
        config: id,
        ..PerfEventAttr::default()
    };
    perf_event_open(&attr, (-1, 0))
}

/// Opens one uprobe in one process. `pmu` is the number and the return bit of the kernel's `uprobe` source.
pub(super) fn open_uprobe(
    pmu: (u32, u32),
    path: &OsStr,
    offset: u64,
    pid: Pid,
    at_return: bool,
) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_bytes())?;
    let attr = PerfEventAttr {
        kind: pmu.0,
        size: size_of::<PerfEventAttr>() as u32,
        config: if at_return { 1 << pmu.1 } else { 0 },
        path: path.as_ptr() as u64,
        offset,
        ..PerfEventAttr::default()
    };
    perf_event_open(&attr, (pid.0 as libc::pid_t, -1))
}

/// `perf_event_open(2)` for a process and a processor, -1 = any. What the attribute points to lives in the caller.
fn perf_event_open(
    attr: &PerfEventAttr,
    (pid, cpu): (libc::pid_t, libc::c_int),
) -> io::Result<OwnedFd> {
    // SAFETY: the attribute lives until the call returns and says its size.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            std::ptr::from_ref(attr),
            pid,
            cpu,
            -1 as libc::c_int,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    owned(fd)
}

/// Takes a descriptor that a system call has returned.
fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has returned a new descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Runs a program at every hit of a perf event and switches the event on.
pub(super) fn run_at(event: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    for (request, argument) in [
        (PERF_IOC_SET_BPF, program.as_raw_fd()),
        (PERF_IOC_ENABLE, 0),
    ] {
        // SAFETY: both requests take an integer.
        if unsafe { libc::ioctl(event.as_raw_fd(), request, argument) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
