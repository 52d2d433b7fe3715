//! Stacks of Python are the interpreter's own: function, file and line of every frame, under every interpreter.

use std::{
    fmt::Write as _,
    sync::{Mutex, PoisonError},
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};
use memtrace_tests::{
    figure,
    memtrace::Memtrace,
    privilege,
    python_program::{PROGRAMS, PythonProgram},
    python_truth::{Outcome, PythonTruth},
    pythons::{self, Interpreter},
};

/// Blocks of this size and above are those of the truth; see `marker.py`.
const SMALLEST: &str = "100000";
/// Of a hundred samples, how many must have a whole stack.
const WHOLE_PERCENT: u64 = 99;
/// Recurses beyond the frames that a stack has room for: most of its stacks are cut, and say so.
const DEEP: &str = "deep";
/// How such a stack is called by [`memtrace_tests::python_truth::Verdict::Missing`].
const TOO_DEEP: &str = "cut: deeper than 256 frames";
/// Interpreters that are traced at a time: their own memtrace each.
const AT_A_TIME: usize = 2;

/// What came of a program.
struct Judged {
    program: &'static str,
    outcome: Outcome,
}

/// Lets all programs run under one interpreter and one memtrace, one after another.
fn judge(
    interpreter: &Interpreter,
    programs: &[&'static str],
    args: &[&str],
) -> Result<Vec<Judged>> {
    let mut running = Vec::new();
    for &name in programs {
        let python = match (&interpreter.with_greenlet, name) {
            (Some(path), "greenlets") => path,
            _ => &interpreter.path,
        };
        match PythonProgram::start(python, name)? {
            Some(program) => running.push((name, program)),
            None => figure::show(&format!("{}: no {name}", interpreter.name)),
        }
    }
    let mut memtrace = Memtrace::built()?
        .args(["--min-size", SMALLEST])
        .args(args.iter().copied());
    for (_, program) in &running {
        memtrace = memtrace.pid(program.pid());
    }
    let memtrace = memtrace.start()?;
    for (name, program) in &running {
        // Its allocator and its Python are found one by one, in either order.
        memtrace
            .wait_tracing_times(program.pid(), 2)
            .with_context(|| format!("{name} under {}", interpreter.name))?;
        let head = format!("memtrace: tracing {} ", program.pid());
        memtrace.wait_for("the functions", |line| {
            line.starts_with(&head) && line.ends_with("stacks show its functions")
        })?;
    }
    let mut truths: Vec<(&str, PythonTruth)> = Vec::new();
    for (name, program) in &mut running {
        truths.push((name, program.sample().with_context(|| name.to_owned())?));
    }
    let report = memtrace.final_report()?;
    ensure!(
        report.trust.lost_events == 0,
        "{} events lost",
        report.trust.lost_events
    );
    let mut judged = Vec::new();
    for ((program, _), (_, truth)) in running.iter().zip(&truths) {
        let outcome = truth.compare(report.process(truth.pid)?);
        judged.push(Judged { program, outcome });
    }
    for (name, program) in running {
        program.end().context(name)?;
    }
    Ok(judged)
}

impl Judged {
    /// Nothing is untrue, and what is missing has a reason and is rare.
    fn verdict(&self) -> Result<()> {
        let Outcome {
            samples,
            equal,
            absent,
            missing,
            ..
        } = &self.outcome;
        ensure!(self.outcome.is_true() && *absent == 0, "untrue");
        if self.program == DEEP {
            ensure!(
                *equal > 0 && missing.keys().all(|reason| reason == TOO_DEEP),
                "not only cut"
            );
        } else {
            ensure!(equal * 100 >= samples * WHOLE_PERCENT, "not whole enough");
        }
        Ok(())
    }
}

/// Judges interpreters, shows all that came of it as one table, and fails if anything is not as it should be.
fn judge_all(interpreters: &[Interpreter], programs: &[&'static str], args: &[&str]) -> Result<()> {
    let rest = Mutex::new(interpreters.iter());
    let done = Mutex::new(Vec::new());
    let next = || rest.lock().unwrap_or_else(PoisonError::into_inner).next();
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some(interpreter) = next() {
                    let judged = judge(interpreter, programs, args);
                    let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                    done.push((interpreter.name.clone(), judged));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(name, _)| {
        interpreters
            .iter()
            .position(|interpreter| interpreter.name == *name)
    });
    let mut table = format!("{args:?}");
    let mut failures = 0;
    for (name, judged) in &done {
        match judged {
            Ok(judged) => {
                for one in judged {
                    let verdict = one.verdict().err();
                    failures += u32::from(verdict.is_some());
                    let failed =
                        verdict.map_or_else(String::new, |error| format!("FAILS, {error}: "));
                    write!(
                        table,
                        "\n{name:10} {:14} {failed}{}",
                        one.program, one.outcome
                    )?;
                }
            }
            Err(error) => {
                failures += 1;
                write!(table, "\n{name:10} FAILS: {error:#}")?;
            }
        }
    }
    figure::show(&table);
    if failures > 0 {
        bail!("{failures} of the table fail, {args:?}");
    }
    Ok(())
}

/// `MEMTRACE_TEST_PROGRAMS` names the programs that count, with commas between them; all by default.
fn programs() -> Vec<&'static str> {
    let wanted = std::env::var("MEMTRACE_TEST_PROGRAMS").unwrap_or_default();
    let mut programs = PROGRAMS.to_vec();
    programs.retain(|name| wanted.is_empty() || wanted.split(',').any(|wanted| wanted == *name));
    programs
}

#[test]
fn stacks_equal_the_interpreters_own() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    judge_all(&pythons::all()?, &programs(), &[])
}

/// One old and one new interpreter: their frames are linked differently.
#[test]
fn with_both_unwinders() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let mut results = Vec::new();
    for minor in [9, 12] {
        let interpreter: Vec<_> = pythons::one(minor)?.into_iter().collect();
        for unwinder in ["loop", "tail-call"] {
            results.push(judge_all(
                &interpreter,
                &["calls", "generators", "threads", "deep"],
                &["--unwinder", unwinder],
            ));
        }
    }
    results.into_iter().collect()
}

#[test]
fn at_every_attach_level() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let interpreter: Vec<_> = pythons::one(11)?.into_iter().collect();
    let levels = ["session", "multi", "single"].map(|level| {
        judge_all(
            &interpreter,
            &["calls", "tasks", "dynamic"],
            &["--attach-level", level],
        )
    });
    levels.into_iter().collect()
}
