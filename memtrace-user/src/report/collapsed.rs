//! `--format collapsed`: one line a site, `comm;outermost;…;innermost value`, as flame graph tools read it.
//!
//! The value is what sites are ordered by (live bytes when ordered by age). Sites without value have no line. A cut
//! stack begins with `[cut: reason]`, so that it does not pass for a short one. A Python function stands as
//! `name (file:line)`, or as `<gone>`.

use std::{
    borrow::Cow,
    io::{self, Write},
};

use super::{
    Render, Report, Sort,
    layout::base_name,
    model::{Frame, FrameKind, Process, Site},
};

/// Writes a report as collapsed stacks.
#[derive(Clone, Copy, Debug)]
pub struct Collapsed;

impl Render for Collapsed {
    fn render(&self, report: &Report, out: &mut dyn Write) -> io::Result<()> {
        for process in &report.processes {
            for site in &process.sites {
                let value = value(site, report.sort);
                if value > 0 {
                    writeln!(out, "{} {value}", stack(process, site))?;
                }
            }
        }
        Ok(())
    }
}

fn value(site: &Site, sort: Sort) -> u64 {
    match sort {
        Sort::LiveBytes | Sort::Oldest => site.live_bytes.0,
        Sort::LiveBlocks => site.live_blocks,
        Sort::AllocatedBytes => site.allocated_bytes.0,
        Sort::AllocatedBlocks => site.allocated_blocks,
    }
}

fn stack(process: &Process, site: &Site) -> String {
    let comm = if process.comm.is_empty() {
        format!("pid {}", process.pid)
    } else {
        process.comm.clone()
    };
    let cut = site.cut.map(|reason| format!("[cut: {reason}]"));
    let frames = site.frames.iter().rev().map(name);
    let elements = [comm].into_iter().chain(cut).chain(frames);
    elements
        .map(|element| plain(&element).into_owned())
        .collect::<Vec<_>>()
        .join(";")
}

fn name(frame: &Frame) -> String {
    if frame.kind == FrameKind::Python {
        let file = frame.file.as_deref().map(base_name);
        return match (file, frame.line) {
            (Some(file), Some(line)) => format!("{} ({file}:{line})", frame.function),
            (Some(file), None) => format!("{} ({file})", frame.function),
            (None, _) => "<gone>".to_owned(),
        };
    }
    if frame.function.is_empty() {
        let module = if frame.module.is_empty() {
            "unknown"
        } else {
            base_name(&frame.module)
        };
        format!("{module}+{:#x}", frame.offset)
    } else {
        frame.function.clone()
    }
}

/// A name without the characters that structure a line.
fn plain(name: &str) -> Cow<'_, str> {
    let breaks = |character: char| character == ';' || character.is_control();
    if name.contains(breaks) {
        Cow::Owned(name.replace(breaks, "_"))
    } else {
        Cow::Borrowed(name)
    }
}
