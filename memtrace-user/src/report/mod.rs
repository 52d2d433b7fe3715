//! What a user reads: the model of a report, and one file for each format of it.
//!
//! [`Report::build`] joins a frozen snapshot, its names and what the session knows of the processes; a [`Render`]er
//! turns the report into bytes; [`Output`] brings the bytes to the terminal, a pipe or a file. Nothing here reads
//! the system or resolves a name by itself.

mod build;
mod collapsed;
mod json;
mod layout;
pub mod model;
mod output;
mod row;
mod table;
mod trust;
pub mod units;

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    io::{self, Write},
};

use serde::Serialize;

pub use self::{
    build::{ProcessFacts, RuntimeFacts, Sources},
    collapsed::Collapsed,
    json::Json,
    model::Report,
    output::{Delivery, Destination, Output, OutputError},
    table::Table,
    trust::Measured,
};
use crate::snapshot::BlockFilter;

/// Turns a report into bytes.
pub trait Render {
    /// Writes the report, ended by a newline.
    fn render(&self, report: &Report, out: &mut dyn Write) -> io::Result<()>;
}

/// What a report holds.
#[derive(Clone, Copy, Debug)]
pub struct ReportOptions {
    /// What sites are ordered by.
    pub sort: Sort,
    /// Sites of each process; `None` = all.
    pub top: Option<usize>,
    /// Show the interpreter's own frames in stacks that have Python frames.
    pub native: bool,
    /// Which live blocks are counted; said in the report, applied by the freeze.
    pub filter: BlockFilter,
}

/// A form of report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// One object a line.
    Json,
    /// One line a stack, for flame graphs.
    Collapsed,
}

/// What sites are ordered by, the largest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Sort {
    /// Bytes that are live.
    #[default]
    LiveBytes,
    /// Blocks that are live.
    LiveBlocks,
    /// Bytes allocated since attach.
    AllocatedBytes,
    /// Blocks allocated since attach.
    AllocatedBlocks,
    /// Age of the oldest live block.
    Oldest,
}

impl fmt::Display for Sort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LiveBytes => "live-bytes",
            Self::LiveBlocks => "live-blocks",
            Self::AllocatedBytes => "allocated-bytes",
            Self::AllocatedBlocks => "allocated-blocks",
            Self::Oldest => "oldest",
        })
    }
}
