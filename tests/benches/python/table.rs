//! Medians of the rounds, as ratios to the run without a tracer, and on how many benchmarks memtrace is the faster one.

use std::{collections::BTreeMap, fmt};

use crate::{
    median,
    tracer::{Run, Tracer},
};

/// The figures of all benchmarks.
#[derive(Debug, Default)]
pub(crate) struct Table {
    runs: BTreeMap<&'static str, BTreeMap<Tracer, Vec<Run>>>,
}

/// One clock of a run.
type Clock = fn(&Run) -> f64;

impl Table {
    /// Adds a run.
    pub(crate) fn add(&mut self, benchmark: &'static str, tracer: Tracer, run: Run) {
        let tracers = self.runs.entry(benchmark).or_default();
        tracers.entry(tracer).or_default().push(run);
    }
}

/// How many times longer a benchmark takes under a tracer.
fn ratio(runs: &BTreeMap<Tracer, Vec<Run>>, tracer: Tracer, clock: Clock) -> f64 {
    let of = |tracer| median(runs.get(&tracer).into_iter().flatten().map(clock));
    of(tracer) / of(Tracer::Nothing)
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clocks: [(&str, Clock); 2] =
            [("CPU time", |run| run.cpu), ("wall time", |run| run.wall)];
        for (title, clock) in clocks {
            let of_nothing = Tracer::Nothing;
            writeln!(f, "\n{title}, as a multiple of that without a tracer\n")?;
            writeln!(
                f,
                "| benchmark | {of_nothing}, s | blocks of libc, warm-up included | {} | {} | faster |",
                Tracer::Memtrace,
                Tracer::Memray
            )?;
            writeln!(f, "|---|--:|--:|--:|--:|---|")?;
            let (mut faster, mut slower) = (0, 0);
            for (name, runs) in &self.runs {
                let seconds = median(runs.get(&of_nothing).into_iter().flatten().map(clock));
                let blocks = runs
                    .get(&Tracer::Memtrace)
                    .into_iter()
                    .flatten()
                    .find_map(|run| run.blocks);
                let memtrace = ratio(runs, Tracer::Memtrace, clock);
                let memray = ratio(runs, Tracer::Memray, clock);
                let winner = if memtrace <= memray {
                    faster += 1;
                    "memtrace"
                } else {
                    slower += 1;
                    "memray"
                };
                let blocks = blocks.unwrap_or_default();
                writeln!(
                    f,
                    "| {name} | {seconds:.2} | {blocks} | {memtrace:.2} | {memray:.2} | {winner} |"
                )?;
            }
            writeln!(
                f,
                "memtrace is faster than memray on {faster} benchmarks and slower on {slower} \
                 (demanded: faster on at least as many)"
            )?;
        }
        Ok(())
    }
}
