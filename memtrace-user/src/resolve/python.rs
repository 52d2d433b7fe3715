//! Names of Python frames: what the book has for the code objects that a site is bound to.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use memtrace_common::stack;

use super::{Frame, Function, FunctionKind, ObjectSource, Reason};
use crate::{
    ids::{CodeId, ObjectId},
    python::{
        book::{BookCounts, CodeBook},
        name::{CodeName, Gone},
    },
};

/// Knows the names of code objects.
pub trait CodeSource {
    /// The name of a code object.
    ///
    /// # Errors
    /// Why it has none.
    fn name(&self, id: CodeId) -> Result<Arc<dyn CodeName>, Gone>;

    /// How many names there are.
    fn counts(&self) -> BookCounts;
}

impl CodeSource for CodeBook {
    fn name(&self, id: CodeId) -> Result<Arc<dyn CodeName>, Gone> {
        Self::name(self, id)
    }

    fn counts(&self) -> BookCounts {
        Self::counts(self)
    }
}

impl CodeSource for Mutex<CodeBook> {
    fn name(&self, id: CodeId) -> Result<Arc<dyn CodeName>, Gone> {
        // Whoever panicked has not left half a name: names never change.
        let book = self.lock().unwrap_or_else(PoisonError::into_inner);
        book.name(id)
    }

    fn counts(&self) -> BookCounts {
        self.lock().unwrap_or_else(PoisonError::into_inner).counts()
    }
}

/// Where names come from.
#[expect(
    missing_debug_implementations,
    reason = "holds trait objects that have none"
)]
#[derive(Clone, Copy)]
pub struct Origin<'a> {
    /// The objects that native frames lie in.
    pub objects: &'a dyn ObjectSource,
    /// The code objects of Python frames.
    pub codes: &'a dyn CodeSource,
    /// The objects that are a Python interpreter's own.
    pub runtimes: &'a HashSet<ObjectId>,
}

/// A Python frame with what is known of it. Its place is a byte of its bytecode, 0 when that is not known. `None` when it is
/// the interpreter's own.
pub(super) fn frame(
    word: u64,
    code: Result<CodeId, Gone>,
    codes: &dyn CodeSource,
) -> Option<Frame> {
    let instr = stack::instr_of(word);
    let name = code.and_then(|id| codes.name(id));
    if name.as_ref().is_ok_and(|name| name.is_shim()) {
        return None;
    }
    let function = name.as_ref().map(|name| Function {
        kind: FunctionKind::Python,
        name: name.function().into(),
        file: Some(name.file().into()),
        line: name.line(instr),
        inlined: false,
    });
    let known = instr < stack::INSTR_BEFORE_FIRST;
    Some(Frame {
        kind: FunctionKind::Python,
        module: name.as_ref().ok().map(|name| module(name.file()).into()),
        rel: if known { instr * 2 } else { 0 },
        is_interpreter: false,
        functions: function
            .map(|function| Arc::from([function]))
            .map_err(|gone| Reason::Gone(*gone)),
    })
}

/// The last part of the name that a file's module has if it is imported in the usual way: `cache` of `/app/cache.py`, `app`
/// of `/app/__init__.py`. What is no file, like `<string>`, is its own name.
fn module(file: &str) -> &str {
    let (folders, name) = file.rsplit_once('/').unwrap_or(("", file));
    match name.strip_suffix(".py").unwrap_or(name) {
        "__init__" => folders.rsplit('/').next().unwrap_or(folders),
        stem => stem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_called_as_they_are_imported() {
        for (file, name) in [
            ("/app/cache.py", "cache"),
            ("cache.py", "cache"),
            ("/app/__init__.py", "app"),
            ("__init__.py", ""),
            ("<string>", "<string>"),
            (
                "<frozen importlib._bootstrap>",
                "<frozen importlib._bootstrap>",
            ),
            ("/app/tool", "tool"),
        ] {
            assert_eq!(module(file), name, "{file}");
        }
    }
}
