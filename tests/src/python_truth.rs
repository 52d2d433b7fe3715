//! The truth of the programs in `workloads/python`, and a report's Python frames against it.
//!
//! Blocks of one size come from one stack, those of another size from another (`marker.py`). So a site of the report is
//! known by the size of its blocks; a site whose blocks are not all of one size has mixed stacks up, or is not a marker's.
//! Only sites that do not say everything may stand for several stacks; see [`groups`].

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    fs::File,
    io::BufReader,
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::report::{Frame, Process, Site};

/// Differences that are kept in full.
const SHOWN: usize = 10;

/// What a program says of its blocks.
#[derive(Clone, Debug, Deserialize)]
pub struct PythonTruth {
    /// The process.
    pub pid: u32,
    /// The interpreter's version.
    pub python: String,
    /// Blocks there are.
    pub samples: u64,
    /// Every distinct stack.
    pub stacks: Vec<PythonStack>,
}

/// A stack, and the blocks that came from it.
#[derive(Clone, Debug, Deserialize)]
pub struct PythonStack {
    /// Bytes of each.
    pub size: u64,
    /// How many there are.
    pub count: u64,
    /// Innermost first.
    pub frames: Vec<PythonFrame>,
}

/// A frame as the interpreter sees it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PythonFrame {
    /// Qualified name; before 3.11 the plain one.
    pub function: String,
    /// `co_filename`
    pub file: String,
    /// `f_lineno`; none for an instruction without a line.
    pub line: Option<u32>,
    /// `co_firstlineno`
    pub first_line: u32,
}

/// How a site's frames relate to the truth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every frame is there with its name, file and line, and no other.
    Equal,
    /// All that is said is true, but something is left out, and the report says why.
    Missing(String),
    /// Something is said that is not true, or left out without a reason.
    Wrong(String),
}

/// Sum over a process's sites, in blocks.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Blocks of which the truth is known.
    pub samples: u64,
    /// Blocks whose stack is equal.
    pub equal: u64,
    /// Blocks whose stack lacks something, by the report's reason.
    pub missing: BTreeMap<String, u64>,
    /// Blocks whose stack is wrong.
    pub wrong: u64,
    /// Blocks that the report does not have.
    pub absent: u64,
    /// Blocks that the report has and the program has not.
    pub invented: u64,
    /// The first wrong ones, in words.
    pub examples: Vec<String>,
}

impl PythonTruth {
    /// Reads the file that a program has written.
    ///
    /// # Errors
    ///
    /// Fails when it is not there, is damaged, or has two stacks of one size.
    pub fn read(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("no truth in `{}`", path.display()))?;
        let truth: Self = serde_json::from_reader(BufReader::new(file))?;
        let sizes = truth.stacks.iter().map(|stack| (stack.size, stack));
        let by_size: HashMap<u64, &PythonStack> = sizes.collect();
        ensure!(
            by_size.len() == truth.stacks.len(),
            "two stacks share a size"
        );
        Ok(truth)
    }

    /// Compares all sites of the process. The report must list all its sites, and be made before the program ends.
    #[must_use]
    pub fn compare(&self, process: &Process) -> Outcome {
        let numbers = self.stacks.iter().enumerate();
        let by_size: HashMap<u64, usize> = numbers
            .map(|(number, stack)| (stack.size, number))
            .collect();
        let mut open: Vec<u64> = self.stacks.iter().map(|stack| stack.count).collect();
        let mut outcome = Outcome {
            samples: open.iter().sum(),
            ..Outcome::default()
        };
        let mut incomplete = Vec::new();
        for site in &process.sites {
            let number = size_of_blocks(site).and_then(|size| by_size.get(&size).copied());
            let verdict = number.map(|number| verdict(site, &self.stacks[number].frames));
            match (number, verdict) {
                (Some(number), Some(verdict)) if verdict == Verdict::Equal || is_complete(site) => {
                    let blocks = site.counts.live_blocks;
                    outcome.invented += blocks.saturating_sub(open[number]);
                    open[number] = open[number].saturating_sub(blocks);
                    outcome.add(site, verdict);
                }
                _ if site.counts.live_blocks > 0 && !is_complete(site) => incomplete.push(site),
                _ => {}
            }
        }
        groups::add(&incomplete, &self.stacks, &mut open, &mut outcome);
        outcome.absent += open.iter().sum::<u64>();
        outcome
    }
}

/// Whether a site's stack is whole, and all its Python frames have names and places.
fn is_complete(site: &Site) -> bool {
    let mut frames = site.frames.iter().filter(|frame| frame.kind == "python");
    let is_told =
        |frame: &Frame| !frame.function.is_empty() && frame.file.is_some() && frame.line.is_some();
    site.cut.is_none() && frames.all(is_told)
}

/// The size of each of a site's blocks, if they share one.
fn size_of_blocks(site: &Site) -> Option<u64> {
    let blocks = site.counts.live_blocks;
    let is_even = blocks > 0 && site.counts.live_bytes.is_multiple_of(blocks);
    is_even.then(|| site.counts.live_bytes / blocks)
}

/// Compares the Python frames of a site, innermost first. A stack that was cut is compared as far as it goes.
#[must_use]
pub fn verdict(site: &Site, truth: &[PythonFrame]) -> Verdict {
    let mut missing = None;
    let mut expected = truth.iter();
    for (number, frame) in site
        .frames
        .iter()
        .filter(|frame| frame.kind == "python")
        .enumerate()
    {
        let Some(truth) = expected.next() else {
            return Verdict::Wrong(format!("frame {number} is one too many: {}", shown(frame)));
        };
        match frame_verdict(frame, truth) {
            Verdict::Equal => {}
            Verdict::Missing(reason) => missing = missing.or(Some(reason)),
            Verdict::Wrong(what) => return Verdict::Wrong(format!("frame {number}: {what}")),
        }
    }
    match (expected.next(), &site.cut, missing) {
        (Some(_), Some(cut), _) => Verdict::Missing(format!("cut: {cut}")),
        (Some(truth), None, _) => Verdict::Wrong(format!("ends before {truth}")),
        (None, _, Some(reason)) => Verdict::Missing(reason),
        (None, _, None) => Verdict::Equal,
    }
}

fn frame_verdict(frame: &Frame, truth: &PythonFrame) -> Verdict {
    let wrong = || Verdict::Wrong(format!("{} where {truth} is", shown(frame)));
    if frame.function.is_empty() {
        return frame.reason.clone().map_or_else(wrong, Verdict::Missing);
    }
    if frame.function != truth.function {
        return wrong();
    }
    // An instruction without a line may be told as the function's.
    let is_the_line = match truth.line {
        Some(line) => frame.line == Some(line),
        None => frame.line.is_none_or(|line| line == truth.first_line),
    };
    let is_told = frame.file.is_some() && frame.line.is_some();
    match &frame.reason {
        Some(reason) if !is_told => Verdict::Missing(reason.clone()),
        _ if frame.file.as_deref() == Some(&truth.file) && is_the_line => Verdict::Equal,
        _ => wrong(),
    }
}

fn shown(frame: &Frame) -> String {
    let Frame {
        function,
        file,
        line,
        ..
    } = frame;
    let line = line.map_or_else(|| "?".to_owned(), |line| line.to_string());
    format!("`{function}` ({}:{line})", file.as_deref().unwrap_or("?"))
}

impl fmt::Display for PythonFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            function,
            file,
            line,
            ..
        } = self;
        let line = line.map_or_else(|| "?".to_owned(), |line| line.to_string());
        write!(f, "`{function}` ({file}:{line})")
    }
}

impl Outcome {
    fn add(&mut self, site: &Site, verdict: Verdict) {
        let blocks = site.counts.live_blocks;
        match verdict {
            Verdict::Equal => self.equal += blocks,
            Verdict::Missing(reason) => *self.missing.entry(reason).or_default() += blocks,
            Verdict::Wrong(what) => {
                self.wrong += blocks;
                if self.examples.len() < SHOWN {
                    self.examples.push(format!("site {}: {what}", site.site));
                }
            }
        }
    }

    /// Whether nothing that is said is untrue; how much is said is another question.
    #[must_use]
    pub fn is_true(&self) -> bool {
        self.wrong == 0 && self.invented == 0
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            samples,
            equal,
            wrong,
            absent,
            invented,
            ..
        } = self;
        write!(
            f,
            "{equal} of {samples} equal, {wrong} wrong, {absent} absent, {invented} invented"
        )?;
        for (reason, blocks) in &self.missing {
            write!(f, ", {blocks} incomplete ({reason})")?;
        }
        for example in &self.examples {
            write!(f, "\n  {example}")?;
        }
        Ok(())
    }
}

mod groups;

#[cfg(test)]
mod tests;
