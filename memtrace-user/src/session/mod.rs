//! A trace from its beginning to its end: the only place where the parts are wired together.
//!
//! ```text
//! drain thread     rings ─► tracker                      answers "freeze"
//! report thread    snapshot ─► names ─► output           answers "delivered"
//! session (tokio)  signals, timers, notices ─► targets (attach, detach, unwind tables)
//! ```
//!
//! Way out: freeze, then detach (probes go one by one, so what is seen meanwhile does not fit together), then report.

mod command;
mod library;
mod measure;
mod notices;
mod preview;
mod reporter;
mod sink;
mod target;
mod targets;

use std::{
    sync::{Arc, RwLock},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot},
    time::{MissedTickBehavior, interval_at, sleep_until},
};

pub use self::{
    command::{Command, ExitStatus},
    targets::Selection,
};
use self::{
    library::Library,
    notices::Notices,
    reporter::{Delivered, Job, Reporter},
    sink::{Freeze, TrackerSink},
    targets::{Attached, Targets, Word},
};
use crate::{
    drain::pump::Drain,
    ids::{Bytes, Pid},
    probe::{Calibration, Loaded, ProbeOptions, Probes},
    report::{Delivery, Output, OutputError, ReportOptions},
    snapshot::Snapshot,
    target::{procfs, rule::Rule, store::{self, ObjectStore}},
    track::{Limits, Tracker},
};

/// How often processes are looked for that no notice tells of: those that move into a cgroup, and those whose notice was lost.
const RESCAN: Duration = Duration::from_secs(1);

/// What a session does.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// Who is traced.
    pub selection: Selection,
    /// Wait when nobody matches yet.
    pub wait: bool,
    /// Time between live reports; none without.
    pub interval: Option<Duration>,
    /// Time after which the session ends by itself.
    pub duration: Option<Duration>,
    /// What reports hold.
    pub report: ReportOptions,
    /// How the probes are loaded.
    pub probes: ProbeOptions,
    /// Memory for live blocks and stacks.
    pub memory: Bytes,
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The last report is written.
    Done {
        /// How the command ended, when there was one and it has.
        command: Option<ExitStatus>,
    },
    /// Nobody reads the reports any more.
    ReaderGone,
    /// No process matched, and waiting was not wanted.
    NothingMatched,
    /// None of the processes asked for by id is there.
    PidsGone(Vec<Pid>),
}

/// A running session.
struct Session {
    options: SessionOptions,
    start: Instant,
    targets: Targets,
    attached: mpsc::UnboundedReceiver<Attached>,
    notices: Notices,
    drain: Drain<TrackerSink>,
    reporter: Reporter,
    command: Option<Command>,
    calibration: Calibration,
    waiting_said: bool,
    /// Keeps the tracepoints.
    _probes: Probes,
}

/// Why the main loop ended.
enum End {
    Asked,
    TargetsGone,
    ReaderGone,
    Failed(OutputError),
}

/// Runs a session to its end. Must be called inside a tokio runtime with more than one thread.
///
/// # Errors
/// When the probes cannot be loaded, or reports cannot be written; what was gathered has been printed then.
pub async fn run(
    options: SessionOptions,
    command: Option<Command>,
    output: Output,
) -> anyhow::Result<Outcome> {
    let gone = gone_pids(&options.selection);
    if let Some(gone) = gone {
        return Ok(Outcome::PidsGone(gone));
    }
    let mut session = Session::begin(options, command, output)?;
    if !session.begin_targets() {
        return Ok(Outcome::NothingMatched);
    }
    let end = session.run().await?;
    session.finish(end).await
}

/// The ids asked for, when nothing else is asked for and none of them is there.
fn gone_pids(selection: &Selection) -> Option<Vec<Pid>> {
    let pids: Option<Vec<Pid>> = selection
        .rules
        .iter()
        .map(|rule| if let Rule::Pid(pid) = rule { Some(*pid) } else { None })
        .collect();
    let pids = pids.filter(|pids| !pids.is_empty())?;
    pids.iter().all(|pid| procfs::process(*pid).is_none()).then_some(pids)
}

impl Session {
    fn begin(
        mut options: SessionOptions,
        command: Option<Command>,
        output: Output,
    ) -> anyhow::Result<Self> {
        options.probes.watch_all = options.selection.rules.iter().any(Rule::is_open);
        let start = Instant::now();
        let Loaded { mut probes, maps, rings, arrays } = Probes::load(&options.probes)?;
        let objects = store::raise_descriptor_limit().context("failed to raise the limit on descriptors")?;
        let store = Arc::new(RwLock::new(ObjectStore::new(objects)));
        let tracker = Tracker::new(Limits::from_memory(options.memory), options.report.filter);
        let drain = Drain::spawn(rings.events, rings.stacks, TrackerSink(tracker), start)
            .context("failed to start the drain's thread")?;
        let reporter = Reporter::spawn(store.clone(), options.report, output)
            .context("failed to start the report's thread")?;
        let library = Library::new(store, arrays);
        if options.probes.log_level > 0 {
            notices::follow_log(&mut probes)?;
        }
        let (targets, attached) =
            Targets::new(options.selection.clone(), probes.attacher().clone(), maps, library);
        Ok(Self {
            options,
            start,
            targets,
            attached,
            notices: Notices::watch(rings.notices)?,
            drain,
            reporter,
            command,
            calibration: probes.calibration(),
            waiting_said: false,
            _probes: probes,
        })
    }

    /// Traces the command and what runs already. `false` when there is nothing and waiting is not wanted.
    fn begin_targets(&mut self) -> bool {
        if let Some(command) = &mut self.command {
            let files = preview::files_of(&command.program);
            self.targets.begin_held(command.pid, &files);
        }
        self.targets.scan();
        !self.targets.is_empty() || self.options.wait
    }

    async fn run(&mut self) -> anyhow::Result<End> {
        let mut signals = Signals::new()?;
        let period = self.options.interval.unwrap_or(Duration::MAX / 4);
        let far = Duration::from_secs(86_400 * 365);
        let mut reports = interval_at((Instant::now() + period.min(far)).into(), period.min(far));
        reports.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let deadline = Instant::now() + self.options.duration.unwrap_or(far).min(far);
        let mut rescan = interval_at((Instant::now() + RESCAN).into(), RESCAN);
        loop {
            self.say_words();
            self.release_command();
            if self.is_over() {
                return Ok(End::TargetsGone);
            }
            let next_look = self.targets.tick(Instant::now()).unwrap_or(deadline).min(deadline);
            tokio::select! {
                heard = signals.next() => match heard {
                    Heard::End => return Ok(End::Asked),
                    Heard::ReportNow => self.request_report().await?,
                },
                () = sleep_until(deadline.into()) => return Ok(End::Asked),
                _ = reports.tick() => self.request_report().await?,
                delivered = self.reporter.delivered() => {
                    if let Some(end) = end_of(delivered) {
                        return Ok(end);
                    }
                }
                notices = self.notices.read() => {
                    for notice in notices? {
                        self.targets.on_notice(&notice);
                    }
                }
                Some(attached) = self.attached.recv() => self.targets.on_attached(attached),
                _ = rescan.tick() => self.rescan(),
                () = sleep_until(next_look.into()) => {}
            }
        }
    }

    /// Lets the command run when its probes are in place.
    fn release_command(&mut self) {
        if let Some(command) = &mut self.command
            && self.targets.is_attached(command.pid)
        {
            command.release();
        }
    }

    fn rescan(&mut self) {
        let moves = self.options.selection.rules.iter().any(|rule| matches!(rule, Rule::Cgroup(_) | Rule::All));
        let lost = self.targets.maps().stats().is_ok_and(|stats| stats.notices_lost > 0);
        if moves || lost {
            self.targets.scan();
        }
    }

    /// Whether nothing is traced and nothing can come.
    fn is_over(&mut self) -> bool {
        if let Some(command) = &mut self.command {
            if command.poll().is_none() {
                return false;
            }
        }
        if !self.targets.is_empty() {
            self.waiting_said = true;
            return false;
        }
        let open = self.options.selection.rules.iter().any(Rule::is_open);
        if open && self.options.wait {
            if !self.waiting_said {
                self.waiting_said = true;
                measure::say("waiting for a process that matches (Ctrl-C ends)");
            }
            return false;
        }
        true
    }

    /// Asks for a live report unless one is being made.
    async fn request_report(&mut self) -> anyhow::Result<()> {
        if !self.reporter.is_busy() {
            let job = self.job(false).await?;
            self.reporter.request(job);
        }
        Ok(())
    }

    /// The state of everything now.
    async fn job(&mut self, is_final: bool) -> anyhow::Result<Job> {
        Ok(Job {
            snapshot: self.freeze().await?,
            facts: measure::facts(&mut self.targets, self.command.as_mut()),
            measured: measure::measured(&mut self.targets, self.calibration)?,
            is_final,
        })
    }

    async fn freeze(&mut self) -> anyhow::Result<Snapshot> {
        let (answer, frozen) = oneshot::channel();
        self.drain.request(Freeze { filter: self.options.report.filter, answer });
        let mut snapshot = frozen.await.context("the drain's thread has ended")?;
        // What a process was before it became the traced program is of no interest when it did nothing.
        snapshot.processes.retain(|process| {
            !process.exited || process.allocated_blocks > 0 || process.unknown_frees > 0
        });
        Ok(snapshot)
    }

    /// Freezes, detaches, writes the last report.
    async fn finish(mut self, end: End) -> anyhow::Result<Outcome> {
        let last = self.job(true).await;
        self.detach();
        let mut failure = match end {
            End::ReaderGone => return Ok(Outcome::ReaderGone),
            End::Failed(error) => Some(error),
            End::Asked | End::TargetsGone => None,
        };
        if self.reporter.is_busy() {
            // A live report is being made; the last one follows it.
            failure = self.reporter.delivered().await.err().or(failure);
        }
        self.reporter.request(last?);
        let delivered = self.reporter.delivered().await;
        self.say_words();
        match (failure, delivered) {
            (Some(error), _) | (None, Err(error)) => Err(error.into()),
            (None, Ok(Delivery::ReaderGone)) => Ok(Outcome::ReaderGone),
            (None, Ok(Delivery::Written)) => {
                Ok(Outcome::Done { command: self.command.as_mut().and_then(Command::poll) })
            }
        }
    }

    fn detach(&mut self) {
        tokio::task::block_in_place(|| self.targets.detach_all());
    }

    fn say_words(&mut self) {
        for word in self.targets.take_words() {
            match word {
                Word::Tracing { pid, comm, what } => {
                    measure::say(&format!("tracing {pid} ({comm}): {what}"));
                }
                Word::Trouble { pid, comm, reason } => {
                    measure::say(&format!("process {pid} ({comm}): {reason}"));
                }
            }
        }
    }
}

/// What a delivery means for the session.
fn end_of(delivered: Delivered) -> Option<End> {
    match delivered {
        Ok(Delivery::Written) => None,
        Ok(Delivery::ReaderGone) => Some(End::ReaderGone),
        Err(error) => Some(End::Failed(error)),
    }
}

/// The signals a session listens to.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    user: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("failed to listen to signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
            user: listen(SignalKind::user_defined1())?,
        })
    }
}

/// What a signal asks for.
enum Heard {
    End,
    ReportNow,
}

impl Signals {
    async fn next(&mut self) -> Heard {
        tokio::select! {
            _ = self.interrupt.recv() => Heard::End,
            _ = self.terminate.recv() => Heard::End,
            _ = self.hangup.recv() => Heard::End,
            _ = self.user.recv() => Heard::ReportNow,
        }
    }
}
