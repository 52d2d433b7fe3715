//! The layer rule: a module of memtrace-user uses only modules declared above it in `lib.rs`.
//!
//! The list in `lib.rs` is the data's path, so a use in the other direction is a way back that should be a message.
//! What is read is the text: `crate::name` and the names of `crate::{…}`, comments left out.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

/// Every use of a module that stands below the user's, in the tree with `lib.rs` at its top.
pub(super) fn breaches(source: &Path) -> Result<Vec<String>> {
    let lib = source.join("lib.rs");
    let lib =
        fs::read_to_string(&lib).with_context(|| format!("failed to read `{}`", lib.display()))?;
    let layers = declared(&lib);
    let mut found = Vec::new();
    for (height, layer) in layers.iter().enumerate() {
        for (file, text) in files_of(source, layer)? {
            let used = used(&text).into_iter();
            let above =
                used.filter(|name| layers.iter().skip(height + 1).any(|other| other == name));
            found.extend(above.map(|name| {
                format!("{file}: `{layer}` uses `{name}`, which stands below it in lib.rs")
            }));
        }
    }
    Ok(found)
}

/// Modules in the order of `lib.rs`.
fn declared(lib: &str) -> Vec<&str> {
    lib.lines().filter_map(declaration).collect()
}

/// `track` of `pub mod track;`.
fn declaration(line: &str) -> Option<&str> {
    let visible = line
        .strip_prefix("pub(crate) ")
        .or(line.strip_prefix("pub "));
    visible
        .unwrap_or(line)
        .strip_prefix("mod ")?
        .strip_suffix(';')
}

/// `layer.rs` and every source file below `layer/`.
fn files_of(source: &Path, layer: &str) -> Result<Vec<(String, String)>> {
    let mut files = Vec::new();
    let mut paths = vec![source.join(format!("{layer}.rs")), source.join(layer)];
    while let Some(path) = paths.pop() {
        if path.is_dir() {
            for entry in fs::read_dir(&path)? {
                paths.push(entry?.path());
            }
        } else if path.is_file() && path.extension().is_some_and(|ending| ending == "rs") {
            let name = path
                .strip_prefix(source)
                .unwrap_or(&path)
                .display()
                .to_string();
            files.push((name, fs::read_to_string(&path)?));
        }
    }
    Ok(files)
}

/// Names that follow `crate::`, each once, in order.
fn used(text: &str) -> Vec<String> {
    let code: String = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n");
    let mut names: Vec<String> = Vec::new();
    for (at, prefix) in code.match_indices("crate::") {
        if code[..at]
            .ends_with(|before: char| before == '_' || before == '$' || before.is_alphanumeric())
        {
            continue;
        }
        names.extend(first_names(&code[at + prefix.len()..]));
    }
    names.sort();
    names.dedup();
    names
}

/// `a` of `a::b`, and `a`, `c` of `{a::{x, y}, c}`.
fn first_names(path: &str) -> Vec<String> {
    let Some(group) = path.strip_prefix('{') else {
        return vec![name(path)];
    };
    let mut names = vec![name(group)];
    let mut depth = 1;
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => names.push(name(&group[at + 1..])),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names
}

/// The identifier at the head of `text`.
fn name(text: &str) -> String {
    let text = text.trim_start();
    text.chars()
        .take_while(|character| *character == '_' || character.is_alphanumeric())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_paths_and_groups() {
        let text = "
            // use crate::comment::X;
            use crate::alpha::A;
            use crate::{beta::{B, C}, gamma, delta::D};
            fn f() -> crate::epsilon::E { memtrace_crate::other(); $crate::hidden!() }
        ";
        assert_eq!(used(text), ["alpha", "beta", "delta", "epsilon", "gamma"]);
    }

    #[test]
    fn the_order_is_that_of_the_declarations() {
        let lib = "//! mod not_this;\npub mod ids;\nmod probe;\npub(crate) mod track;\npub use track::T;\n";
        assert_eq!(declared(lib), ["ids", "probe", "track"]);
    }

    #[test]
    fn a_use_against_the_flow_is_a_breach() -> Result<()> {
        let dir = std::env::temp_dir().join(format!("memtrace-layers-{}", std::process::id()));
        fs::create_dir_all(dir.join("late"))?;
        fs::write(dir.join("lib.rs"), "mod early;\nmod late;\n")?;
        fs::write(dir.join("early.rs"), "use crate::late::X;\n")?;
        fs::write(
            dir.join("late/mod.rs"),
            "use crate::early::Y;\nuse crate::late::Z;\n",
        )?;
        let found = breaches(&dir);
        fs::remove_dir_all(&dir)?;
        assert_eq!(
            found?,
            ["early.rs: `early` uses `late`, which stands below it in lib.rs"]
        );
        Ok(())
    }
}
