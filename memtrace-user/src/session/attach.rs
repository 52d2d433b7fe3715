//! Makes and removes links on blocking threads: both wait for the kernel, removing 30-40 ms and more.

use std::{os::fd::AsFd as _, sync::Arc};

use memtrace_common::kind;
use tokio::sync::{Semaphore, mpsc};

use crate::{
    ids::Pid,
    probe::{Attacher, FileLinks, Guard, ProbeSite},
    target::object::Object,
};

/// Links that are made at the same time; more only queue up in the kernel.
const PARALLEL: usize = 16;

/// Threads that remove links at the end.
const PARALLEL_DROPS: usize = 64;

/// What links are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Allocator functions, and the dynamic linker's.
    Allocators,
    /// The end of Python's code objects.
    CodeObjects,
    /// CPython's allocator.
    Domains,
}

/// The links of one file to make.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) object: Arc<Object>,
    pub(super) sites: Arc<[ProbeSite]>,
    pub(super) purpose: Purpose,
}

/// An attach that has ended.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) pid: Pid,
    pub(super) object: Arc<Object>,
    pub(super) purpose: Purpose,
    pub(super) result: anyhow::Result<FileLinks>,
}

/// Attaches that are under way.
#[derive(Debug)]
pub(super) struct Attaching {
    attacher: Attacher,
    permits: Arc<Semaphore>,
    done: mpsc::UnboundedSender<Attached>,
}

impl Attaching {
    /// Nothing under way; results come out of the receiver.
    pub(super) fn new(attacher: Attacher) -> (Self, mpsc::UnboundedReceiver<Attached>) {
        let (done, results) = mpsc::unbounded_channel();
        (
            Self {
                attacher,
                permits: Arc::new(Semaphore::new(PARALLEL)),
                done,
            },
            results,
        )
    }

    /// The process of memtrace's guard.
    pub(super) fn guard(&self) -> Option<Pid> {
        self.attacher.guard().map(Guard::pid)
    }

    /// How many of a file's functions must be left alone; see [`AttachLevel::takes`](crate::probe::AttachLevel::takes).
    pub(super) fn left_alone(&self, sites: &[ProbeSite]) -> usize {
        let level = self.attacher.level();
        sites
            .iter()
            .filter(|site| !level.takes(site.cookie))
            .count()
    }

    /// Begins to make the links of some files in one process, one after the other.
    pub(super) fn begin(&self, pid: Pid, jobs: Vec<Job>) {
        let (attacher, permits, done) = (
            self.attacher.clone(),
            self.permits.clone(),
            self.done.clone(),
        );
        tokio::spawn(async move {
            let Ok(_permit) = permits.acquire().await else {
                return; // the session is ending
            };
            for Job {
                object,
                sites,
                purpose,
            } in jobs
            {
                let (attacher, file) = (attacher.clone(), object.clone());
                let result =
                    tokio::task::spawn_blocking(move || attach(&attacher, &file, &sites, pid))
                        .await
                        .unwrap_or_else(|error| Err(anyhow::anyhow!("{error}")));
                // The session may have ended.
                let _ = done.send(Attached {
                    pid,
                    object,
                    purpose,
                    result,
                });
            }
        });
    }

    /// Takes the probes out of the memory of a process that has inherited them by a fork and is not traced.
    ///
    /// The child's memory is a copy, breakpoints included, and every hit costs it a trap. When a link goes, the kernel
    /// takes out whatever breakpoint nobody wants in any process. So a link that does nothing is made for the child, and goes.
    pub(super) fn clean(&self, child: Pid, files: Vec<(Arc<Object>, Arc<[ProbeSite]>)>) {
        let attacher = self.attacher.clone();
        tokio::task::spawn_blocking(move || {
            for (object, sites) in files {
                let idle: Vec<ProbeSite> = sites
                    .iter()
                    .map(|site| ProbeSite {
                        cookie: kind::CALIBRATE,
                        ..*site
                    })
                    .collect();
                if let Err(error) = attach(&attacher, &object, &idle, child) {
                    log::debug!("failed to clean process {child}: {error:#}");
                    return;
                }
            }
        });
    }

    /// Makes no more links.
    pub(super) fn close(&self) {
        self.permits.close();
    }
}

fn attach(
    attacher: &Attacher,
    object: &Object,
    sites: &[ProbeSite],
    pid: Pid,
) -> anyhow::Result<FileLinks> {
    let file = object
        .file()
        .ok_or_else(|| anyhow::anyhow!("the file is not open"))?;
    attacher.attach(file.as_fd(), sites, pid)
}

/// Removes links.
pub(super) fn drop_later(links: FileLinks) {
    tokio::task::spawn_blocking(move || drop(links));
}

/// Removes links side by side, so that the kernel's waits overlap, and waits until they are gone.
pub(super) fn drop_now(links: Vec<FileLinks>) {
    let each = links.len().div_ceil(PARALLEL_DROPS).max(1);
    let mut links = links.into_iter();
    std::thread::scope(|scope| {
        loop {
            let share: Vec<FileLinks> = links.by_ref().take(each).collect();
            if share.is_empty() {
                break;
            }
            scope.spawn(move || drop(share));
        }
    });
}
