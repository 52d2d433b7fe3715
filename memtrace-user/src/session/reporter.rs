//! Makes reports on a thread of its own: naming frames reads debug information and may take long.

use std::{
    collections::HashMap,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, SystemTime},
};

use tokio::sync::mpsc as tokio_mpsc;

use super::{library::SharedStore, measure::Facts, names::Names};
use crate::{
    ids::Pid,
    plan::Plan,
    report::{Delivery, Measured, Output, OutputError, ProcessFacts, Report, Sources},
    resolve::Resolver,
    snapshot::{ProcessSnapshot, Snapshot},
};

/// How long a report waits for the names of code objects that were met just before it: longer than the drain's longest
/// pause.
const NAMES_WAIT: Duration = Duration::from_millis(200);

/// Everything one report is made from.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) snapshot: Snapshot,
    /// By process and programs begun.
    pub(super) facts: Facts,
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
    pub(super) fn spawn(
        store: SharedStore,
        names: Arc<Names>,
        plan: &Plan,
        output: Output,
    ) -> std::io::Result<Self> {
        let plan = plan.clone();
        let (jobs, inbox) = mpsc::channel();
        let (answers, delivered) = tokio_mpsc::unbounded_channel();
        let thread = thread::Builder::new()
            .name("report".into())
            .spawn(move || work(&inbox, &answers, &store, &names, &plan, output))?;
        Ok(Self {
            jobs,
            delivered,
            busy: false,
            _thread: thread,
        })
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
    store: &SharedStore,
    names: &Names,
    plan: &Plan,
    mut output: Output,
) {
    let mut resolver = Resolver::new(plan.resolve);
    while let Ok(job) = inbox.recv() {
        names.settle(NAMES_WAIT);
        let known = by_process(&job);
        let facts = |process: &ProcessSnapshot| {
            let facts = known.get(&(program_of(process), moment_of(process)));
            facts.map_or_else(ProcessFacts::default, |facts| (*facts).clone())
        };
        let sources = Sources {
            snapshot: &job.snapshot,
            facts: &facts,
            objects: store.as_ref(),
            codes: &names.book,
            measured: &job.measured,
            time: SystemTime::now(),
            is_final: job.is_final,
        };
        let report = Report::build(&sources, &plan.report, &mut resolver);
        if answers.send(output.write(&report)).is_err() {
            return;
        }
    }
}

/// A process's id and how many programs it had begun.
type Program = (Pid, u32);
/// When it began, and whether it runs: of two that were seen to begin at the same time, the one that runs is the later.
type Moment = (Duration, bool);

fn program_of(process: &ProcessSnapshot) -> Program {
    (process.pid, process.exec_count)
}

fn moment_of(process: &ProcessSnapshot) -> Moment {
    (process.begun, !process.exited)
}

/// The facts of each process of the snapshot. Those that share their id and their number of programs are told apart by
/// their order, the latest first: what is forgotten on either side is the earliest.
fn by_process(job: &Job) -> HashMap<(Program, Moment), &ProcessFacts> {
    let mut moments: HashMap<Program, Vec<Moment>> = HashMap::new();
    for process in &job.snapshot.processes {
        moments
            .entry(program_of(process))
            .or_default()
            .push(moment_of(process));
    }
    let mut known = HashMap::new();
    for (program, mut moments) in moments {
        moments.sort_unstable();
        let facts = job
            .facts
            .get(&program)
            .map(Vec::as_slice)
            .unwrap_or_default();
        for (moment, facts) in moments.iter().rev().zip(facts.iter().rev()) {
            known.insert((program, *moment), facts);
        }
    }
    known
}
