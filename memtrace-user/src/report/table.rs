//! `--format table`: for people.
//!
//! Every process has a head and its sites, every site its full stack, one function a line: name, `file:line` and
//! module. Lines fit the width: file paths keep their last three parts or fewer, long names are shortened in the middle;
//! `file:line` is never shortened: when nothing else helps it gets lines of its own. Nothing is hidden from a stack but, in
//! one that has Python frames, what the interpreter does to run them; a site of such a stack is headed by the innermost
//! Python function.
//!
//! A live report also fits the height: it is cut where the screen ends, with the trust line still under it.

use std::{
    io::{self, Write},
    time::Duration,
};

use super::{
    Render, Report, Sort,
    layout::{Indent, base_name, first_columns, flow, printable},
    model::{Ended, Filter, Process, Runtime, RuntimeKind, Site, State, Trust},
    row,
    units::{Age, Count, Counted, Seconds, Share, Size},
};

/// Narrower terminals get lines of this width.
const MIN_WIDTH: usize = 40;
/// A site's number ends here.
const RANK_WIDTH: usize = 4;
/// Where frames begin.
const FRAME_INDENT: usize = 7;
const SEPARATOR: &str = " · ";

/// Writes a report as text.
#[derive(Clone, Copy, Debug, Default)]
pub struct Table {
    /// Columns of the terminal; `None` = lines may have any length.
    pub width: Option<usize>,
    /// Lines that a live report may have; `None` = any number.
    pub height: Option<usize>,
}

impl Render for Table {
    fn render(&self, report: &Report, out: &mut dyn Write) -> io::Result<()> {
        let page = Page {
            columns: self.width.map_or(usize::MAX, |width| width.max(MIN_WIDTH)),
            sort: report.sort,
        };
        let mut body = page.body(report);
        let foot = page.trust(&report.trust);
        if let Some(height) = self.height.filter(|_| !report.is_final) {
            page.cut(&mut body, height.saturating_sub(foot.len()));
        }
        for line in body.iter().chain(&foot) {
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// What all lines of a report share.
struct Page {
    columns: usize,
    sort: Sort,
}

impl Page {
    fn body(&self, report: &Report) -> Vec<String> {
        let mut lines = self.head(report);
        let (busy, quiet): (Vec<_>, Vec<_>) = report
            .processes
            .iter()
            .partition(|process| is_worth_telling(process));
        for process in &busy {
            lines.push(String::new());
            lines.extend(self.process(process));
        }
        if !quiet.is_empty() {
            lines.push(String::new());
            let noun = if busy.is_empty() {
                "process"
            } else {
                "more process"
            };
            let quiet = Counted(quiet.len() as u64, noun);
            lines.extend(self.flow(&[format!("{quiet} without an allocation since attach")], 0));
        }
        lines.extend(self.forgotten(&report.forgotten));
        lines.push(String::new());
        lines
    }

    fn forgotten(&self, ended: &Ended) -> Vec<String> {
        if ended.processes == 0 {
            return Vec::new();
        }
        let sum = format!(
            "{} more ended before: {} live in {} at their ends",
            Counted(ended.processes, "process"),
            Size(ended.live_bytes),
            Counted(ended.live_blocks, "block")
        );
        [String::new()]
            .into_iter()
            .chain(self.flow(&[sum], 2))
            .collect()
    }

    fn head(&self, report: &Report) -> Vec<String> {
        let kind = if report.is_final {
            "final report"
        } else {
            "report"
        };
        let elapsed = Duration::try_from_secs_f64(report.elapsed_s).unwrap_or_default();
        self.flow(
            &[
                format!("memtrace {kind} after {}", Age(elapsed)),
                humantime::format_rfc3339_seconds(report.time).to_string(),
                Counted(report.processes.len() as u64, "process").to_string(),
                format!("by {}", report.sort),
                filter(&report.filter),
            ],
            2,
        )
    }

    fn process(&self, process: &Process) -> Vec<String> {
        let mut lines = self.flow(&identity(process), 2);
        lines.extend(self.flow_from(&totals(process), 2, 4));
        for note in own_notes(process).iter().chain(&process.notes) {
            lines.extend(self.flow_from(&[format!("note: {}", printable(note))], 2, 4));
        }
        let shown: Vec<&Site> = process
            .sites
            .iter()
            .filter(|site| self.key(site) > 0.0)
            .collect();
        for (index, site) in shown.iter().enumerate() {
            lines.push(String::new());
            lines.extend(self.site(index + 1, site, process));
        }
        let hidden = process.sites_total - process.sites.len();
        if hidden > 0 {
            lines.push(String::new());
            lines.extend(self.flow_from(
                &[format!("and {}", Counted(hidden as u64, "more site"))],
                2,
                4,
            ));
        }
        lines
    }

    fn key(&self, site: &Site) -> f64 {
        match self.sort {
            Sort::LiveBytes => site.live_bytes.0 as f64,
            Sort::LiveBlocks => site.live_blocks as f64,
            Sort::AllocatedBytes => site.allocated_bytes.0 as f64,
            Sort::AllocatedBlocks => site.allocated_blocks as f64,
            Sort::Oldest => site.oldest_s,
        }
    }

    fn site(&self, number: usize, site: &Site, process: &Process) -> Vec<String> {
        let live = format!(
            "{} live in {} ({})",
            Size(site.live_bytes),
            Counted(site.live_blocks, "block"),
            Share::of(site.live_bytes.0, process.live_bytes.0)
        );
        let oldest = Duration::try_from_secs_f64(site.oldest_s).unwrap_or_default();
        let oldest = if site.live_blocks > 0 {
            format!("oldest {}", Age(oldest))
        } else {
            String::new()
        };
        let allocated = format!(
            "allocated {} in {}",
            Size(site.allocated_bytes),
            Counted(site.allocated_blocks, "block")
        );
        let number = number.to_string();
        let indent = RANK_WIDTH.saturating_sub(number.len());
        let parts = match row::headline(&site.frames) {
            Some(place) => [format!("{number}  {place}"), live].to_vec(),
            None => [format!("{number}  {live}")].to_vec(),
        };
        let domain = site
            .domain
            .map_or(String::new(), |domain| format!("{domain} domain"));
        let parts = [
            parts,
            vec![oldest, allocated, domain, format!("site {}", site.site)],
        ]
        .concat();
        let mut lines = self.flow_from(&parts, indent, FRAME_INDENT);
        lines.extend(self.stack(site));
        if let Some(reason) = site.cut {
            let place = site
                .cut_addr
                .map_or(String::new(), |addr| format!(" at {addr:#x}"));
            lines.extend(self.flow_from(
                &[format!("[cut: {reason}]{place}")],
                FRAME_INDENT,
                FRAME_INDENT + 2,
            ));
        }
        lines
    }

    fn stack(&self, site: &Site) -> Vec<String> {
        let lines = row::stack(&site.frames, self.columns.saturating_sub(FRAME_INDENT));
        lines
            .iter()
            .map(|line| format!("{:FRAME_INDENT$}{line}", ""))
            .collect()
    }

    fn trust(&self, trust: &Trust) -> Vec<String> {
        let causes = trust.lost.causes();
        let events = format!(
            "{}, {} lost{}",
            Counted(trust.events, "event"),
            Count(trust.lost_events),
            in_brackets(&causes)
        );
        let shares = |counts: &mut dyn Iterator<Item = (&str, u64)>, whole| -> Vec<String> {
            counts
                .map(|(reason, count)| format!("{} {reason}", Share::of(count, whole)))
                .collect()
        };
        let cut = shares(
            &mut trust.cut.iter().map(|(reason, &count)| (*reason, count)),
            trust.stacks,
        );
        let unnamed = trust
            .unnamed
            .iter()
            .map(|(reason, count)| format!("{} {}", Count(*count), printable(reason)));
        let stacks = format!(
            "{} walked, {} cut{}",
            Counted(trust.stacks, "stack"),
            Count(trust.cut_stacks),
            in_brackets(&cut)
        );
        let frames = format!(
            "{} of {} unnamed{}",
            Count(trust.unnamed_frames),
            Counted(trust.frames, "frame"),
            in_brackets(&unnamed.collect::<Vec<_>>())
        );
        let own = format!(
            "memtrace used {} CPU, {} resident",
            Seconds(trust.self_cpu_s),
            Size(trust.self_rss_bytes)
        );
        let cost = format!(
            "cost the targets about {} of {} CPU ({})",
            Seconds(trust.target_cost_s),
            Seconds(trust.target_cpu_s),
            Share {
                part: trust.target_cost_s,
                whole: trust.target_cpu_s
            }
        );
        let events = format!("trust: {events}");
        let parts = [events, stacks, frames, python_names(trust), own, cost];
        let mut lines = self.flow(&parts, 7);
        if !trust.not_known.is_empty() {
            let sentences = trust.not_known.join("; ");
            lines.extend(self.flow(&[format!("no longer known: {sentences}")], 7));
        }
        lines
    }

    fn flow(&self, parts: &[String], rest: usize) -> Vec<String> {
        self.flow_from(parts, 0, rest)
    }

    fn flow_from(&self, parts: &[String], first: usize, rest: usize) -> Vec<String> {
        flow(parts, SEPARATOR, Indent { first, rest }, self.columns)
    }

    /// Keeps the first lines, and says what is missing.
    fn cut(&self, body: &mut Vec<String>, height: usize) {
        if body.len() > height {
            let hidden = body.len() - height.saturating_sub(2);
            body.truncate(height.saturating_sub(2));
            let text = format!("… {hidden} more lines; the final report has them all");
            body.push(first_columns(&text, self.columns).to_owned());
            body.push(String::new());
        }
    }
}

/// A process that has done nothing since attach needs no lines of its own.
fn is_worth_telling(process: &Process) -> bool {
    process.allocated_blocks > 0
        || process.live_blocks > 0
        || process.unknown_frees > 0
        || !process.notes.is_empty()
}

/// Nothing when there is no Python.
fn python_names(trust: &Trust) -> String {
    if trust.python_names + trust.python_names_gone == 0 {
        return String::new();
    }
    format!(
        "{}, {} gone",
        Counted(trust.python_names, "Python name"),
        Count(trust.python_names_gone)
    )
}

fn identity(process: &Process) -> Vec<String> {
    let state = match (process.state, &process.ended) {
        (_, Some(ended)) => printable(ended),
        (State::Running, None) => "running".to_owned(),
        (State::Exited, None) => "exited".to_owned(),
    };
    let name = if process.comm.is_empty() {
        base_name(&process.exe)
    } else {
        &process.comm
    };
    vec![
        format!("{}  pid {}", printable(name), process.pid),
        state,
        printable(&process.exe),
        runtime(&process.runtime),
    ]
}

fn runtime(runtime: &Runtime) -> String {
    let version = runtime.version.as_deref().unwrap_or_default();
    match (runtime.kind, &runtime.reason) {
        (RuntimeKind::Native, _) => String::new(),
        (RuntimeKind::Cpython, None) if runtime.python_stacks => {
            format!("CPython {version}, Python stacks")
        }
        (RuntimeKind::Cpython, reason) => {
            let reason = reason.as_deref().map(printable);
            let because = reason.map_or(String::new(), |reason| format!(": {reason}"));
            format!("CPython {version}, native stacks only{because}")
        }
    }
}

fn totals(process: &Process) -> Vec<String> {
    let some = |count: u64, text: &str| {
        if count > 0 {
            format!("{} {text}", Count(count))
        } else {
            String::new()
        }
    };
    vec![
        format!(
            "live {} in {}",
            Size(process.live_bytes),
            Counted(process.live_blocks, "block")
        ),
        format!("peak {}", Size(process.peak_bytes)),
        format!(
            "allocated {} in {}",
            Size(process.allocated_bytes),
            Counted(process.allocated_blocks, "block")
        ),
        format!("RSS {}", Size(process.rss_bytes)),
        format!("{} unknown frees", Count(process.unknown_frees)),
        some(process.inherited_blocks, "inherited at fork"),
        some(process.superseded_blocks, "whose free was lost"),
    ]
}

/// What the counts of a process do not hold.
fn own_notes(process: &Process) -> Vec<String> {
    let folded = format!(
        "{} ({}) are only counted, not followed: --memory-limit is reached",
        Counted(process.folded_blocks, "block"),
        Size(process.folded_bytes)
    );
    let siteless = format!(
        "{} without a site: too many sites",
        Counted(process.siteless_blocks, "block")
    );
    let said = [
        (process.folded_blocks, folded),
        (process.siteless_blocks, siteless),
    ];
    said.into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(_, note)| note)
        .collect()
}

fn filter(filter: &Filter) -> String {
    let seconds = |seconds: f64| Age(Duration::try_from_secs_f64(seconds).unwrap_or_default());
    let bounds: Vec<String> = [
        filter
            .min_age_s
            .map(|age| format!("at least {} old", seconds(age))),
        filter
            .min_size_bytes
            .map(|size| format!("at least {}", Size(size))),
        filter
            .max_size_bytes
            .map(|size| format!("at most {}", Size(size))),
    ]
    .into_iter()
    .flatten()
    .collect();
    if bounds.is_empty() {
        return String::new();
    }
    format!("only blocks of {}", bounds.join(", "))
}

fn in_brackets(words: &[String]) -> String {
    if words.is_empty() {
        String::new()
    } else {
        format!(" ({})", words.join(", "))
    }
}
