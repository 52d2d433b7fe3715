//! What the file of a CPython says: which version, where its loop is, how its data is laid out.
//!
//! The file is a libpython, the interpreter itself, or any program that has linked it statically. All of it holds in
//! every process that maps the file.

use std::ops::Range;

use memtrace_common::python::EvalRange;

use super::{
    debug_offsets, eval,
    file::{File, Place},
    offsets::Layout,
    refusal::Refusal,
    release,
    slots::SlotGuess,
    version::Version,
};
use crate::target::{object::Object, symbols::Symbols};

/// A file with a CPython that can be looked at in processes.
#[derive(Clone, Debug)]
pub struct PythonImage {
    /// Which CPython.
    pub version: Version,
    /// Where the interpreter's loop is.
    pub eval: [EvalRange; 2],
    /// How its data is laid out.
    pub(super) layout: Layout,
    /// `_PyRuntime`, relative to the load base as all that follows.
    pub(super) runtime: u64,
    /// `PyCode_Type`
    pub(super) code_type: u64,
    /// What the file has for `PyCode_Type.tp_dealloc` before the dynamic linker fills it in.
    pub(super) dealloc_in_file: Option<u64>,
    /// Its instructions.
    pub(super) text: Vec<Range<u64>>,
    /// Where a thread's state may be before it can be observed.
    pub(super) guess: SlotGuess,
}

/// Reads a file. None when it is no Python at all.
#[must_use]
pub fn find(object: &Object) -> Option<Result<PythonImage, Refusal>> {
    let file = File::of(object)?;
    let places = Places::find(file);
    if places.is_pypy {
        return Some(Err(Refusal::PyPy));
    }
    let has_loop = places.eval.is_some() || places.old_eval.is_some();
    // A program that was linked statically and stripped has the section, and no name for anything.
    let is_python = places.runtime_section.is_some() || (places.code_type.is_some() && has_loop);
    is_python.then(|| PythonImage::describe(object, file, &places))
}

impl PythonImage {
    fn describe(object: &Object, file: File<'_>, places: &Places) -> Result<Self, Refusal> {
        let head = places
            .runtime()
            .and_then(|runtime| file.bytes(runtime, debug_offsets::MAX_SIZE));
        let (version, is_free_threaded) = head
            .as_deref()
            .and_then(release::by_cookie)
            .or_else(|| Some((places.version(object, file)?, false)))
            .ok_or(Refusal::UnknownVersion)?;
        if !version.is_at_least(3, 8) {
            return Err(Refusal::TooOld(version));
        }
        if is_free_threaded {
            return Err(Refusal::FreeThreaded(version));
        }
        let found = |place: Option<u64>, name| place.ok_or(Refusal::Stripped(name));
        let runtime = found(places.runtime(), "_PyRuntime")?;
        let code_type = found(places.code_type.map(|place| place.rel), "PyCode_Type")?;
        let main = places
            .eval
            .ok_or(Refusal::Stripped("_PyEval_EvalFrameDefault"))?;
        let eval = eval::ranges(file, main, places.cold)
            .ok_or(Refusal::Stripped("the end of _PyEval_EvalFrameDefault"))?;
        let layout = Layout::of(version, head.as_deref())
            .map_err(|what| Refusal::Offsets { version, what })?;
        Ok(Self {
            version,
            eval,
            layout,
            runtime,
            code_type,
            dealloc_in_file: file.word(code_type + super::code_type::TP_DEALLOC),
            text: file.elf.instruction_ranges(),
            guess: SlotGuess::of(version, file, places.current_state, places.own_state),
        })
    }
}

/// Where the names are that matter.
#[derive(Debug, Default)]
struct Places {
    runtime: Option<Place>,
    /// `.PyRuntime`, which 3.10 and newer have, relative to the load base.
    runtime_section: Option<u64>,
    code_type: Option<Place>,
    eval: Option<Place>,
    /// The loop of 2.x, in 3.6 and newer a wrapper.
    old_eval: Option<Place>,
    cold: Option<Place>,
    version: Option<Place>,
    get_version: Option<Place>,
    /// The function that returns the state of the thread that has the GIL.
    current_state: Option<Place>,
    /// The function that returns the thread's own state.
    own_state: Option<Place>,
    is_pypy: bool,
}

impl Places {
    fn find(file: File<'_>) -> Self {
        let section = file.elf.section(b".PyRuntime");
        let mut places = Self {
            runtime_section: section.and_then(|section| section.vaddr.checked_sub(file.elf.base)),
            ..Self::default()
        };
        for symbol in Symbols::read(file.image, file.elf).defined() {
            if !symbol.name.starts_with(b"_Py") && !symbol.name.starts_with(b"Py") {
                places.is_pypy |= symbol.name == b"pypy_main_startup";
                continue;
            }
            let place = match symbol.name {
                b"_PyRuntime" => &mut places.runtime,
                b"PyCode_Type" => &mut places.code_type,
                b"_PyEval_EvalFrameDefault" => &mut places.eval,
                b"_PyEval_EvalFrameDefault.cold" => &mut places.cold,
                b"PyEval_EvalFrameEx" => &mut places.old_eval,
                b"Py_Version" => &mut places.version,
                b"Py_GetVersion" => &mut places.get_version,
                b"PyThreadState_GetUnchecked" | b"_PyThreadState_UncheckedGet" => {
                    &mut places.current_state
                }
                b"PyGILState_GetThisThreadState" => &mut places.own_state,
                _ => continue,
            };
            *place = Some(Place {
                rel: symbol.rel,
                size: symbol.size,
            });
        }
        places
    }

    /// `_PyRuntime`, relative to the load base.
    fn runtime(&self) -> Option<u64> {
        self.runtime.map(|place| place.rel).or(self.runtime_section)
    }

    /// The version of what has no cookie.
    fn version(&self, object: &Object, file: File<'_>) -> Option<Version> {
        let name = object
            .path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy();
        self.version
            .and_then(|variable| release::by_variable(file, variable))
            .or_else(|| release::by_function(file, self.get_version?))
            .or_else(|| release::by_name(&name))
    }
}
