//! Which CPython a file is.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use object::{LittleEndian as LE, U64, pod::from_bytes};

use super::{
    file::{File, Place},
    version::Version,
};

/// Bytes of `Py_GetVersion` that are decoded: it has about 60.
const MAX_GET_VERSION: u64 = 256;
/// Longest version text: `3.14.0rc1+` and the like.
const MAX_TEXT: u64 = 16;

/// What 3.13 and newer begin `_PyRuntime` with (`_Py_DebugOffsets`).
const COOKIE: &[u8; 8] = b"xdebugpy";

/// The version by `Py_Version` (3.11 and newer), which is `PY_VERSION_HEX`.
pub(super) fn by_variable(file: File<'_>, variable: Place) -> Option<Version> {
    // The symbol says 8 bytes (an `unsigned long`).
    let hex = u32::try_from(file.word(variable.rel)?).ok()?;
    Some(Version::from_hex(hex)).filter(|version| version.major == 3)
}

/// The version by the text that `Py_GetVersion` puts together: one of the addresses it loads is that of
/// `PY_VERSION`.
pub(super) fn by_function(file: File<'_>, function: Place) -> Option<Version> {
    let size = match function.size {
        0 => MAX_GET_VERSION,
        size => size.min(MAX_GET_VERSION),
    };
    file.instructions(function.rel..function.rel.checked_add(size)?)
        .iter()
        .filter_map(|instruction| loaded_address(file, instruction))
        .find_map(|rel| Version::from_text(&file.bytes(rel, MAX_TEXT)?))
}

/// The version by the name of the file: `libpython3.10.so.1.0`, `python3.8`. Only the series.
pub(super) fn by_name(name: &str) -> Option<Version> {
    let (_, rest) = name.split_once("python")?;
    let mut numbers = rest.split(|letter: char| !letter.is_ascii_digit());
    let (major, minor) = (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
    Some(Version {
        major,
        minor,
        micro: None,
    })
}

/// The version and whether the build is free-threaded, by the head of `_PyRuntime`. None where there is no cookie.
pub(super) fn by_cookie(head: &[u8]) -> Option<(Version, bool)> {
    let rest = head.strip_prefix(COOKIE)?;
    let (words, _) = from_bytes::<[U64<LE>; 2]>(rest).ok()?;
    let [hex, free_threaded] = words.map(|word| word.get(LE));
    let version = Version::from_hex(u32::try_from(hex).ok()?);
    Some((version, free_threaded != 0))
}

/// The address, relative to the load base, that an instruction puts into a register: by itself in code that may be
/// loaded anywhere, as a number in code that may not.
fn loaded_address(file: File<'_>, instruction: &Instruction) -> Option<u64> {
    match (instruction.mnemonic(), instruction.op1_kind()) {
        (Mnemonic::Lea, OpKind::Memory) if instruction.memory_base() == Register::RIP => {
            Some(instruction.ip_rel_memory_address())
        }
        (Mnemonic::Mov, OpKind::Immediate32 | OpKind::Immediate32to64 | OpKind::Immediate64) => {
            instruction.immediate(1).checked_sub(file.elf.base)
        }
        _ => None,
    }
}
