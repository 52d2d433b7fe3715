//! Which functions of CPython only pass a call or a request for memory on.
//!
//! A Python stack as the native walk sees it is mostly the interpreter: between two Python frames lie the loop and the
//! trampolines that called it, and between the innermost one and the allocator lie allocators of CPython's own. These say
//! nothing that the Python frames do not say, and differ from build to build and from call to call: the loop rewrites its
//! instructions as it runs. C functions that say what is done (`list_sort_impl`, `list_resize`, `dict_resize`) stay.
//!
//! Names count only in the runtime's own object; which object that is, the process's facts say.

/// Functions that are plumbing.
const NAMES: &[&str] = &[
    // The loop and what leads to it.
    "PyEval_EvalCode",
    "PyEval_EvalCodeEx",
    "PyEval_EvalFrame",
    "PyEval_EvalFrameEx",
    "builtin___build_class__",
    "function_code_fastcall",
    "run_eval_code_obj",
    "run_mod",
    // Calls.
    "call_attribute",
    "call_function",
    "call_method",
    "call_unbound",
    "call_unbound_noarg",
    "cfunction_call",
    "cfunction_call_varargs",
    "classmethoddescr_call",
    "do_call_core",
    "fast_function",
    "function_call",
    "invoke_descrgetfunc",
    "method_call",
    "methoddescr_call",
    "object_vacall",
    "type_call",
    "wrap_init",
    "wrapper_call",
    "wrapperdescr_call",
    "wrapperdescr_raw_call",
    // Generators and coroutines.
    "PyGen_am_send",
    "PyIter_Send",
    "_PyGen_Send",
    "_PyGen_yf",
    "coro_send",
    "coro_wrapper_send",
    "gen_iternext",
    "gen_send",
    // Import.
    "PyImport_ImportModuleLevelObject",
    "builtin___import__",
    "builtin___import___impl",
    "import_find_and_load",
    "import_name",
    // Beginnings of programs and threads.
    "Py_BytesMain",
    "Py_Main",
    "Py_RunMain",
    "_Py_UnixMain",
    "_start",
    "main",
    "pythread_wrapper",
    "t_bootstrap",
    "thread_run",
    // Memory.
    "PyObject_Calloc",
    "PyObject_Malloc",
    "PyObject_Realloc",
    "PyType_GenericAlloc",
    "_PyBytes_FromSize",
    "_PyLong_New",
    "_PyObject_Calloc",
    "_PyObject_Malloc",
    "_PyObject_New",
    "_PyObject_NewVar",
    "_PyObject_Realloc",
    "_PyType_AllocNoTrack",
    "allocate_from_new_pool",
    "gc_alloc",
    "new_arena",
    "object_new",
    "pymalloc_alloc",
    "pymalloc_realloc",
];

/// Beginnings of names of plumbing.
const PREFIXES: &[&str] = &[
    "PyMem_",
    "PyObject_Call",
    "PyObject_GC_New",
    "PyObject_Vectorcall",
    "PyRun_",
    "PyVectorcall_",
    "_PyCFunction_FastCall",
    "_PyEval_",
    "_PyFunction_",
    "_PyMem_",
    "_PyMethodDef_RawFastCall",
    "_PyMethodDescr_",
    "_PyObject_Arena",
    "_PyObject_GC_",
    "_PyObject_Vectorcall",
    "_PyRun_",
    "_PyVectorcall_",
    "_mi_",
    "cfunction_vectorcall",
    "gen_send_ex",
    "method_vectorcall",
    "mi_",
    "pymain_",
    "pyrun_",
    "slot_am_",
    "slot_mp_",
    "slot_nb_",
    "slot_sq_",
    "slot_tp_",
    "vectorcall_",
];

/// Whether a function of the runtime's object only passes on what its caller asked for.
#[must_use]
pub fn is_plumbing(function: &str) -> bool {
    let name = plain(function);
    NAMES.contains(&name)
        || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        // `_PyObject_FastCallDict`, `_PyObject_MakeTpCall`, `_PyObject_CallMethodId` and so on.
        || (name.starts_with("_PyObject_") && name.contains("Call"))
}

/// A function's name without what compilers append to their copies of it: `.cold`, `.part.0`, `.lto_priv.0`.
pub(super) fn plain(function: &str) -> &str {
    let end = function.find('.').filter(|&end| end > 0);
    end.map_or(function, |end| &function[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_on_is_plumbing_in_all_its_copies() {
        for name in [
            "_PyEval_EvalFrameDefault",
            "_PyEval_EvalFrameDefault.cold",
            "_PyEval_Vector",
            "_PyFunction_Vectorcall",
            "PyObject_CallOneArg",
            "_PyObject_MakeTpCall",
            "_PyObject_Call_Prepend",
            "method_vectorcall_FASTCALL_KEYWORDS",
            "slot_tp_call",
            "gen_send_ex2.lto_priv.0",
            "PyRun_SimpleFileExFlags",
            "pymain_run_python.constprop.0",
            "_PyMem_RawMalloc",
            "_PyBytes_FromSize",
            "_PyObject_GC_NewVar",
            "_PyObject_VectorcallTstate",
        ] {
            assert!(is_plumbing(name), "{name}");
        }
    }

    #[test]
    fn what_says_something_stays() {
        for name in [
            "list_sort_impl",
            "list_resize",
            "list_vectorcall",
            "PyList_New",
            "PyByteArray_Resize",
            "PyBytes_FromStringAndSize",
            "dict_resize",
            "dictresize",
            "pattern_subx",
            "scan_once_unicode",
            "builtin_exec",
            "gc_collect_main",
            "PyObject_Repr",
            "_PyObject_Dump",
            "migrate",
            "",
            ".text",
        ] {
            assert!(!is_plumbing(name), "{name}");
        }
    }

    #[test]
    fn the_lists_are_in_order() {
        // Groups of names stand together; beginnings are one list.
        assert!(PREFIXES.is_sorted());
    }
}
