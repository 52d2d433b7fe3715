//! One frame of a table: name, place of the code, module.

use super::{
    layout::{base_name, hard_wrap, last_parts, printable, shorten, width},
    model::Frame,
};

/// A name is shortened to no less than this before the place of its code gives way.
const MIN_NAME: usize = 24;
/// A name beside its place is never shorter than this.
const LEAST_NAME: usize = 8;
/// Between name and place, and between place and module.
const GAP: &str = "  ";
const INLINED: &str = " (inlined)";

/// A frame that has chosen how much of its place it shows in the room there is.
pub(super) struct Row {
    name: String,
    mark: &'static str,
    place: String,
}

impl Row {
    /// `room`: columns from the frames' indentation to the end of the line.
    pub(super) fn of(frame: &Frame, room: usize) -> Self {
        let name = match &frame.reason {
            Some(reason) => format!("[{reason}]"),
            None => frame.function.clone(),
        };
        let name = printable(&name);
        let mark = if frame.inlined { INLINED } else { "" };
        let wanted = (width(&name) + width(mark)).min(MIN_NAME) + width(GAP);
        let mut places = places(frame);
        let fitting = places.iter().position(|place| wanted.saturating_add(width(place)) <= room);
        let chosen = fitting.unwrap_or(places.len() - 1);
        Self {
            name,
            mark,
            place: places.swap_remove(chosen),
        }
    }

    /// Columns that the name would take beside its place.
    pub(super) fn name_width(&self, room: usize) -> usize {
        (width(&self.name) + width(self.mark)).min(self.name_room(room))
    }

    /// The row's lines; names are padded to `column`.
    pub(super) fn lines(&self, column: usize, room: usize) -> Vec<String> {
        let beside = self.name_room(room);
        if beside < LEAST_NAME + width(self.mark) {
            let name = format!("{}{}", shorten(&self.name, room - width(self.mark)), self.mark);
            let place = hard_wrap(&self.place, room).into_iter().map(str::to_owned);
            return [name].into_iter().chain(place).collect();
        }
        let name = format!("{}{}", shorten(&self.name, beside - width(self.mark)), self.mark);
        let padding = column.min(beside).saturating_sub(width(&name));
        vec![format!("{name}{:padding$}{GAP}{}", "", self.place)]
    }

    fn name_room(&self, room: usize) -> usize {
        room.saturating_sub(width(GAP) + width(&self.place))
    }
}

/// Ways to say where the code is, the fullest first. The last is the one that must not be shortened.
fn places(frame: &Frame) -> Vec<String> {
    let module = if frame.module.is_empty() { "unknown" } else { base_name(&frame.module) };
    let module = printable(module);
    let Some(file) = frame.file.as_deref().map(printable) else {
        return vec![format!("{module}+{:#x}", frame.offset)];
    };
    let line = frame.line.map_or(String::new(), |line| format!(":{line}"));
    let place = |parts| format!("{}{line}", last_parts(&file, parts));
    let mut places: Vec<String> = [3, 2, 1].map(|parts| format!("{}{GAP}{module}", place(parts))).into();
    places.push(place(1));
    places
}
