//! Frame words to names.
//!
//! Comes after the freeze and away from the drain: takes [`Stack`]s of a snapshot and an [`ObjectSource`], gives
//! [`Names`] of just those stacks. A frame that cannot be named is not an error but a [`Reason`].
//!
//! Every object is read through the descriptor that was kept when it was first seen, so names are there after the
//! process has died, after the file was deleted or replaced, and for files of other mount namespaces. A return
//! address is looked up one byte before itself, inside the call; a frame marked exact at itself.
//!
//! Python frames are named by the code objects that a site is bound to ([`Bound`]); whose names those are is the
//! [book](crate::python::book)'s business.
//!
//! Bounded: names found are kept in a cache of [`ResolveOptions::cache_bytes`], open symbol files up to
//! [`ResolveOptions::symbol_bytes`]. The symbolizer is not `Send`: make the [`Resolver`] on the thread that reports.

mod cache;
mod debug_file;
mod interpreter;
mod native;
mod object;
mod python;
mod reason;
mod site;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use memtrace_common::stack::{self, FRAME_EXACT, FRAME_PYTHON};

use self::{
    cache::Cache,
    native::{Functions, Symbols},
    object::Objects,
};
pub use self::{
    cache::CacheCounts,
    interpreter::is_plumbing,
    object::ObjectSource,
    python::{CodeSource, Origin},
    reason::{Reason, cut_words},
};
use crate::{
    ids::{BindingId, Bytes, ObjectId, SiteId, StackId},
    snapshot::{Bound, Stack},
    target::object::Object,
};

/// Addresses that are handed to the symbolizer at once.
const BATCH: usize = 1000;

/// Limits of a resolver.
#[derive(Clone, Copy, Debug)]
pub struct ResolveOptions {
    /// Bytes of names kept between reports.
    pub cache_bytes: Bytes,
    /// Bytes of symbol files held open between reports.
    pub symbol_bytes: Bytes,
}

impl Default for ResolveOptions {
    fn default() -> Self {
        Self {
            cache_bytes: Bytes(32 << 20),
            symbol_bytes: Bytes(256 << 20),
        }
    }
}

/// What kind of code a function is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FunctionKind {
    /// Machine code of a mapped file.
    Native,
    /// Bytecode.
    Python,
}

/// A function at a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// What kind of code it is.
    pub kind: FunctionKind,
    /// Demangled name; a Python function's qualified name.
    pub name: Box<str>,
    /// Source file, as the debug information or the code object spells it.
    pub file: Option<Box<str>>,
    /// Line of the call (or, in an exact frame, of the instruction).
    pub line: Option<u32>,
    /// The function was inlined into the next one.
    pub inlined: bool,
}

/// A frame with all that is known of it.
#[derive(Clone, Debug)]
pub struct Frame {
    /// What kind of code it is.
    pub kind: FunctionKind,
    /// Path of the object as the process sees it; `None` when the object is unknown. A Python frame's module.
    pub module: Option<Arc<str>>,
    /// Program counter relative to the object's load base: behind the call, as debuggers print it. In a Python frame the
    /// instruction's offset in its bytecode.
    pub rel: u32,
    /// The frame lies in the interpreter that runs the Python frames of its stack; see [`is_plumbing`].
    pub is_interpreter: bool,
    /// Functions, innermost first and never none, or why there is no name.
    pub functions: Result<Arc<[Function]>, Reason>,
}

/// How the resolver did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResolveCounts {
    /// The cache of names.
    pub names: CacheCounts,
    /// Times the symbolizer was dropped because it had reached its limit.
    pub symbolizer_restarts: u64,
}

/// A place in an object as it is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Place {
    object: ObjectId,
    rel: u32,
}

impl Place {
    fn of(frame: u64) -> Self {
        let rel = stack::rel_of(frame);
        let back = u32::from(frame & FRAME_EXACT == 0);
        Self {
            object: ObjectId(stack::object_of(frame)),
            rel: rel.wrapping_sub(back),
        }
    }
}

/// Names frames, and remembers the names.
#[derive(Debug)]
pub struct Resolver {
    symbols: Symbols,
    names: Cache<Place, Functions>,
    sites: Cache<SiteKey, SiteId>,
    /// The interpreters that were known when the ids in `sites` were made.
    runtimes: HashSet<ObjectId>,
}

/// What a site is by the probes' and the tracker's numbers.
pub type SiteKey = (StackId, BindingId);

impl Resolver {
    /// A resolver that knows nothing yet.
    #[must_use]
    pub fn new(options: ResolveOptions) -> Self {
        // Ids of sites weigh little; a sixteenth of the room holds them.
        let site_bytes = options.cache_bytes.0 / 16;
        Self {
            symbols: Symbols::new(options.symbol_bytes),
            names: Cache::new(as_weight(options.cache_bytes.0 - site_bytes)),
            sites: Cache::new(as_weight(site_bytes)),
            runtimes: HashSet::new(),
        }
    }

    /// The stable ids of sites. A stack that is not there was lost; all lost ones share an id.
    pub fn site_ids<'a>(
        &mut self,
        sites: impl IntoIterator<Item = (SiteKey, Option<Bound<'a>>)>,
        origin: &Origin<'_>,
    ) -> HashMap<SiteKey, SiteId> {
        if self.runtimes != *origin.runtimes {
            self.runtimes.clone_from(origin.runtimes);
            self.sites.clear();
        }
        let mut ids = HashMap::new();
        let mut unknown = HashMap::new();
        for (key, bound) in sites {
            match bound {
                None => _ = ids.insert(key, site::LOST),
                Some(bound) => match self.sites.get(&key) {
                    Some(id) => _ = ids.insert(key, id),
                    None => _ = unknown.insert(key, bound),
                },
            }
        }
        let names = self.interpreter_names(unknown.values(), origin);
        let mut objects = Objects::new(origin.objects);
        for (key, bound) in unknown {
            let (id, known) = site::site_id(bound, &names, &mut objects, origin);
            if known {
                let weight = size_of::<(SiteKey, SiteId)>() * 2;
                self.sites.insert(key, id, weight);
            }
            ids.insert(key, id);
        }
        ids
    }

    /// Names the frames on which the ids of Python stacks depend.
    fn interpreter_names<'a, 'b: 'a>(
        &mut self,
        stacks: impl Iterator<Item = &'a Bound<'b>>,
        origin: &Origin<'_>,
    ) -> Names {
        let frames = stacks
            .filter(|bound| bound.stack.is_python())
            .flat_map(|bound| bound.stack.frames.iter().copied());
        let inside = frames.filter(|&frame| {
            frame & FRAME_PYTHON == 0
                && origin.runtimes.contains(&ObjectId(stack::object_of(frame)))
        });
        let wanted = inside.map(Place::of).collect();
        self.name_places(wanted, origin.objects)
    }

    /// Names every frame of some stacks.
    pub fn resolve<'a>(
        &mut self,
        stacks: impl IntoIterator<Item = &'a Stack>,
        source: &dyn ObjectSource,
    ) -> Names {
        let frames = stacks.into_iter().flat_map(|stack| stack.frames.iter());
        let wanted: BTreeSet<Place> = frames
            .filter(|&&frame| frame & FRAME_PYTHON == 0)
            .map(|&frame| Place::of(frame))
            .collect();
        self.name_places(wanted, source)
    }

    fn name_places(&mut self, wanted: BTreeSet<Place>, source: &dyn ObjectSource) -> Names {
        let mut names = Names::default();
        let mut objects = Objects::new(source);
        let mut unknown: HashMap<ObjectId, Vec<Place>> = HashMap::new();
        for place in wanted {
            match self.names.get(&place) {
                Some(functions) => names.add(place, functions),
                None => unknown.entry(place.object).or_default().push(place),
            }
            if let Some((object, _)) = objects.get(place.object) {
                let path = || object.path.to_string_lossy().into();
                names.modules.entry(place.object).or_insert_with(path);
            }
        }
        for (id, places) in unknown {
            // Not remembered when the object is unknown: it may become known.
            let Some((object, _)) = objects.get(id) else {
                continue;
            };
            self.name(&Arc::clone(object), &places, &mut names);
        }
        names
    }

    /// How the resolver did so far.
    #[must_use]
    pub fn counts(&self) -> ResolveCounts {
        ResolveCounts {
            names: self.names.counts(),
            symbolizer_restarts: self.symbols.restarts(),
        }
    }

    fn name(&mut self, object: &Arc<Object>, places: &[Place], names: &mut Names) {
        let base = object.elf.as_ref().map_or(0, |elf| elf.base);
        for batch in places.chunks(BATCH) {
            let addr = |place: &Place| base.wrapping_add(u64::from(place.rel));
            let addrs: Vec<u64> = batch.iter().map(addr).collect();
            for (&place, functions) in batch.iter().zip(self.symbols.name(object, &addrs)) {
                self.names
                    .insert(place, functions.clone(), weight(&functions));
                names.add(place, functions);
            }
        }
    }
}

/// The names of the stacks they were asked for.
#[derive(Debug, Default)]
pub struct Names {
    functions: HashMap<Place, Functions>,
    modules: HashMap<ObjectId, Arc<str>>,
}

impl Names {
    /// The frames of one of those stacks, innermost first, without those of Python that are the interpreter's own.
    pub fn frames<'a>(
        &'a self,
        bound: Bound<'a>,
        origin: &'a Origin<'a>,
    ) -> impl Iterator<Item = Frame> + 'a {
        let is_python = bound.stack.is_python();
        bound.frames().filter_map(move |(frame, code)| match code {
            Some(code) => python::frame(frame, code, origin.codes),
            None => {
                let object = ObjectId(stack::object_of(frame));
                Some(Frame {
                    is_interpreter: is_python && origin.runtimes.contains(&object),
                    ..self.native(frame)
                })
            }
        })
    }

    /// A native frame of one of those stacks.
    #[must_use]
    pub fn native(&self, frame: u64) -> Frame {
        let place = Place::of(frame);
        let functions = self.functions.get(&place).cloned();
        Frame {
            kind: FunctionKind::Native,
            module: self.modules.get(&place.object).cloned(),
            rel: stack::rel_of(frame),
            is_interpreter: false,
            functions: functions.unwrap_or(Err(Reason::ObjectUnknown)),
        }
    }

    fn add(&mut self, place: Place, functions: Functions) {
        self.functions.insert(place, functions);
    }
}

/// Bytes that an entry of the cache of names takes, about.
fn weight(functions: &Functions) -> usize {
    let text = |function: &Function| {
        function.name.len() + function.file.as_ref().map_or(0, |file| file.len())
    };
    let heap = functions.as_ref().map_or(0, |functions| {
        functions
            .iter()
            .map(|function| size_of::<Function>() + text(function))
            .sum()
    });
    2 * size_of::<(Place, Functions)>() + heap
}

fn as_weight(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
