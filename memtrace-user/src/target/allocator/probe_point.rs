//! The instruction of a function that a probe is cheapest on.
//!
//! A probe costs one trap when the kernel emulates the instruction under it, and a second exception when it
//! has to be stepped out of line: 0.6 against 10 us where this was measured. Which instructions are emulated is
//! written in `arch/x86/kernel/uprobes.c`: `push_setup_xol_ops` (one-byte `push`, with no prefix but `41`) and
//! `branch_setup_xol_ops` (`call`, `jmp`, `jcc` with a relative target, one-byte `nop`, with any prefix but `66`).
//! Longer `nop`s are emulated from Linux 6.18 only and so are not used.
//!
//! The first such instruction may stand a little behind the function's first byte. It is taken when every
//! call passes it exactly once and it still sees what the first byte would have seen:
//! it is reached in a straight line, no branch of the function leads back to it or in front of it, and the
//! registers of the arguments (and, when the return is probed too, the stack pointer, under which the kernel finds
//! the return address) are not yet written.

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, OpKind,
    Register,
};
use memtrace_common::kind;

use super::routing::writes;

/// Instructions that may stand before the point.
const MAX_SKIPPED: usize = 32;

/// What a probe on an instruction costs the traced process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// One trap: the kernel emulates the instruction.
    Emulated,
    /// Two exceptions: the kernel steps over the instruction out of line.
    SingleStep,
}

/// Where to put a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbePoint {
    /// Offset of the instruction in the file.
    pub file_off: u64,
    /// What a hit costs.
    pub cost: Cost,
    /// Bytes between the function's first byte and the point.
    pub skipped_bytes: u32,
}

/// The best point in the function whose first byte lies at `file_off`, for a probe of `kind`
/// (`memtrace_common::kind`); none when the kernel would refuse any point that sees what the probe needs.
///
/// `code` is the whole function, from its first byte.
#[must_use]
pub fn choose(code: &[u8], file_off: u64, kind: u32) -> Option<ProbePoint> {
    let mut fallback = None;
    let straight = straight_line(code, kind);
    let limit = first_branch_target(code, straight.last().map_or(0, Instruction::next_ip));
    for instruction in straight {
        let skipped = instruction.ip();
        let bytes = code.get(usize::try_from(skipped).ok()?..)?;
        if limit.is_some_and(|limit| skipped >= limit) {
            break;
        }
        if !is_probeable(&instruction, bytes) {
            continue;
        }
        let point = |cost| {
            Some(ProbePoint {
                file_off: file_off.checked_add(skipped)?,
                cost,
                skipped_bytes: u32::try_from(skipped).ok()?,
            })
        };
        if is_emulated(&instruction, bytes) {
            return point(Cost::Emulated);
        }
        fallback = fallback.or_else(|| point(Cost::SingleStep));
    }
    fallback
}

/// The instructions from the first byte on, up to the first that leaves the straight line (included) or
/// behind which the probe no longer sees what it needs. Addresses count from the first byte.
fn straight_line(code: &[u8], kind: u32) -> Vec<Instruction> {
    let mut facts = InstructionInfoFactory::new();
    let mut line = Vec::new();
    for instruction in &mut Decoder::new(64, code, DecoderOptions::NONE) {
        if instruction.is_invalid() || line.len() == MAX_SKIPPED {
            break;
        }
        line.push(instruction);
        let spoils = facts
            .info(&instruction)
            .used_registers()
            .iter()
            .any(|used| writes(used.access()) && is_needed(used.register(), kind));
        if spoils || instruction.flow_control() != FlowControl::Next {
            break;
        }
    }
    line
}

/// Whether a probe of `kind` reads `register`.
fn is_needed(register: Register, kind: u32) -> bool {
    let arguments: &[Register] = match kind {
        kind::MALLOC | kind::PVALLOC | kind::FREE | kind::FREE_OUTER => &[Register::RDI],
        kind::CALLOC | kind::REALLOC | kind::MEMALIGN => &[Register::RDI, Register::RSI],
        kind::REALLOCARRAY | kind::POSIX_MEMALIGN => &[Register::RDI, Register::RSI, Register::RDX],
        _ => &[],
    };
    let register = register.full_register();
    arguments.contains(&register) || (register == Register::RSP && kind::takes_return(kind))
}

/// The lowest place in front of `end`, but behind the first byte, that a branch of the function leads to.
///
/// A branch to the first byte itself is a new call in all but name. The sweep is linear: data between the
/// instructions could only make it more careful or, past the data, miss a branch for a few bytes.
fn first_branch_target(code: &[u8], end: u64) -> Option<u64> {
    Decoder::new(64, code, DecoderOptions::NONE)
        .iter()
        .filter(|instruction| {
            matches!(
                instruction.flow_control(),
                FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch
            )
        })
        .map(|instruction| instruction.near_branch_target())
        .filter(|target| (1..end).contains(target))
        .min()
}

/// Whether the kernel lets a probe be put on it (`uprobe_init_insn` in `arch/x86/kernel/uprobes.c`: no segment
/// override but `fs`/`gs`, no `lock`, nothing privileged, no VEX encodings, no breakpoints).
fn is_probeable(instruction: &Instruction, bytes: &[u8]) -> bool {
    let refused =
        legacy_prefixes(bytes).any(|prefix| matches!(prefix, 0x26 | 0x2e | 0x36 | 0x3e | 0xf0));
    let is_legacy = instruction.encoding() == iced_x86::EncodingKind::Legacy;
    let is_trap = matches!(
        instruction.flow_control(),
        FlowControl::Interrupt | FlowControl::Exception
    );
    is_legacy && !refused && !is_trap && !instruction.is_privileged() && !instruction.is_invalid()
}

/// Whether the kernel emulates it, given that a probe may be put on it.
fn is_emulated(instruction: &Instruction, bytes: &[u8]) -> bool {
    let is_push = matches!(bytes, [0x50..=0x57, ..] | [0x41, 0x50..=0x57, ..]);
    let is_nop = matches!(
        instruction.code(),
        Code::Nopw | Code::Nopd | Code::Nopq | Code::Pause
    );
    let is_relative = instruction.is_jmp_short_or_near()
        || instruction.is_jcc_short_or_near()
        || instruction.is_call_near();
    let narrowed = legacy_prefixes(bytes).any(|prefix| prefix == 0x66);
    is_push || is_nop || (is_relative && !narrowed)
}

/// The prefixes that stand before the opcode, REX left out.
fn legacy_prefixes(bytes: &[u8]) -> impl Iterator<Item = u8> {
    bytes.iter().copied().take_while(|byte| {
        matches!(
            byte,
            0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3
        )
    })
}
