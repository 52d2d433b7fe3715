//! Stacks of real programs without frame pointers reach their outermost frame.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use memtrace_tests::{
    figure,
    memtrace::Memtrace,
    privilege,
    programs::{self, Link},
    report::Report,
    wait,
};

/// Runs a command under memtrace from its first instruction, and demands that nearly all stacks are complete.
fn complete(name: &str, command: &[&str]) -> Result<()> {
    let outcome = Memtrace::built()?
        .arg("--")
        .args(command.iter().copied())
        .start()?
        .end()?;
    let stderr = outcome.stderr.clone();
    check_complete(
        name,
        &outcome
            .last_report()
            .with_context(|| format!("{name}: {stderr}"))?,
    )
}

fn check_complete(name: &str, report: &Report) -> Result<()> {
    let trust = &report.trust;
    let share = 100.0 * (1.0 - trust.cut_stacks as f64 / trust.stacks as f64);
    figure::show(&format!(
        "{name}: {} stacks, {} cut, {share:.3} % complete, {} lost",
        trust.stacks, trust.cut_stacks, trust.lost_events
    ));
    ensure!(trust.stacks >= 1000, "{name}: only {} stacks", trust.stacks);
    ensure!(
        share >= 99.5,
        "{name}: {share:.2} % of the stacks are complete; cut: {:?}",
        trust.cut
    );
    Ok(())
}

fn missing(program: &str) -> Result<bool> {
    let there = Command::new(program).arg("--version").output().is_ok();
    if !there {
        privilege::skip(&format!("`{program}` is not installed"))?;
    }
    Ok(!there)
}

#[test]
fn gdb_is_complete() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    if missing("gdb")? {
        return Ok(());
    }
    // A large C++ program at its work: reading another program's symbols.
    complete(
        "gdb",
        &[
            "gdb",
            "-nx",
            "-batch",
            "-iex",
            "set debuginfod enabled off",
            "-ex",
            "info scope main",
            "/usr/bin/gdb",
        ],
    )
}

#[test]
fn sqlite3_is_complete() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    if missing("sqlite3")? {
        return Ok(());
    }
    let sql = "create table t(a integer primary key, b text, c real);\
        with recursive n(i) as (select 1 union all select i + 1 from n where i < 3000)\
        insert into t select i, hex(randomblob(20)), i * 1.5 from n;\
        create index tb on t(b); select count(*), max(length(b)) from t where b like '%A%';\
        select substr(b, 1, 2) k, count(*), avg(c) from t group by k order by 2 desc limit 5;\
        select count(*) from t x join t y on x.b < y.b and x.a % 100 = 1 and y.a % 100 = 2; pragma integrity_check;";
    complete("sqlite3", &["sqlite3", ":memory:", sql])
}

#[test]
fn git_is_complete() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    if missing("git")? {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let there = folder.path().to_string_lossy().into_owned();
    import_history(&there)?;
    complete(
        "git",
        &["git", "-C", &there, "log", "-p", "--stat", "--all"],
    )
}

/// A repository of some commits that change some files, made by one `git fast-import`.
fn import_history(folder: &str) -> Result<()> {
    let mut stream = String::new();
    for commit in 1..=20 {
        stream += &format!(
            "commit refs/heads/main\nmark :{commit}\ncommitter n <e> {commit} +0000\ndata 1\nm\n"
        );
        for file in 0..10 {
            let text: String = (0..200)
                .map(|line| format!("{} {file}\n", line * (commit % (line + 2))))
                .collect();
            stream += &format!("M 644 inline file{file}\ndata {}\n{text}\n", text.len());
        }
    }
    let git = |args: &[&str]| {
        let mut command = Command::new("git");
        command
            .args(["-C", folder])
            .args(args)
            .stdin(Stdio::piped())
            .stderr(Stdio::null());
        command.spawn()
    };
    ensure!(git(&["init", "-q"])?.wait()?.success(), "git init");
    let mut import = git(&["fast-import", "--quiet"])?;
    let mut stdin = import.stdin.take().context("no standard input")?;
    stdin.write_all(stream.as_bytes())?;
    drop(stdin);
    ensure!(import.wait()?.success(), "git fast-import");
    Ok(())
}

#[test]
fn a_rust_program_is_complete() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let rusty = programs::build("rusty", Link::Dynamic)?;
    complete("rusty", &[&rusty.to_string_lossy()])
}

#[test]
fn redis_is_complete() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    if missing("redis-server")? {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let socket = folder
        .path()
        .join("redis.sock")
        .to_string_lossy()
        .into_owned();
    let arguments = [
        "--port",
        "0",
        "--unixsocket",
        &socket,
        "--save",
        "",
        "--dir",
        &folder.path().to_string_lossy(),
    ];
    let memtrace = Memtrace::built()?
        .args(["--", "redis-server"])
        .args(arguments)
        .start()?;
    wait::until("redis's socket", || {
        Ok(Path::new(&socket).exists().then_some(()))
    })?;
    let done = Command::new("redis-benchmark")
        .args(["-s", &socket, "-q", "-n", "2000", "-c", "10"])
        .output()?;
    ensure!(
        done.status.success(),
        "redis-benchmark: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    Command::new("redis-cli")
        .args(["-s", &socket, "shutdown", "nosave"])
        .output()?;
    check_complete("redis", &memtrace.end()?.last_report()?)
}
