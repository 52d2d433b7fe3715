//! `--format json`: one object a line, the serialized [`Report`].

use std::io::{self, Write};

use super::{Render, Report};

/// Writes a report as one line of JSON.
#[derive(Clone, Copy, Debug)]
pub struct Json;

impl Render for Json {
    fn render(&self, report: &Report, out: &mut dyn Write) -> io::Result<()> {
        serde_json::to_writer(&mut *out, report)?;
        out.write_all(b"\n")
    }
}
