//! The bare floor: an empty BPF program on malloc's and free's best instructions, nothing else.
//!
//! Made with three raw system calls, so that nothing of what is measured takes part in the measure.

use std::{
    ffi::CString,
    fs,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use memtrace_tests::procfs;
use object::{Object as _, ObjectSegment as _, ObjectSymbol as _};

/// `bpf_cmd` of include/uapi/linux/bpf.h.
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_LINK_CREATE: libc::c_int = 28;
/// `bpf_prog_type` and `bpf_attach_type`.
const BPF_PROG_TYPE_KPROBE: u32 = 2;
const BPF_TRACE_UPROBE_MULTI: u32 = 48;

/// The link; closing it takes the probes off.
pub(crate) struct Floor {
    _link: OwnedFd,
}

/// What `BPF_PROG_LOAD` reads, up to the last field that is set.
#[repr(C)]
#[derive(Default)]
struct LoadAttributes {
    prog_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log: [u32; 4],
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    expected_attach_type: u32,
}

/// What `BPF_LINK_CREATE` reads for a uprobe_multi link.
#[repr(C)]
#[derive(Default)]
struct LinkAttributes {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    path: u64,
    offsets: u64,
    counters: u64,
    cookies: u64,
    count: u32,
    multi_flags: u32,
    pid: u32,
    padding: u32,
}

impl Floor {
    /// Puts the empty program on a process's libc.
    pub(crate) fn attach(pid: u32) -> Result<Self> {
        let is_libc = |path: &str| {
            Path::new(path)
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("libc.so"))
        };
        let mappings = procfs::mappings(pid)?;
        let libc = mappings
            .iter()
            .find(|mapping| is_libc(&mapping.path))
            .context("no libc")?;
        let program = load_empty()?;
        let offsets = [
            best_instruction(&libc.path, "malloc")?,
            best_instruction(&libc.path, "free")?,
        ];
        Ok(Self {
            _link: link(&program, &libc.path, &offsets, pid)?,
        })
    }
}

/// File offset of the first instruction of a function that the kernel emulates instead of single-stepping.
fn best_instruction(path: &str, function: &str) -> Result<u64> {
    let data = fs::read(path)?;
    let file = object::File::parse(&*data)?;
    let symbol = file
        .dynamic_symbols()
        .find(|symbol| symbol.is_definition() && symbol.name() == Ok(function));
    let address = symbol
        .with_context(|| format!("no `{function}` in {path}"))?
        .address();
    let segment = file
        .segments()
        .find(|s| (s.address()..s.address() + s.size()).contains(&address));
    let segment = segment.context("a function outside all segments")?;
    let offset = segment.file_range().0 + (address - segment.address());
    let code = &data[usize::try_from(offset)?..][..8];
    // endbr64 is single-stepped: the next one counts.
    let (code, skipped) = code
        .strip_prefix(&[0xf3, 0x0f, 0x1e, 0xfa])
        .map_or((code, 0), |rest| (rest, 4));
    match code {
        // push of a register
        [0x50..=0x57, ..] | [0x41, 0x50..=0x57, ..] => Ok(offset + skipped),
        // test of a register, then a conditional jump
        [0x48, 0x85, _, 0x70..=0x7f | 0x0f, ..] => Ok(offset + skipped + 3),
        other => bail!(
            "`{function}` of {path} begins with {other:02x?}, which this measure does not know"
        ),
    }
}

/// Loads `r0 = 0; exit`.
fn load_empty() -> Result<OwnedFd> {
    let instructions: [u64; 2] = [0xb7, 0x95];
    let attributes = LoadAttributes {
        prog_type: BPF_PROG_TYPE_KPROBE,
        instruction_count: 2,
        instructions: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        expected_attach_type: BPF_TRACE_UPROBE_MULTI,
        ..LoadAttributes::default()
    };
    bpf(BPF_PROG_LOAD, &attributes).context("failed to load the empty program")
}

fn link(program: &OwnedFd, path: &str, offsets: &[u64], pid: u32) -> Result<OwnedFd> {
    let path = CString::new(path)?;
    let attributes = LinkAttributes {
        program: program.as_raw_fd().cast_unsigned(),
        attach_type: BPF_TRACE_UPROBE_MULTI,
        path: path.as_ptr() as u64,
        offsets: offsets.as_ptr() as u64,
        count: u32::try_from(offsets.len())?,
        pid,
        ..LinkAttributes::default()
    };
    bpf(BPF_LINK_CREATE, &attributes)
        .context("failed to attach the empty program (the kernel must be 6.6 or newer)")
}

/// The system call, for commands that give a descriptor.
fn bpf<T>(command: libc::c_int, attributes: &T) -> Result<OwnedFd> {
    // SAFETY: the kernel reads `size` bytes of `attributes`, which outlive the call, as do all they point to.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    // SAFETY: both commands give a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(result)?) })
}
