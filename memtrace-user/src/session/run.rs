//! The session's main loop: everything that is not drained or rendered happens here, one thing at a time.

use std::{
    sync::{Arc, RwLock},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use memtrace_common::{event, stats::Stats};
use tokio::{
    sync::{mpsc, oneshot},
    time::{MissedTickBehavior, interval_at, sleep_until},
};

use super::{
    Outcome,
    attach::Attached,
    command::Command,
    domains::{Domains, Tried},
    library::Library,
    measure,
    names::{self, Layouts},
    notices::{self, Notices},
    preview,
    pythons::{Looked, Pythons},
    reporter::{Delivered, Job, Reporter},
    signals::{Heard, Signals},
    sink::{Ask, TrackerSink},
    targets::{Targets, Unheard, Word},
};
use crate::{
    drain::pump::{Drain, DrainedRings},
    hint::UserError,
    plan::Plan,
    probe::{Guard, Loaded, Probes},
    report::{Delivery, Output, OutputError},
    snapshot::Snapshot,
    target::{
        procfs,
        rule::Rule,
        store::{self, ObjectStore},
    },
    track::{Limits, Tracker},
};

/// How often processes are looked for that no notice tells of: those that move into a cgroup, and those whose notice was
/// lost.
const RESCAN: Duration = Duration::from_secs(1);
/// Rescans between two looks for processes that have loaded a CPython long after they began.
const PYTHON_RESCANS: u64 = 10;
/// Stands for "never" where a timer wants a time.
const NEVER: Duration = Duration::from_secs(365 * 86_400);

/// A running session.
pub(super) struct Session {
    plan: Plan,
    targets: Targets,
    attached: mpsc::UnboundedReceiver<Attached>,
    looked: mpsc::UnboundedReceiver<Looked>,
    tried: mpsc::UnboundedReceiver<Tried>,
    notices: Notices,
    drain: Drain<TrackerSink>,
    reporter: Reporter,
    command: Option<Command>,
    guard: Option<Arc<Guard>>,
    waiting_said: bool,
    rescans: u64,
    /// Notices that had been lost and tracepoints that had been skipped when processes were last looked for.
    unheard: u64,
    /// When the session began.
    start: Instant,
    code_ends: CodeEnds,
    /// Keeps the tracepoints.
    probes: Probes,
}

/// Ends of Python code objects that had been lost when that was last looked at, and when that was.
#[derive(Clone, Copy, Debug, Default)]
struct CodeEnds {
    lost: u64,
    looked_at: Duration,
}

/// Why the main loop ended.
enum End {
    Asked,
    TimeIsUp,
    TargetsGone,
    ReaderGone,
    Failed(OutputError),
}

impl Session {
    /// Loads the probes and starts the threads; traces nothing yet.
    ///
    /// # Errors
    /// When the probes cannot be loaded.
    pub(super) fn begin(
        mut plan: Plan,
        command: Option<Command>,
        output: Output,
        guard: Option<Arc<Guard>>,
    ) -> anyhow::Result<Self> {
        plan.probes.watch_all = plan.selection.rules.iter().any(Rule::is_open);
        let start = Instant::now();
        let Loaded {
            mut probes,
            maps,
            rings,
            arrays,
        } = Probes::load(&plan.probes)?;
        let objects =
            store::raise_descriptor_limit().context("failed to raise the limit on descriptors")?;
        let store = Arc::new(RwLock::new(ObjectStore::new(objects)));
        let tracker = Tracker::new(Limits::from_memory(plan.memory_limit), plan.report.filter);
        let layouts = Layouts::default();
        let (teller, names) = names::spawn(Box::new(layouts.clone()), start)
            .context("failed to start the names' thread")?;
        let sink = TrackerSink::new(tracker, teller);
        let drained = DrainedRings {
            events: rings.events,
            stacks: rings.stacks,
            obituaries: rings.obituaries,
        };
        let drain =
            Drain::spawn(drained, sink, start).context("failed to start the drain's thread")?;
        let reporter = Reporter::spawn(store.clone(), names, &plan, output)
            .context("failed to start the report's thread")?;
        pass_on_words(&plan, &mut probes)?;
        let (pythons, looked) = Pythons::new(arrays.pythons);
        let library = Library::new(store, arrays.rows, arrays.pages, arrays.mappings);
        let attacher = probes.attacher().clone().guarded_by(guard.clone());
        let (domains, tried) = Domains::new(plan.domains, attacher.clone(), drain.line());
        let (targets, attached) = Targets::new(
            plan.selection.clone(),
            attacher,
            maps,
            library,
            pythons,
            layouts,
            domains,
        );
        Ok(Self {
            plan,
            targets,
            attached,
            looked,
            tried,
            notices: Notices::watch(rings.notices)?,
            drain,
            reporter,
            command,
            guard,
            waiting_said: false,
            rescans: 0,
            unheard: 0,
            probes,
            start,
            code_ends: CodeEnds::default(),
        })
    }

    /// Traces until the end.
    ///
    /// # Errors
    /// When a report cannot be written or a thread has died; the probes are gone then, and what was gathered is printed.
    pub(super) async fn run(mut self) -> anyhow::Result<Outcome> {
        // First: from here on a signal ends the session in order.
        let signals = Signals::listen()?;
        if !self.begin_targets() {
            return Ok(Outcome::NothingMatched);
        }
        let end = self.follow(signals).await?;
        if matches!(end, End::TimeIsUp) && self.targets.is_untouched() {
            return Ok(Outcome::NothingMatched);
        }
        self.finish(end).await
    }

    /// Traces the command and what runs already. `false` when there is nothing and waiting is not wanted.
    fn begin_targets(&mut self) -> bool {
        if let Some(command) = &mut self.command {
            let files = preview::files_of(&command.program);
            self.targets
                .begin_held(command.pid, &command.program, &files);
        }
        self.targets.scan();
        for rule in &self.plan.selection.rules {
            if let Rule::Pid(pid) = rule
                && procfs::process(*pid).is_none()
            {
                measure::say(&format!("process {pid} does not exist"));
            }
        }
        !self.targets.is_empty() || self.plan.wait
    }

    /// The loop.
    async fn follow(&mut self, mut signals: Signals) -> anyhow::Result<End> {
        let begin = Instant::now();
        let period = self.plan.pace.interval.unwrap_or(NEVER);
        let mut reports = interval_at((begin + period).into(), period);
        reports.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut rescan = interval_at((begin + RESCAN).into(), RESCAN);
        let deadline = begin + self.plan.pace.duration.unwrap_or(NEVER);
        loop {
            self.say_words();
            self.tell_tracker();
            self.release_command();
            if self.is_over() {
                return Ok(End::TargetsGone);
            }
            let next_look = self.targets.tick(Instant::now()).unwrap_or(deadline);
            tokio::select! {
                heard = signals.next() => match heard {
                    Heard::End => return Ok(End::Asked),
                    Heard::ReportNow => self.request_report().await?,
                },
                () = sleep_until(deadline.into()) => return Ok(End::TimeIsUp),
                _ = reports.tick() => self.request_report().await?,
                delivered = self.reporter.delivered() => {
                    if let Some(end) = end_of(delivered) {
                        return Ok(end);
                    }
                }
                notices = self.notices.read() => self.targets.on_notices(&notices?),
                Some(attached) = self.attached.recv() => self.targets.on_attached(attached),
                Some(looked) = self.looked.recv() => self.targets.on_looked(looked),
                Some(tried) = self.tried.recv() => self.targets.on_tried(tried),
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

    /// Tells the tracker of ends and execs that it cannot see.
    fn tell_tracker(&mut self) {
        for unheard in self.targets.take_unheard() {
            self.drain.request(match unheard {
                Unheard::End(pid) => Ask::End(pid),
                Unheard::Exec(pid, exec_count) => Ask::Exec(pid, exec_count),
            });
        }
    }

    /// Looks for what no notice has told of.
    fn rescan(&mut self) {
        if let Some(guard) = &self.guard {
            guard.check();
        }
        self.rescans += 1;
        let loads = self.rescans.is_multiple_of(PYTHON_RESCANS);
        let rules = &self.plan.selection.rules;
        let moves = rules.iter().any(|rule| match rule {
            Rule::Cgroup(_) | Rule::All => true,
            Rule::Python => loads,
            Rule::Pid(_) | Rule::Comm(_) => false,
        });
        let at = self.start.elapsed();
        if let Ok(stats) = self.targets.maps().stats() {
            self.check_code_ends(&stats, at);
        }
        let unheard = self.count_unheard();
        if unheard > self.unheard {
            self.unheard = unheard;
            self.targets.check_all();
        } else if moves {
            self.targets.scan();
        }
    }

    /// How much about processes has not come through: notices that were lost, programs that were skipped.
    fn count_unheard(&self) -> u64 {
        let stats = self.targets.maps().stats();
        let skipped = self.probes.skipped();
        stats.map_or(0, |stats| stats.notices_lost)
            + skipped.map_or(0, |skipped| skipped.tracepoints)
    }

    /// Tells the tracker when ends of code objects have been lost. `at`: before the counters were read.
    fn check_code_ends(&mut self, stats: &Stats, at: Duration) {
        let lost = stats.lost[usize::from(event::CODE_FREED)];
        if lost > self.code_ends.lost {
            let since = self.code_ends.looked_at;
            self.drain.request(Ask::DistrustCodes { since });
            self.code_ends.lost = lost;
        }
        self.code_ends.looked_at = at;
    }

    /// Whether nothing is traced and nothing can come.
    fn is_over(&mut self) -> bool {
        if let Some(command) = &mut self.command {
            if command.poll().is_none() {
                return false;
            }
            self.targets.note_cpu(command.pid, command.cpu);
        }
        if !self.targets.is_empty() {
            self.waiting_said = true;
            return false;
        }
        let rules = &self.plan.selection.rules;
        let open: Vec<String> = rules
            .iter()
            .filter(|rule| rule.is_open())
            .map(ToString::to_string)
            .collect();
        if open.is_empty() || !self.plan.wait {
            return true;
        }
        if !self.waiting_said {
            self.waiting_said = true;
            let selectors = open.join(" or ");
            measure::say(&format!(
                "waiting for a process that matches {selectors} (Ctrl-C ends)"
            ));
        }
        false
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
        // The counters first: what they count has happened when the state is taken.
        let at = self.start.elapsed();
        let measured = measure::measured(&mut self.targets, &self.probes)?;
        self.check_code_ends(&measured.stats, at);
        Ok(Job {
            snapshot: self.freeze().await?,
            facts: measure::facts(&mut self.targets, self.command.as_mut()),
            measured,
            is_final,
        })
    }

    async fn freeze(&mut self) -> anyhow::Result<Snapshot> {
        let (answer, frozen) = oneshot::channel();
        self.drain.request(Ask::Freeze {
            filter: self.plan.report.filter,
            answer,
        });
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
        // A command that has ended is what was waited for; other targets were to stay.
        let gone = matches!(end, End::TargetsGone) && self.command.is_none();
        let mut failure = match end {
            End::ReaderGone => return Ok(Outcome::ReaderGone),
            End::Failed(error) => Some(error),
            End::Asked | End::TimeIsUp | End::TargetsGone => None,
        };
        if self.reporter.is_busy() {
            // A live report is being made; the last one follows it.
            failure = self.reporter.delivered().await.err().or(failure);
        }
        self.reporter.request(last?);
        let delivered = self.reporter.delivered().await;
        self.say_words();
        match (failure, delivered) {
            (Some(error), _) | (None, Err(error)) => Err(UserError::from(error).into()),
            (None, Ok(Delivery::ReaderGone)) => Ok(Outcome::ReaderGone),
            (None, Ok(Delivery::Written)) if gone => {
                let who = self
                    .targets
                    .exited()
                    .map(|target| format!("{} ({})", target.info.comm, target.pid()));
                Ok(Outcome::TargetsGone { who: who.collect() })
            }
            (None, Ok(Delivery::Written)) => Ok(Outcome::Done {
                command: self.command.as_mut().and_then(Command::poll),
            }),
        }
    }

    fn detach(&mut self) {
        tokio::task::block_in_place(|| self.targets.detach_all());
    }

    fn say_words(&mut self) {
        let words = self.targets.take_words();
        if self.plan.verbosity < log::LevelFilter::Warn {
            return;
        }
        for word in words {
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

/// Says what the probes cannot do here, and what they say from here on if it was asked for.
fn pass_on_words(plan: &Plan, probes: &mut Probes) -> anyhow::Result<()> {
    if let Some(reason) = probes.tracepoints_may_be_skipped() {
        log::warn!(
            "this kernel may skip a fork, exec or exit; it is counted and looked for: {reason:#}"
        );
    }
    if plan.probes.log_level > 0 {
        notices::follow_log(probes)?;
    }
    Ok(())
}

/// What a delivery means for the session.
fn end_of(delivered: Delivered) -> Option<End> {
    match delivered {
        Ok(Delivery::Written) => None,
        Ok(Delivery::ReaderGone) => Some(End::ReaderGone),
        Err(error) => Some(End::Failed(error)),
    }
}
