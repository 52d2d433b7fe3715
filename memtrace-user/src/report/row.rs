//! A stack in a table: for each frame its name, the place of the code, and the module.

use super::{
    layout::{base_name, hard_wrap, last_parts, printable, shorten, width},
    model::{Frame, FrameKind},
};

/// A name is shortened to no less than this before the place of its code gives way.
const MIN_NAME: usize = 24;
/// A name beside its place is never shorter than this.
const LEAST_NAME: usize = 8;
/// Names are padded to no more than this, so that one long name does not push all places out of sight.
const MAX_PADDING: usize = 64;
/// Between name and place, and between place and module.
const GAP: &str = "  ";
const INLINED: &str = " (inlined)";
/// Stands for a Python function whose name could not be read in time.
const GONE: &str = "<gone>";

/// The column of names in a stack, which ends where the longest place needs it.
#[derive(Clone, Copy)]
struct NameColumn {
    /// Shorter names are padded to this.
    width: usize,
    /// Longer names are shortened to this.
    limit: usize,
}

/// The lines of a stack. `room`: columns of a line.
pub(super) fn stack(frames: &[Frame], room: usize) -> Vec<String> {
    let rows: Vec<Row> = frames.iter().map(|frame| Row::of(frame, room)).collect();
    let has_place = |row: &&Row| !row.place.is_empty() && row.stands_beside(room);
    let beside = || rows.iter().filter(has_place);
    let limit = beside()
        .map(|row| row.name_room(room))
        .min()
        .unwrap_or(room);
    let widest = beside()
        .map(|row| width(&row.name) + width(row.mark))
        .max()
        .unwrap_or(0);
    let names = NameColumn {
        width: widest.min(limit).min(MAX_PADDING),
        limit,
    };
    rows.iter().flat_map(|row| row.lines(names, room)).collect()
}

/// A frame that has chosen how much of its place it shows in the room there is.
struct Row {
    name: String,
    mark: &'static str,
    place: String,
}

impl Row {
    fn of(frame: &Frame, room: usize) -> Self {
        let name = match &frame.reason {
            Some(reason) if frame.kind == FrameKind::Python => format!("{GONE} [{reason}]"),
            Some(reason) => format!("[{reason}]"),
            None => frame.function.clone(),
        };
        let name = printable(&name);
        let mark = if frame.inlined { INLINED } else { "" };
        let wanted = (width(&name) + width(mark)).min(MIN_NAME) + width(GAP);
        let mut places = places(frame);
        let fitting = places
            .iter()
            .position(|place| wanted.saturating_add(width(place)) <= room);
        let chosen = fitting.unwrap_or(places.len() - 1);
        Self {
            name,
            mark,
            place: places.swap_remove(chosen),
        }
    }

    /// The row's lines.
    fn lines(&self, names: NameColumn, room: usize) -> Vec<String> {
        if self.place.is_empty() {
            return vec![self.name(room)];
        }
        if !self.stands_beside(room) {
            let name = self.name(room);
            let place = hard_wrap(&self.place, room).into_iter().map(str::to_owned);
            return [name].into_iter().chain(place).collect();
        }
        let name = self.name(names.limit);
        let padding = names.width.saturating_sub(width(&name));
        vec![format!("{name}{:padding$}{GAP}{}", "", self.place)]
    }

    /// The name with its mark in at most `columns`.
    fn name(&self, columns: usize) -> String {
        let name = shorten(&self.name, columns.saturating_sub(width(self.mark)));
        format!("{name}{}", self.mark)
    }

    /// Whether name and place fit on one line.
    fn stands_beside(&self, room: usize) -> bool {
        self.name_room(room) >= LEAST_NAME + width(self.mark)
    }

    fn name_room(&self, room: usize) -> usize {
        room.saturating_sub(width(GAP) + width(&self.place))
    }
}

/// Ways to say where the code is, the fullest first. The last is the one that must not be shortened.
fn places(frame: &Frame) -> Vec<String> {
    if frame.kind == FrameKind::Python {
        return python_places(frame);
    }
    let module = if frame.module.is_empty() {
        "unknown"
    } else {
        base_name(&frame.module)
    };
    let module = printable(module);
    let Some(file) = frame.file.as_deref().map(printable) else {
        return vec![format!("{module}+{:#x}", frame.offset)];
    };
    let line = frame.line.map_or(String::new(), |line| format!(":{line}"));
    let place = |parts| format!("{}{line}", last_parts(&file, parts));
    let mut places: Vec<String> = [3, 2, 1]
        .map(|parts| format!("{}{GAP}{module}", place(parts)))
        .into();
    places.push(place(1));
    places
}

/// A Python function's module is its file.
fn python_places(frame: &Frame) -> Vec<String> {
    let Some(file) = frame.file.as_deref().map(printable) else {
        return vec![String::new()];
    };
    let line = frame.line.map_or(String::new(), |line| format!(":{line}"));
    [3, 2, 1]
        .map(|parts| format!("({}{line})", last_parts(&file, parts)))
        .into()
}

/// Where the service's own code allocates, and in which function: `cache.py:42 Cache.insert`. `None` in a stack without
/// Python frames that have a name.
pub(super) fn headline(frames: &[Frame]) -> Option<String> {
    let innermost = frames
        .iter()
        .find(|frame| frame.kind == FrameKind::Python && frame.file.is_some())?;
    let file = innermost.file.as_deref().map(base_name)?;
    let line = innermost
        .line
        .map_or(String::new(), |line| format!(":{line}"));
    Some(printable(&format!("{file}{line} {}", innermost.function)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture::{LONG, frame};

    fn lines(file: &str, room: usize) -> Vec<String> {
        stack(
            &[frame(LONG, Some((file, 42)), "/usr/lib/libthing.so.1", 7)],
            room,
        )
    }

    #[test]
    fn folders_then_the_name_then_the_module_give_way_to_the_place() {
        let line = |room| lines("/src/deep/folder/file.cpp", room).join("\n");
        assert!(
            line(120).ends_with("  deep/folder/file.cpp:42  libthing.so.1"),
            "{}",
            line(120)
        );
        assert!(
            line(60).ends_with("  folder/file.cpp:42  libthing.so.1"),
            "{}",
            line(60)
        );
        assert!(
            line(53).ends_with("  file.cpp:42  libthing.so.1"),
            "{}",
            line(53)
        );
        assert_eq!(line(30), "std::vec…, int> >  file.cpp:42");
    }

    #[test]
    fn a_place_that_leaves_no_room_has_lines_of_its_own() {
        let file = "a_file_with_a_name_that_is_longer_than_the_line.cpp";
        let lines = lines(file, 33);
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert_eq!(lines[1..].concat(), format!("{file}:42"));
    }
}
