//! Rules that hold for every file of the repository.

use std::{fs, path::Path, process::Command};

use anyhow::Result;

use crate::shell;

/// Lines of the longest file of code.
const MAX_LINES: usize = 500;

/// Endings of files that are code.
const CODE: [&str; 6] = [".rs", ".c", ".cpp", ".h", ".py", ".sh"];

/// Hosts of registries and mirrors. They come from the configuration of apt and cargo: a machine behind a
/// mirror of its own can reach no other. In two parts, so that this list names none.
const HOSTS: [(&str, &str); 5] = [
    ("debian", "org"),
    ("crates", "io"),
    ("pypi", "org"),
    ("pythonhosted", "org"),
    ("rust-lang", "org"),
];

/// A text file: its path below the workspace, and what is in it.
pub(super) type File = (String, String);

/// Every text file that git follows or would follow.
pub(super) fn tracked(root: &Path) -> Result<Vec<File>> {
    let mut git = Command::new("git");
    git.args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ])
    .current_dir(root);
    let names = shell::capture(&mut git)?;
    let names = names.split('\0').filter(|name| !name.is_empty());
    let read = |name: &str| Some((name.to_owned(), fs::read_to_string(root.join(name)).ok()?));
    Ok(names.filter_map(read).collect())
}

/// Files of code that nobody wants to read in one sitting.
pub(super) fn too_long(files: &[File]) -> Vec<String> {
    let code = files
        .iter()
        .filter(|(name, _)| CODE.iter().any(|ending| name.ends_with(ending)));
    let sizes = code.map(|(name, text)| (name, text.lines().count()));
    sizes
        .filter(|(_, lines)| *lines > MAX_LINES)
        .map(|(name, lines)| format!("{name}: {lines} lines, {MAX_LINES} at most"))
        .collect()
}

/// Places that name a registry or a mirror. Cargo.lock names the registry by cargo's own design.
pub(super) fn hosts(files: &[File]) -> Vec<String> {
    let hosts = HOSTS.map(|(name, end)| format!("{name}.{end}"));
    let mut found = Vec::new();
    for (name, text) in files
        .iter()
        .filter(|(name, _)| !name.ends_with("Cargo.lock"))
    {
        for (number, line) in (1..).zip(text.lines()) {
            if let Some(host) = hosts.iter().find(|host| line.contains(*host)) {
                found.push(format!("{name}:{number}: names the host {host}"));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: String) -> File {
        (name.to_owned(), text)
    }

    #[test]
    fn only_code_has_a_longest_length() {
        let files = [
            file("a.rs", "\n".repeat(500)),
            file("b.rs", "\n".repeat(501)),
            file("c.md", "\n".repeat(501)),
        ];
        assert_eq!(too_long(&files), ["b.rs: 501 lines, 500 at most"]);
    }

    #[test]
    fn a_host_is_found_with_its_line() {
        let host = format!("deb.{}.{}", "debian", "org");
        let files = [
            file("a.md", format!("\nsee {host}/x")),
            file("Cargo.lock", host),
        ];
        assert_eq!(hosts(&files).len(), 1);
        assert!(hosts(&files)[0].starts_with("a.md:2: "));
    }
}
