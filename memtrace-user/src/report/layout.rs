//! Text that fits: widths as terminals count them, names shortened in the middle, parts broken over lines.

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// Stands for what was left out.
const ELLIPSIS: char = '…';

/// Columns that a text takes.
pub(super) fn width(text: &str) -> usize {
    text.width()
}

/// A text without characters that would move the cursor or speak to the terminal: names come from other
/// people's processes.
pub(super) fn printable(text: &str) -> String {
    let replace = |character: char| {
        if character.is_control() {
            '?'
        } else {
            character
        }
    };
    text.chars().map(replace).collect()
}

/// The text, shortened in the middle to at most `columns`: both ends of a name tell more than its inside.
pub(super) fn shorten(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let room = columns.saturating_sub(1);
    let tail = last_columns(text, room / 2);
    let head = first_columns(text, room - width(tail));
    if columns == 0 {
        String::new()
    } else {
        format!("{head}{ELLIPSIS}{tail}")
    }
}

/// The longest beginning that fits into `columns`.
pub(super) fn first_columns(text: &str, columns: usize) -> &str {
    let mut used = 0;
    for (index, character) in text.char_indices() {
        used += character.width().unwrap_or(0);
        if used > columns {
            return &text[..index];
        }
    }
    text
}

fn last_columns(text: &str, columns: usize) -> &str {
    let mut used = 0;
    for (index, character) in text.char_indices().rev() {
        used += character.width().unwrap_or(0);
        if used > columns {
            return &text[index + character.len_utf8()..];
        }
    }
    text
}

/// Breaks a text over lines of at most `columns`, losing nothing. A character wider than the line stands alone.
pub(super) fn hard_wrap(text: &str, columns: usize) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let mut line = first_columns(rest, columns);
        if line.is_empty() {
            line = &rest[..rest.chars().next().map_or(rest.len(), char::len_utf8)];
        }
        lines.push(line);
        rest = &rest[line.len()..];
    }
    lines
}

/// How far lines are moved to the right.
#[derive(Clone, Copy, Debug)]
pub(super) struct Indent {
    /// The first line.
    pub(super) first: usize,
    /// Every other.
    pub(super) rest: usize,
}

/// Joins parts with `separator`, and begins a new line before a part that does not fit. A part wider than a line is
/// broken between words; a word wider than a line is shortened.
pub(super) fn flow(
    parts: &[String],
    separator: &str,
    indent: Indent,
    columns: usize,
) -> Vec<String> {
    let mut lines = Lines {
        indent,
        columns,
        done: Vec::new(),
        line: String::new(),
    };
    for part in parts.iter().filter(|part| !part.is_empty()) {
        if lines.line.is_empty() || !lines.append(separator, part) {
            lines.end();
            for word in part.split(' ') {
                if !lines.append(" ", word) {
                    lines.end();
                    lines.append(" ", &shorten(word, lines.room()));
                }
            }
        }
    }
    lines.end();
    lines.done
}

struct Lines {
    indent: Indent,
    columns: usize,
    done: Vec<String>,
    /// The line being filled, without its indentation.
    line: String,
}

impl Lines {
    fn indentation(&self) -> usize {
        if self.done.is_empty() {
            self.indent.first
        } else {
            self.indent.rest
        }
    }

    fn room(&self) -> usize {
        self.columns.saturating_sub(self.indentation())
    }

    /// Adds a text to the line if it fits.
    fn append(&mut self, separator: &str, text: &str) -> bool {
        let separator = if self.line.is_empty() { "" } else { separator };
        let fits = width(&self.line) + width(separator) + width(text) <= self.room();
        if fits {
            self.line.push_str(separator);
            self.line.push_str(text);
        }
        fits
    }

    fn end(&mut self) {
        if !self.line.is_empty() {
            let line = format!("{:indent$}{}", "", self.line, indent = self.indentation());
            self.done.push(line);
            self.line.clear();
        }
    }
}

/// The last part of a path.
pub(super) fn base_name(path: &str) -> &str {
    last_parts(path, 1)
}

/// The last `count` parts of a path.
pub(super) fn last_parts(path: &str, count: usize) -> &str {
    let slash = path.rmatch_indices('/').nth(count.saturating_sub(1));
    slash
        .map(|(index, _)| &path[index + 1..])
        .filter(|parts| !parts.is_empty())
        .unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_shortened_text_fits_and_keeps_both_ends(text in "\\PC{0,60}", columns in 0_usize..60) {
            let short = shorten(&text, columns);
            prop_assert!(width(&short) <= columns.max(width(&text).min(columns)));
            if let Some((head, tail)) = short.split_once(ELLIPSIS).filter(|_| !text.contains(ELLIPSIS)) {
                prop_assert!(text.starts_with(head) && text.ends_with(tail));
            }
        }

        #[test]
        fn hard_wrapping_loses_nothing(text in "\\PC{0,60}", columns in 2_usize..60) {
            let lines = hard_wrap(&text, columns);
            prop_assert_eq!(lines.concat(), text.as_str());
            prop_assert!(lines.iter().all(|line| width(line) <= columns));
        }

        #[test]
        fn flowing_parts_fit(parts in prop::collection::vec("[a-z]{0,12}( [a-z]{1,30}){0,3}", 0..8), columns in 12_usize..80) {
            for line in flow(&parts, " · ", Indent { first: 0, rest: 4 }, columns) {
                prop_assert!(width(&line) <= columns, "{:?}", line);
            }
        }
    }

    #[test]
    fn names_are_shortened_in_the_middle() {
        assert_eq!(shorten("std::vector<int>::push_back", 11), "std::…_back");
        assert_eq!(shorten("short", 5), "short");
        assert_eq!(shorten("short", 1), "…");
        assert_eq!(shorten("short", 0), "");
    }

    #[test]
    fn paths_keep_their_last_parts() {
        assert_eq!(last_parts("/a/b/c.c", 2), "b/c.c");
        assert_eq!(last_parts("c.c", 2), "c.c");
        assert_eq!(last_parts("/c.c", 1), "c.c");
        assert_eq!(base_name("[vdso]"), "[vdso]");
    }
}
