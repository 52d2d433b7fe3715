//! Makes reports on a thread of its own: naming frames reads debug information and may take long.

use std::{
    collections::HashMap,
    sync::mpsc,
    thread::{self, JoinHandle},
    time::SystemTime,
};

use memtrace_common::unwind;
use tokio::sync::mpsc as tokio_mpsc;

use super::library::SharedStore;
use crate::{
    ids::{ObjectId, Pid},
    report::{Delivery, Measured, Output, OutputError, ProcessFacts, Report, ReportOptions, Sources},
    resolve::{ObjectInfo, ObjectSource, ResolveOptions, Resolver},
    snapshot::{ProcessSnapshot, Snapshot},
};

/// Everything one report is made from.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) snapshot: Snapshot,
    /// By process and programs begun.
    pub(super) facts: HashMap<(Pid, u32), ProcessFacts>,
    pub(super) measured: Measured,
    pub(super) is_final: bool,
}

/// A report that was written, or not.
pub(super) type Delivered = Result<Delivery, OutputError>;

/// The thread's other end.
#[derive(Debug)]
pub(super) struct Reporter {
    jobs: mpsc::Sender<Job>,
    delivered: tokio_mpsc::UnboundedReceiver<Delivered>,
    busy: bool,
    _thread: JoinHandle<()>,
}

impl Reporter {
    /// Starts the thread.
    pub(super) fn spawn(store: SharedStore, options: ReportOptions, output: Output) -> std::io::Result<Self> {
        let (jobs, inbox) = mpsc::channel();
        let (answers, delivered) = tokio_mpsc::unbounded_channel();
        let thread = thread::Builder::new()
            .name("report".into())
            .spawn(move || work(&inbox, &answers, &Files(store), &options, output))?;
        Ok(Self { jobs, delivered, busy: false, _thread: thread })
    }

    /// Whether a report is being made.
    pub(super) fn is_busy(&self) -> bool {
        self.busy
    }

    /// Asks for a report.
    pub(super) fn request(&mut self, job: Job) {
        self.busy = self.jobs.send(job).is_ok();
    }

    /// Waits for the report that is being made; for ever when none is.
    pub(super) async fn delivered(&mut self) -> Delivered {
        if !self.busy {
            return std::future::pending().await;
        }
        let delivered = self.delivered.recv().await;
        self.busy = false;
        // The thread ends with the session only; if it has panicked there is nobody to write.
        delivered.unwrap_or(Ok(Delivery::ReaderGone))
    }
}

fn work(
    inbox: &mpsc::Receiver<Job>,
    answers: &tokio_mpsc::UnboundedSender<Delivered>,
    files: &Files,
    options: &ReportOptions,
    mut output: Output,
) {
    let mut resolver = Resolver::new(ResolveOptions::default());
    while let Ok(job) = inbox.recv() {
        let facts = |process: &ProcessSnapshot| {
            job.facts.get(&(process.pid, process.exec_count)).cloned().unwrap_or_default()
        };
        let sources = Sources {
            snapshot: &job.snapshot,
            facts: &facts,
            objects: files,
            measured: &job.measured,
            time: SystemTime::now(),
            is_final: job.is_final,
        };
        let report = Report::build(&sources, options, &mut resolver);
        if answers.send(output.write(&report)).is_err() {
            return;
        }
    }
}

/// The session's files, as the resolver asks for them.
struct Files(SharedStore);

impl ObjectSource for Files {
    fn get(&self, id: ObjectId) -> Option<ObjectInfo> {
        let store = self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let object = store.get(id)?;
        let elf = object.elf.as_ref().ok();
        let segments = elf.map(|elf| {
            elf.code()
                .map(|code| unwind::Segment { file_off: code.file_off, size: code.file_size, rel: code.rel })
                .collect()
        });
        Some(ObjectInfo {
            path: object.path.clone(),
            file: object.file().and_then(|file| file.try_clone().ok()).map(std::sync::Arc::new),
            build_id: object.build_id().map(<[u8]>::to_vec),
            base: elf.map_or(0, |elf| elf.base),
            segments: segments.unwrap_or_default(),
        })
    }
}
