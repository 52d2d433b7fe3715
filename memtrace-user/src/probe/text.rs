//! The probe object as text that can be specialised: one program, three ways to attach.
//!
//! aya creates the maps and loads the tracepoints. The uprobe programs are read a second time with aya-obj, because
//! aya cannot load a program for `uprobe_multi` or for sessions: maps are put in by descriptor, the calls that stand
//! for the program's situation (`memtrace_common::patch`) are replaced, and the result goes to `bpf(2)`.

use std::{
    collections::HashSet,
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
};

use aya::Ebpf;
use aya_obj::{Object, generated::bpf_insn};
use memtrace_common::patch;

use super::{aya_map_fd, sys};

/// `BPF_JMP | BPF_CALL`
const OPCODE_CALL: u8 = 0x85;
/// `BPF_ALU64 | BPF_MOV | BPF_K`
const OPCODE_MOVE: u8 = 0xb7;
/// `BPF_PSEUDO_KFUNC_CALL`
const SOURCE_KERNEL_FUNCTION: u8 = 2;
/// Number of the helper `bpf_get_attach_cookie`.
const HELPER_ATTACH_COOKIE: i32 = 174;
/// The longest verifier's log that 5.10 takes. Kernels before 6.4 end a load whose log does not fit with `ENOSPC`, which
/// hides the reason.
const LOG_BYTES: usize = (16 << 20) - 1;

/// What stands for a replaced call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replacement {
    /// The attach cookie.
    Cookie,
    /// A kernel function, by its number in the kernel's types.
    KernelFunction(u32),
    /// A constant.
    Constant(u32),
}

/// Why a program was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// The object inside this binary is damaged.
    #[error("failed to read the probe object")]
    Parse(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The object has no such program.
    #[error("the probe object has no program `{0}`")]
    NoProgram(String),
    /// The kernel refused it.
    #[error("the kernel refused program `{name}`: {log}")]
    Refused {
        /// The program.
        name: String,
        /// Its answer.
        #[source]
        source: io::Error,
        /// The end of the verifier's log.
        log: String,
    },
}

/// The map that [`Text`] makes anew for every form: the kernel binds a program array to the first kind of program that
/// names it, and lets no other kind use it.
const TAIL_CALLS: &str = "TAIL_CALLS";

/// The probe object, maps put in.
#[derive(Debug)]
pub(super) struct Text {
    object: Object,
    btf: Option<OwnedFd>,
    tail_calls: OwnedFd,
}

impl Text {
    /// Reads the object and puts the maps in: those that `ebpf` has created from it, and a program array of its own.
    pub(super) fn parse(bytes: &[u8], ebpf: &Ebpf) -> Result<Self, TextError> {
        let wrap = |error: Box<dyn std::error::Error + Send + Sync>| TextError::Parse(error);
        let mut object = Object::parse(bytes).map_err(|error| wrap(error.into()))?;
        let btf = load_btf(&mut object);
        let text_sections: HashSet<usize> = object
            .functions
            .keys()
            .map(|(section, _)| *section)
            .collect();
        let tail_calls = sys::make_program_array().map_err(|error| wrap(error.into()))?;
        let maps: Vec<_> = object
            .maps
            .iter()
            .filter_map(|(name, map)| {
                let fd = match name.as_str() {
                    TAIL_CALLS => tail_calls.as_raw_fd(),
                    _ => aya_map_fd(ebpf.map(name)?)?.as_raw_fd(),
                };
                Some((name.clone(), fd, map.clone()))
            })
            .collect();
        object
            .relocate_maps(
                maps.iter().map(|(name, fd, map)| (name.as_str(), *fd, map)),
                &text_sections,
            )
            .map_err(|error| wrap(error.into()))?;
        object
            .relocate_calls(&text_sections)
            .map_err(|error| wrap(error.into()))?;
        Ok(Self {
            object,
            btf,
            tail_calls,
        })
    }

    /// The program array that the programs name. The kernel empties it when its last descriptor is closed.
    pub(super) fn tail_calls(&self) -> BorrowedFd<'_> {
        self.tail_calls.as_fd()
    }

    /// Loads a program for `attach_type`, its calls replaced.
    pub(super) fn load(
        &self,
        name: &str,
        attach_type: u32,
        cookie: Replacement,
        is_return: Replacement,
    ) -> Result<OwnedFd, TextError> {
        let missing = || TextError::NoProgram(name.to_owned());
        let program = self.object.programs.get(name).ok_or_else(missing)?;
        let function = self
            .object
            .functions
            .get(&program.function_key())
            .ok_or_else(missing)?;
        let mut instructions = function.instructions.clone();
        replace_calls(&mut instructions, patch::CALL_COOKIE, cookie);
        replace_calls(&mut instructions, patch::CALL_IS_RETURN, is_return);
        let functions = function.func_info.func_info_bytes();
        let load = sys::ProgramLoad {
            name,
            attach_type,
            instructions: &instructions,
            btf: self.btf.as_ref().map(|btf| {
                (
                    btf.as_fd(),
                    functions.as_slice(),
                    function.func_info_rec_size as u32,
                )
            }),
        };
        // Without a log first: writing one makes the verifier several times slower.
        sys::load_program(&load, &mut []).or_else(|_| {
            let mut log = vec![0; LOG_BYTES];
            sys::load_program(&load, &mut log).map_err(|source| TextError::Refused {
                name: name.to_owned(),
                source,
                log: end_of_log(&log),
            })
        })
    }
}

/// Loads the object's own types, which programs with callbacks need. `None` where the kernel takes none.
fn load_btf(object: &mut Object) -> Option<OwnedFd> {
    let features = aya::features().btf()?;
    let bytes = object.fixup_and_sanitize_btf(features).ok()??.to_bytes();
    sys::load_btf(&bytes).ok()
}

/// Replaces every call to the number `call`.
fn replace_calls(instructions: &mut [bpf_insn], call: u32, replacement: Replacement) {
    for instruction in instructions {
        if instruction.code != OPCODE_CALL
            || instruction.src_reg() != 0
            || instruction.imm as u32 != call
        {
            continue;
        }
        match replacement {
            Replacement::Cookie => instruction.imm = HELPER_ATTACH_COOKIE,
            Replacement::KernelFunction(id) => {
                instruction.set_src_reg(SOURCE_KERNEL_FUNCTION);
                instruction.imm = id as i32;
            }
            Replacement::Constant(value) => {
                // r0 = value; a call's result register is 0 already.
                instruction.code = OPCODE_MOVE;
                instruction.imm = value as i32;
            }
        }
    }
}

/// The last lines of a verifier's log: the reason stands there. Behind its end lie remains of paths that the verifier
/// has found safe and overwritten.
fn end_of_log(log: &[u8]) -> String {
    let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
    let text = String::from_utf8_lossy(&log[..end]);
    let lines: Vec<_> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}
