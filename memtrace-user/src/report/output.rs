//! Where reports go: the terminal, a pipe, or a file.
//!
//! * On a terminal a live table replaces the one before; what stood above stays, so does the scrollback.
//! * Elsewhere reports follow each other, tables and collapsed stacks with an empty line between.
//! * A reader that has gone (closed pipe) is no error: [`Delivery::ReaderGone`] asks the session to end quietly.
//! * A file that takes no more (full disk) is an [`OutputError`]. From then on reports go to standard output, so that
//!   what was gathered is not lost; a final report is written there at once.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Write},
    path::{Path, PathBuf},
};

use super::{Collapsed, Format, Json, Render, Report, Table};

/// Where to write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Destination {
    /// Standard output.
    #[default]
    Stdout,
    /// A file, emptied first.
    File(PathBuf),
}

/// What became of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Written.
    Written,
    /// Nobody reads any more; end without a word.
    ReaderGone,
}

/// Why a report could not be written.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The file could not be made.
    #[error("failed to create `{}`", path.display())]
    Create {
        /// What was asked for.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file, or standard output, took no more.
    #[error("failed to write to `{}`", path.display())]
    Write {
        /// Where to.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Takes reports.
#[derive(Debug)]
pub struct Output {
    sink: Sink,
    format: Format,
    written: u64,
}

#[derive(Debug)]
enum Sink {
    Terminal {
        /// Lines of the live report that stands on the screen.
        drawn: usize,
    },
    Pipe,
    File {
        file: File,
        path: PathBuf,
    },
}

impl Output {
    /// Opens the destination.
    pub fn open(destination: &Destination, format: Format) -> Result<Self, OutputError> {
        let sink = match destination {
            Destination::Stdout => Sink::of_stdout(format),
            Destination::File(path) => Sink::File {
                file: File::create(path).map_err(|source| OutputError::Create {
                    path: path.clone(),
                    source,
                })?,
                path: path.clone(),
            },
        };
        Ok(Self {
            sink,
            format,
            written: 0,
        })
    }

    /// Writes a report.
    pub fn write(&mut self, report: &Report) -> Result<Delivery, OutputError> {
        let bytes = self.bytes(report)?;
        let result = match &mut self.sink {
            Sink::Terminal { .. } | Sink::Pipe => write_stdout(&bytes),
            Sink::File { file, .. } => write_file(file, &bytes, report.is_final),
        };
        let path = match &self.sink {
            Sink::File { path, .. } => path.clone(),
            Sink::Terminal { .. } | Sink::Pipe => PathBuf::from("standard output"),
        };
        match result {
            Ok(()) => {
                self.written += 1;
                Ok(Delivery::Written)
            }
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Delivery::ReaderGone),
            Err(source) => {
                self.rescue(report);
                Err(OutputError::Write { path, source })
            }
        }
    }

    fn bytes(&mut self, report: &Report) -> Result<Vec<u8>, OutputError> {
        let mut bytes = Vec::new();
        if self.written > 0
            && self.format != Format::Json
            && !matches!(self.sink, Sink::Terminal { .. })
        {
            bytes.push(b'\n');
        }
        // Nothing but the serializer can fail when the bytes go to memory.
        let rendered = self.renderer().render(report, &mut bytes);
        rendered.map_err(|source| OutputError::Write {
            path: PathBuf::from("memory"),
            source,
        })?;
        if let Sink::Terminal { drawn } = &mut self.sink {
            let mut frame = erase(*drawn).into_bytes();
            *drawn = if report.is_final {
                0
            } else {
                count_lines(&bytes)
            };
            frame.append(&mut bytes);
            bytes = frame;
        }
        Ok(bytes)
    }

    fn renderer(&self) -> Box<dyn Render> {
        match self.format {
            Format::Json => Box::new(Json),
            Format::Collapsed => Box::new(Collapsed),
            Format::Table => Box::new(self.table()),
        }
    }

    fn table(&self) -> Table {
        match &self.sink {
            Sink::Terminal { .. } => Table {
                width: terminal_size().map(|(width, _)| width),
                // The cursor stands on a line of its own below the report.
                height: terminal_size().map(|(_, height)| height.saturating_sub(1)),
            },
            Sink::Pipe | Sink::File { .. } => Table {
                width: columns_wanted(),
                height: None,
            },
        }
    }

    /// After a failed file: standard output takes over.
    fn rescue(&mut self, report: &Report) {
        if !matches!(self.sink, Sink::File { .. }) {
            return;
        }
        self.sink = Sink::of_stdout(self.format);
        self.written = 0;
        if report.is_final
            && let Ok(bytes) = self.bytes(report)
        {
            // The first error is what the user is told.
            let _second_error = write_stdout(&bytes);
        }
    }
}

impl Sink {
    fn of_stdout(format: Format) -> Self {
        if format == Format::Table && io::stdout().is_terminal() {
            Self::Terminal { drawn: 0 }
        } else {
            Self::Pipe
        }
    }
}

fn write_stdout(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

fn write_file(file: &mut File, bytes: &[u8], is_final: bool) -> io::Result<()> {
    file.write_all(bytes)?;
    if !is_final {
        return Ok(());
    }
    // Some file systems find out late that there is no room. Pipes and devices cannot be synchronized.
    match file.sync_data() {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        result => result,
    }
}

/// Moves the cursor up over the report that stands on the screen, and clears from there.
fn erase(lines: usize) -> String {
    match lines {
        0 => String::new(),
        lines => format!("\x1b[{lines}F\x1b[J"),
    }
}

fn count_lines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&byte| byte == b'\n').count()
}

/// Columns and lines of the terminal that standard output is.
fn terminal_size() -> Option<(usize, usize)> {
    let (width, height) = terminal_size::terminal_size_of(io::stdout())?;
    Some((width.0.into(), height.0.into()))
}

/// Columns that the user wants where there is no terminal.
fn columns_wanted() -> Option<usize> {
    std::env::var("COLUMNS")
        .ok()?
        .parse()
        .ok()
        .filter(|&columns| columns > 0)
}

impl OutputError {
    /// The file, for hints.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Create { path, .. } | Self::Write { path, .. } => path,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;

    fn to_file(path: &Path, format: Format) -> Output {
        Output::open(&Destination::File(path.to_owned()), format).unwrap()
    }

    fn written(format: Format, count: usize) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report");
        std::fs::write(&path, "what was there before").unwrap();
        let mut output = to_file(&path, format);
        for _ in 0..count {
            assert_eq!(output.write(&fixture::report()).unwrap(), Delivery::Written);
        }
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn reports_follow_each_other() {
        assert_eq!(written(Format::Json, 2).lines().count(), 2);
        let one = written(Format::Collapsed, 1);
        assert_eq!(written(Format::Collapsed, 3), [one.as_str(); 3].join("\n"));
        let one = written(Format::Table, 1);
        assert_eq!(written(Format::Table, 2), format!("{one}\n{one}"));
    }

    #[test]
    fn a_full_disk_is_an_error_once_and_then_reports_go_to_standard_output() {
        let mut report = fixture::report();
        report.is_final = false;
        let mut output = to_file(Path::new("/dev/full"), Format::Json);
        let error = output.write(&report).unwrap_err();
        assert_eq!(error.path(), Path::new("/dev/full"));
        let OutputError::Write { source, .. } = error else {
            panic!("{error}")
        };
        assert_eq!(source.kind(), io::ErrorKind::StorageFull);
        assert!(matches!(output.sink, Sink::Pipe));
    }

    #[test]
    fn a_reader_that_has_gone_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let opened = path.clone();
        let reader = std::thread::spawn(move || drop(File::open(opened)));
        let mut output = to_file(&path, Format::Table);
        reader.join().unwrap();
        assert_eq!(
            output.write(&fixture::report()).unwrap(),
            Delivery::ReaderGone
        );
    }

    #[test]
    fn a_path_that_cannot_be_made_is_told() {
        let error =
            Output::open(&Destination::File("/no/such/folder/x".into()), Format::Json).unwrap_err();
        assert_eq!(error.to_string(), "failed to create `/no/such/folder/x`");
    }

    #[test]
    fn on_a_terminal_a_live_report_replaces_the_one_before() {
        let mut live = fixture::report();
        live.is_final = false;
        let mut output = Output {
            sink: Sink::Terminal { drawn: 0 },
            format: Format::Table,
            written: 0,
        };
        let first = String::from_utf8(output.bytes(&live).unwrap()).unwrap();
        assert!(first.starts_with("memtrace report"));
        let second = String::from_utf8(output.bytes(&live).unwrap()).unwrap();
        let erase = format!("\u{1b}[{}F\u{1b}[J", first.lines().count());
        assert_eq!(second, format!("{erase}{first}"));
        let last = String::from_utf8(output.bytes(&fixture::report()).unwrap()).unwrap();
        assert!(last.starts_with(&erase) && last.contains("memtrace final report"));
        assert!(
            !String::from_utf8(output.bytes(&live).unwrap())
                .unwrap()
                .contains('\u{1b}')
        );
    }
}
