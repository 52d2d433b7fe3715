//! Medians of the rounds, what each tracer adds, and the ratios that matter.

use std::{collections::BTreeMap, fmt};

use crate::tracer::Tracer;

/// The figures of one workload.
#[derive(Debug)]
pub(crate) struct Table {
    title: &'static str,
    figures: BTreeMap<Tracer, Vec<f64>>,
}

impl Table {
    /// An empty table.
    pub(crate) fn new(title: &'static str) -> Self {
        Self {
            title,
            figures: BTreeMap::new(),
        }
    }

    /// Adds the figure of one round.
    pub(crate) fn add(&mut self, tracer: Tracer, figure: f64) {
        self.figures.entry(tracer).or_default().push(figure);
    }

    fn sorted(&self, tracer: Tracer) -> Option<Vec<f64>> {
        let mut figures = self.figures.get(&tracer)?.clone();
        figures.sort_by(f64::total_cmp);
        Some(figures)
    }

    fn median(&self, tracer: Tracer) -> Option<f64> {
        let figures = self.sorted(tracer)?;
        figures.get(figures.len() / 2).copied()
    }

    /// What a tracer adds to the untraced figure.
    fn added(&self, tracer: Tracer) -> Option<f64> {
        Some(self.median(tracer)? - self.median(Tracer::Nothing)?)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{}\n", self.title)?;
        writeln!(
            f,
            "| {:<22} | {:>9} | {:>19} | {:>9} | {:>8} |",
            "tracer", "median", "least..most", "added", "slowdown"
        )?;
        writeln!(
            f,
            "|{:-<24}|{:-<10}:|{:-<20}:|{:-<10}:|{:-<9}:|",
            "", "", "", "", ""
        )?;
        let base = self.median(Tracer::Nothing).unwrap_or(f64::NAN);
        for tracer in self.figures.keys() {
            let figures = self.sorted(*tracer).unwrap_or_default();
            let (Some(median), Some(added)) = (self.median(*tracer), self.added(*tracer)) else {
                continue;
            };
            let (least, most) = (figures[0], figures[figures.len() - 1]);
            let range = format!("{least:.1}..{most:.1}");
            let slowdown = format!("x{:.2}", median / base);
            writeln!(
                f,
                "| {tracer:<22} | {median:>9.1} | {range:>19} | {added:>9.1} | {slowdown:>8} |"
            )?;
        }
        let Some(memtrace) = self.added(Tracer::Memtrace) else {
            return Ok(());
        };
        for (other, bound) in [
            (Tracer::Floor, "at most 2.2"),
            (Tracer::Memleak, "at most 0.25"),
        ] {
            if let Some(added) = self.added(other) {
                writeln!(
                    f,
                    "memtrace adds {:.2} x what {other} adds ({bound})",
                    memtrace / added
                )?;
            }
        }
        Ok(())
    }
}
