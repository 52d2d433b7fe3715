//! The kernel's events as tracefs describes them: their numbers, and where fields lie in their records.
//!
//! Nothing is mounted where others can see it: a machine without tracefs is given one that only this process holds.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{AsFd as _, OwnedFd},
};

use anyhow::Context as _;
use nix::{
    fcntl::{OFlag, openat},
    sys::stat::Mode,
};

use super::sys;

/// Where it may be mounted; the second on machines that only have debugfs.
const MOUNTS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
/// A description is a page; more is damage.
const MAX_FORMAT: u64 = 64 << 10;

/// The root of a tracefs.
#[derive(Debug)]
pub(super) struct Tracefs(OwnedFd);

/// One event.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Event {
    name: String,
    id: u64,
    /// Name and offset of each field.
    fields: Vec<(String, u32)>,
}

impl Tracefs {
    /// The mounted one, or one of our own.
    pub(super) fn open() -> anyhow::Result<Self> {
        let mounted = MOUNTS.iter().find_map(|mount| {
            let root = File::open(mount).ok()?;
            openat(&root, "events", OFlag::O_RDONLY, Mode::empty()).ok()?;
            Some(root.into())
        });
        match mounted {
            Some(root) => Ok(Self(root)),
            None => sys::mount_privately(c"tracefs").map(Self).context(
                "tracefs is not mounted where this user may read it, and mounting it failed",
            ),
        }
    }

    /// Reads an event's description; `name` is `subsystem/event`.
    pub(super) fn event(&self, name: &str) -> anyhow::Result<Event> {
        let read = || -> io::Result<String> {
            let path = format!("events/{name}/format");
            let file = openat(
                self.0.as_fd(),
                path.as_str(),
                OFlag::O_RDONLY,
                Mode::empty(),
            )?;
            let mut text = String::new();
            File::from(file)
                .take(MAX_FORMAT)
                .read_to_string(&mut text)?;
            Ok(text)
        };
        let text =
            read().with_context(|| format!("failed to read the format of event `{name}`"))?;
        Event::parse(name, &text)
            .with_context(|| format!("the format of event `{name}` is damaged"))
    }
}

impl Event {
    /// Lines are `ID: 205` and `field:pid_t pid; offset:8; size:4; signed:1;`.
    fn parse(name: &str, format: &str) -> Option<Self> {
        let id = format.lines().find_map(|line| line.strip_prefix("ID:"))?;
        Some(Self {
            name: name.to_owned(),
            id: id.trim().parse().ok()?,
            fields: format.lines().filter_map(field).collect(),
        })
    }

    /// `subsystem/event`.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Its number on the running kernel.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Where a field lies in the record.
    pub(super) fn field(&self, name: &str) -> Option<u32> {
        let field = self.fields.iter().find(|(field, _)| field == name);
        field.map(|(_, offset)| *offset)
    }
}

/// Name and offset of the field that a line of a format describes.
fn field(line: &str) -> Option<(String, u32)> {
    let mut parts = line.trim_start().split(';').map(str::trim);
    let declaration = parts.next()?.strip_prefix("field:")?;
    let offset = parts.next()?.strip_prefix("offset:")?.parse().ok()?;
    let name = declaration.split_ascii_whitespace().last()?;
    let name = name.split_once('[').map_or(name, |(name, _)| name);
    Some((name.to_owned(), offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEWTASK: &str = "name: task_newtask
ID: 205
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;

\tfield:pid_t pid;\toffset:8;\tsize:4;\tsigned:1;
\tfield:char comm[16];\toffset:12;\tsize:16;\tsigned:0;
\tfield:__data_loc char[] filename;\toffset:28;\tsize:4;\tsigned:0;
\tfield:u64 clone_flags;\toffset:32;\tsize:8;\tsigned:0;

print fmt: \"pid=%d field:x\", REC->pid
";

    #[test]
    fn fields_are_read_by_name() {
        let event = Event::parse("task/task_newtask", NEWTASK).unwrap();
        assert_eq!(event.id(), 205);
        let fields = ["pid", "comm", "filename", "clone_flags"].map(|name| event.field(name));
        assert_eq!(fields, [Some(8), Some(12), Some(28), Some(32)]);
        assert_eq!(event.field("char[]"), None);
    }

    #[test]
    fn damage_is_no_event() {
        assert_eq!(Event::parse("x", ""), None);
        assert_eq!(Event::parse("x", "ID: many"), None);
        let bare = Event::parse("x", "ID: 1\n\tfield:pid_t pid; offset:no;").unwrap();
        assert_eq!(bare.field("pid"), None);
    }
}
