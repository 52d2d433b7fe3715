//! Everything known of the files that traced processes map: opened once, their rows loaded once, their allocators found
//! once. Files are shared by processes, so what is found for the first process costs the next ones nothing.
//!
//! Also owns the probes' list of mappings, one run for each process.

use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
    path::Path,
    sync::{Arc, RwLock},
    time::{Duration, Instant},
};

use memtrace_common::{cookie, kind, unwind as wire};

use super::pythons::Placed;
use crate::{
    ids::{ObjectId, Pid},
    probe::{MappedArray, Maps, ProbeSite},
    target::{
        allocator::{self, Absence, Discovery},
        maps::{self, MapsError},
        object::Object,
        store::ObjectStore,
    },
    unwind::{
        mappings,
        space::Space,
        tables::{Tables, Words},
    },
};

/// How long a run that a process no longer uses is kept, for walks that are under way and for children that were forked
/// with it.
const GRACE: Duration = Duration::from_secs(2);

/// The files, shared with whoever names frames.
pub(super) type SharedStore = Arc<RwLock<ObjectStore>>;

/// What an object offers to probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sites {
    /// These places; the name says whose allocator it is.
    Found(Arc<[ProbeSite]>, String),
    /// None: the object uses another one's allocator, or is no code.
    None,
    /// None, and it may well have one: statically linked and stripped.
    Hidden,
}

/// What a process maps.
#[derive(Debug)]
pub(super) struct ProcessMap {
    /// Its run of mappings.
    pub(super) run: Range<u32>,
    /// Whether they differ from what was known.
    pub(super) changed: bool,
    /// Files with code, each once, in the order of their addresses.
    pub(super) files: Vec<Placed>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Library {
    store: SharedStore,
    tables: Tables<MappedArray>,
    sites: HashMap<ObjectId, Sites>,
    published: HashMap<ObjectId, wire::Object>,
    mappings: MappedArray,
    runs: Space,
    graveyard: VecDeque<(Instant, Range<u32>)>,
}

impl Words for MappedArray {
    fn capacity(&self) -> u32 {
        self.word_count() as u32
    }

    fn write(&mut self, at: u32, words: &[u64]) {
        self.words()[at as usize..][..words.len()].copy_from_slice(words);
    }
}

impl Library {
    pub(super) fn new(
        store: SharedStore,
        rows: MappedArray,
        pages: MappedArray,
        mut mappings: MappedArray,
    ) -> Self {
        let runs = mappings.values::<wire::Mapping>().len() as u32;
        Self {
            store,
            tables: Tables::new(rows, pages),
            sites: HashMap::new(),
            published: HashMap::new(),
            mappings,
            runs: Space::new(runs),
            graveyard: VecDeque::new(),
        }
    }

    /// Files beyond the limit of objects.
    pub(super) fn refused_objects(&self) -> u64 {
        let store = self.store.read();
        store
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .refused()
    }

    /// Looks at a process's mappings, loads what is new and puts the run where the probes read it, unless `run` says the same
    /// already.
    pub(super) fn map_process(
        &mut self,
        pid: Pid,
        run: &Range<u32>,
        maps: &mut Maps,
    ) -> Result<ProcessMap, MapsError> {
        let mappings = maps::read(pid)?;
        let (list, files) = {
            let mut store = self
                .store
                .write()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            let list = mappings::list(pid, &mappings, &mut store, &mut self.tables);
            let mut files: Vec<Placed> = Vec::new();
            for entry in &list.entries {
                let known = files.iter().any(|file| file.object.id.0 == entry.object);
                if let (false, Some(object)) = (known, store.get(ObjectId(entry.object))) {
                    files.push(Placed {
                        object: object.clone(),
                        bias: entry.bias,
                    });
                }
            }
            (list, files)
        };
        if list.left_out > 0 {
            log::warn!(
                "process {pid} has {} executable mappings too many",
                list.left_out
            );
        }
        for file in &files {
            self.publish(&file.object, maps);
        }
        let changed = !self.holds(run, &list.entries);
        let run = if changed {
            self.place_run(pid, &list.entries)
        } else {
            run.clone()
        };
        Ok(ProcessMap {
            run,
            changed,
            files,
        })
    }

    /// Opens a file by its path and loads its rows, before any process maps it.
    pub(super) fn open(&mut self, path: &Path, maps: &mut Maps) -> Option<Arc<Object>> {
        let object = self
            .store
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .object_at(path)?;
        self.publish(&object, maps);
        Some(object)
    }

    /// Where an object's allocator functions are probed.
    pub(super) fn sites_of(&mut self, object: &Object) -> &Sites {
        self.sites
            .entry(object.id)
            .or_insert_with(|| find_sites(object))
    }

    /// What is known of an object's allocator functions already.
    pub(super) fn known_sites(&self, id: ObjectId) -> Option<&Sites> {
        self.sites.get(&id)
    }

    /// An object and where it is probed, if it is.
    pub(super) fn attachable(&self, id: ObjectId) -> Option<(Arc<Object>, Arc<[ProbeSite]>)> {
        let Sites::Found(sites, _) = self.sites.get(&id)? else {
            return None;
        };
        Some((self.get(id)?, sites.clone()))
    }

    /// An object by its number.
    pub(super) fn get(&self, id: ObjectId) -> Option<Arc<Object>> {
        let store = self
            .store
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        store.get(id).cloned()
    }

    /// Gives a run back; it is used again after a while.
    pub(super) fn retire(&mut self, run: Range<u32>) {
        if !run.is_empty() {
            self.graveyard.push_back((Instant::now(), run));
        }
    }

    /// Tells the probes of an object, so that they can place it in a process whose mappings are not known yet.
    fn publish(&mut self, object: &Object, maps: &mut Maps) {
        let loaded = self.tables.load(object);
        if object.key.ino == 0 || self.published.get(&object.id) == Some(&loaded) {
            return;
        }
        match maps.publish(object.key, loaded) {
            Ok(()) => {
                self.published.insert(object.id, loaded);
            }
            Err(error) => log::warn!(
                "no room to tell the probes of {}: {error}",
                object.path.display()
            ),
        }
    }

    fn holds(&mut self, run: &Range<u32>, entries: &[wire::Mapping]) -> bool {
        let place = run.start as usize..run.end as usize;
        !run.is_empty()
            && self
                .mappings
                .values::<wire::Mapping>()
                .get(place)
                .is_some_and(|run| run == entries)
    }

    fn place_run(&mut self, pid: Pid, entries: &[wire::Mapping]) -> Range<u32> {
        while let Some((since, _)) = self.graveyard.front()
            && since.elapsed() > GRACE
            && let Some((_, run)) = self.graveyard.pop_front()
        {
            self.runs.give_back(run);
        }
        let Some(run) = self.runs.take(entries.len() as u32) else {
            log::warn!(
                "no room for the mappings of process {pid}: its stacks are placed by the kernel"
            );
            return 0..0;
        };
        let place = run.start as usize..run.end as usize;
        self.mappings.values()[place].copy_from_slice(entries);
        run
    }
}

fn find_sites(object: &Object) -> Sites {
    let Some((image, elf)) = object.contents() else {
        return Sites::None;
    };
    match allocator::discover(image, elf) {
        Discovery::Found(found) => {
            for note in &found.notes {
                log::info!("{}: {note}", object.path.display());
            }
            let mut sites: Vec<ProbeSite> = found
                .functions
                .iter()
                .map(|function| ProbeSite {
                    file_off: function.point.file_off,
                    cookie: function.cookie(),
                })
                .collect();
            // Probes are placed one after the other while the process runs. A block whose making is seen must not be
            // freed unseen, so what ends blocks comes first.
            sites.sort_by_key(|site| attach_order(cookie::kind(site.cookie)));
            Sites::Found(sites.into(), format!("{:?}", found.flavour).to_lowercase())
        }
        Discovery::Absent(Absence::Stripped | Absence::Unknown) => Sites::Hidden,
        Discovery::Absent(Absence::Imported) => Sites::None,
    }
}

/// Probes are attached in ascending order of it.
pub(super) fn attach_order(kind: u32) -> u32 {
    match kind {
        kind::FREE | kind::FREE_OUTER | kind::FREE_THROUGH => 0,
        kind::REALLOC | kind::REALLOCARRAY => 1,
        _ => 2,
    }
}
