//! The program as a user meets it, as far as no privilege is needed: help, wrong usage, the doctor.

#![expect(clippy::unwrap_used, reason = "a panic is how a test reports")]

use std::process::{Command, Output, Stdio};

fn memtrace(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_memtrace"));
    command.args(args).env_remove("COLUMNS");
    command
}

fn run(args: &[&str]) -> (Option<i32>, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = memtrace(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn help_goes_to_standard_output() {
    for flag in ["-h", "--help"] {
        let (code, stdout, stderr) = run(&[flag]);
        assert_eq!((code, stderr.as_str()), (Some(0), ""));
        assert!(
            stdout.contains("sudo memtrace --pid 4711") && stdout.contains("Exit codes:"),
            "{stdout}"
        );
    }
    assert!(run(&["--version"]).1.starts_with("memtrace "));
}

#[test]
fn hidden_options_are_hidden() {
    let (_, help, _) = run(&["--help"]);
    for option in [
        "--attach-level",
        "--unwinder",
        "--ring-bytes",
        "--unwind-rows",
    ] {
        assert!(!help.contains(option), "{option}");
    }
}

#[test]
fn a_bare_call_says_what_to_type() {
    let (code, stdout, stderr) = run(&[]);
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    assert!(
        stderr.contains("nothing to trace") && stderr.contains("try:  sudo memtrace --pid 4711"),
        "{stderr}"
    );
}

#[test]
fn wrong_usage_ends_with_2_and_names_what_is_wrong() {
    for (args, word) in [
        (&["-p", "nonsense"][..], "nonsense"),
        (&["--no-such-option"], "--no-such-option"),
        (&["-p", "1", "--format", "xml"], "xml"),
        (&["-p", "1", "-i", "soon"], "soon"),
        (
            &["-p", "1", "--min-size", "2k", "--max-size", "1k"],
            "--max-size",
        ),
        (&["-p", "1", "--ring-bytes", "5000"], "--ring-bytes"),
        (&["-p", "1", "--memory-limit", "1"], "--memory-limit"),
        (&["-p", "1", "-d", "0"], "--duration"),
        (&["doctor", "-p", "1"], "-p"),
    ] {
        let (code, stdout, stderr) = run(args);
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{args:?}: {stderr}");
        assert!(stderr.contains(word), "{args:?}: {stderr}");
    }
}

#[test]
fn the_doctor_has_a_line_for_every_check_and_a_verdict() {
    let (code, stdout, stderr) = run(&["doctor"]);
    assert!(!stderr.contains("panicked"), "{stderr}");
    let (word, expected) = if code == Some(0) {
        ("can", Some(0))
    } else {
        ("cannot", Some(3))
    };
    assert_eq!(code, expected, "{stdout}");
    assert!(
        stdout.ends_with(&format!("\nmemtrace {word} trace here\n")),
        "{stdout}"
    );
    for name in [
        "kernel ",
        "capabilities ",
        "lockdown ",
        "pid namespace ",
        "locked memory ",
    ] {
        assert!(stdout.contains(name), "{name}: {stdout}");
    }
    let remedies = stdout.matches("  try: ").count();
    let troubles = stdout
        .lines()
        .filter(|line| line.starts_with("degraded") || line.starts_with("missing"));
    assert_eq!(remedies, troubles.count(), "{stdout}");
}

#[test]
fn a_closed_pipe_is_no_error() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let expected = run(&["doctor"]).0;
    let output = memtrace(&["doctor"])
        .stdout(writer)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), expected);
    assert!(
        output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
