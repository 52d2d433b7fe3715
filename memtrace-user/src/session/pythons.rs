//! The CPythons of traced processes: looks for them away from the session's task, and keeps the probes' entries.
//!
//! Does not decide when a process is looked at, nor does it hold what was found; see `targets::python`.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use memtrace_common::python::Python;
use tokio::sync::mpsc;

use crate::{
    ids::{ObjectId, Pid},
    probe::MappedArray,
    python::{
        Refusal,
        image::{self, PythonImage},
        runtime::{self, Runtime, Unfound},
    },
    target::object::Object,
};

/// How long an entry that no process refers to any more is kept, for walks that are under way.
const GRACE: Duration = Duration::from_secs(2);

/// A file with code, and where a process has put it.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    pub(super) object: Arc<Object>,
    /// `rel = addr - bias`
    pub(super) bias: u64,
}

/// What a look at a process has brought.
#[derive(Debug)]
pub(super) enum Look {
    /// It maps no CPython.
    None,
    /// There is one that has not begun yet.
    NotYet,
    /// There is one whose frames cannot be walked.
    Refused(Refusal),
    /// Its frames can be walked.
    Found(Box<Runtime>, Arc<Object>),
}

/// A look that has ended.
#[derive(Debug)]
pub(super) struct Looked {
    pub(super) pid: Pid,
    /// Programs the process had begun when it was looked at.
    pub(super) exec_count: u32,
    pub(super) look: Look,
}

/// What a file says of being a CPython; found once for each file.
type Image = Arc<OnceLock<Option<Result<PythonImage, Refusal>>>>;

/// See the module.
#[derive(Debug)]
pub(super) struct Pythons {
    entries: MappedArray,
    /// Entries from this one on have not been used.
    unused: u32,
    free: VecDeque<(Instant, u32)>,
    images: Arc<Mutex<HashMap<ObjectId, Image>>>,
    done: mpsc::UnboundedSender<Looked>,
}

impl Pythons {
    /// No entries; what looks bring comes out of the receiver.
    pub(super) fn new(entries: MappedArray) -> (Self, mpsc::UnboundedReceiver<Looked>) {
        let (done, looked) = mpsc::unbounded_channel();
        let pythons = Self {
            entries,
            unused: 0,
            free: VecDeque::new(),
            images: Arc::default(),
            done,
        };
        (pythons, looked)
    }

    /// Reads the files that a process will map, so that a look at it does not have to. Takes some 10 ms for a CPython.
    pub(super) fn prepare(&self, files: &[Arc<Object>]) {
        for object in files {
            image_of(&self.images, object);
        }
    }

    /// Looks for a CPython among the files of a process.
    pub(super) fn look(&self, pid: Pid, exec_count: u32, files: Vec<Placed>) {
        let (images, done) = (self.images.clone(), self.done.clone());
        tokio::task::spawn_blocking(move || {
            let look = search(&images, pid, &files);
            // The session may have ended.
            let _ = done.send(Looked {
                pid,
                exec_count,
                look,
            });
        });
    }

    /// Puts a record where the probes read it; gives what processes refer to it by (`Process::python`). `None` when there
    /// is no room.
    pub(super) fn enter(&mut self, python: Python) -> Option<u32> {
        let entries = self.entries.values::<Python>();
        let rested = self
            .free
            .front()
            .is_some_and(|(since, _)| since.elapsed() > GRACE);
        let index = if rested {
            self.free.pop_front()?.1
        } else {
            self.unused
        };
        *entries.get_mut(index as usize)? = python;
        self.unused = self.unused.max(index + 1);
        Some(index + 1)
    }

    /// Gives back what [`Pythons::enter`] gave; 0 is none.
    pub(super) fn leave(&mut self, reference: u32) {
        if reference != 0 {
            self.free.push_back((Instant::now(), reference - 1));
        }
    }
}

/// Reads a file, once for all processes.
fn image_of(images: &Mutex<HashMap<ObjectId, Image>>, object: &Object) -> Image {
    let image = {
        let mut images = images.lock().unwrap_or_else(PoisonError::into_inner);
        images.entry(object.id).or_default().clone()
    };
    image.get_or_init(|| image::find(object));
    image
}

fn search(images: &Mutex<HashMap<ObjectId, Image>>, pid: Pid, files: &[Placed]) -> Look {
    let mut refused = None;
    for Placed { object, bias } in files {
        match image_of(images, object).get() {
            None | Some(None) => {}
            Some(Some(Err(refusal))) => refused = Some(refusal.clone()),
            Some(Some(Ok(image))) => {
                return match runtime::find(pid, object, *bias, image) {
                    Ok(runtime) => Look::Found(Box::new(runtime), object.clone()),
                    Err(Unfound::NotYet) => Look::NotYet,
                    Err(Unfound::Refused(refusal)) => Look::Refused(refusal),
                };
            }
        }
    }
    refused.map_or(Look::None, Look::Refused)
}
