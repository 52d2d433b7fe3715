//! Frame words to names.
//!
//! Comes after the freeze and away from the drain: takes [`Stack`]s of a snapshot and an [`ObjectSource`], gives
//! [`Names`] of just those stacks. A frame that cannot be named is not an error but a [`Reason`].
//!
//! Every object is read through the descriptor that was kept when it was first seen, so names are there after the
//! process has died, after the file was deleted or replaced, and for files of other mount namespaces. A return
//! address is looked up one byte before itself, inside the call; a frame marked exact at itself.
//!
//! Bounded: names found are kept in a cache of [`ResolveOptions::cache_bytes`], open symbol files up to
//! [`ResolveOptions::symbol_bytes`]. The symbolizer is not `Send`: make the [`Resolver`] on the thread that reports.

mod cache;
mod debug_file;
mod native;
mod object;
mod reason;
mod site;

use std::{
    collections::{BTreeSet, HashMap},
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
    object::ObjectSource,
    reason::{Reason, cut_words},
};
use crate::{
    ids::{Bytes, ObjectId, SiteId, StackId},
    snapshot::Stack,
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

/// A function at a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Demangled name.
    pub name: Box<str>,
    /// Source file, as the debug information spells it.
    pub file: Option<Box<str>>,
    /// Line of the call (or, in an exact frame, of the instruction).
    pub line: Option<u32>,
    /// The function was inlined into the next one.
    pub inlined: bool,
}

/// A frame with all that is known of it.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Path of the object as the process sees it; `None` when the object is unknown.
    pub module: Option<Arc<str>>,
    /// Program counter relative to the object's load base: behind the call, as debuggers print it.
    pub rel: u32,
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
    sites: Cache<StackId, SiteId>,
}

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
        }
    }

    /// The stable ids of stacks. A stack that is not there was lost; all lost ones share an id.
    pub fn site_ids<'a>(
        &mut self,
        stacks: impl IntoIterator<Item = (StackId, Option<&'a Stack>)>,
        source: &dyn ObjectSource,
    ) -> HashMap<StackId, SiteId> {
        let mut objects = Objects::new(source);
        let id_of = |(id, stack): (StackId, Option<&Stack>)| {
            let Some(stack) = stack else {
                return (id, site::LOST);
            };
            let site = self.sites.get(&id).unwrap_or_else(|| {
                let (site, known) = site::site_id(stack, &mut objects);
                if known {
                    self.sites
                        .insert(id, site, size_of::<(StackId, SiteId)>() * 2);
                }
                site
            });
            (id, site)
        };
        stacks.into_iter().map(id_of).collect()
    }

    /// Names every frame of some stacks.
    pub fn resolve<'a>(
        &mut self,
        stacks: impl IntoIterator<Item = &'a Stack>,
        source: &dyn ObjectSource,
    ) -> Names {
        let mut names = Names::default();
        let mut objects = Objects::new(source);
        let frames = stacks.into_iter().flat_map(|stack| stack.frames.iter());
        let wanted: BTreeSet<Place> = frames
            .filter(|&&frame| frame & FRAME_PYTHON == 0)
            .map(|&frame| Place::of(frame))
            .collect();
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
    /// The frames of one of those stacks, innermost first.
    pub fn frames<'a>(&'a self, stack: &'a Stack) -> impl Iterator<Item = Frame> + 'a {
        stack.frames.iter().map(|&frame| self.frame(frame))
    }

    fn frame(&self, frame: u64) -> Frame {
        let rel = stack::rel_of(frame);
        if frame & FRAME_PYTHON != 0 {
            return Frame {
                module: None,
                rel,
                functions: Err(Reason::Runtime),
            };
        }
        let place = Place::of(frame);
        let functions = self.functions.get(&place).cloned();
        Frame {
            module: self.modules.get(&place.object).cloned(),
            rel,
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
