//! The benchmarks of pyperformance that are run: those of memray's own suite, and those that allocate most.

use std::{ffi::OsString, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};

use crate::{table::Table, tracer::Tracer};

/// Name, arguments, and loops: about a third of a second without a tracer, but at least one.
const BENCHMARKS: [(&str, &[&str], u32); 12] = [
    ("async_tree", &["none"], 1),
    ("deltablue", &[], 100),
    ("fannkuch", &[], 1),
    ("json_dumps", &[], 40),
    ("json_loads", &[], 1000),
    ("mdp", &[], 1),
    ("pprint", &[], 1),
    ("raytrace", &[], 2),
    ("regex_compile", &[], 2),
    ("regex_dna", &[], 2),
    ("regex_effbot", &[], 20),
    ("sqlite_synth", &[], 100_000),
];

/// Where pyperformance keeps them, as it says itself.
const FOLDER: &str = "import os, pyperformance as p; print(os.path.join(os.path.dirname(p.__file__), 'data-files/benchmarks'))";

/// Measures the wanted ones.
pub(crate) fn table(
    python: &Path,
    rounds: usize,
    is_wanted: impl Fn(&str) -> bool,
) -> Result<Table> {
    let said = Command::new(python).args(["-c", FOLDER]).output()?;
    ensure!(
        said.status.success(),
        "no pyperformance: {}",
        String::from_utf8_lossy(&said.stderr)
    );
    let folder = String::from_utf8(said.stdout)?;
    let mut table = Table::default();
    for round in 1..=rounds {
        for (name, arguments, loops) in BENCHMARKS {
            if !is_wanted(name) {
                continue;
            }
            let path = Path::new(folder.trim()).join(format!("bm_{name}/run_benchmark.py"));
            let mut words: Vec<OsString> = vec![path.into(), loops.to_string().into()];
            words.extend(arguments.iter().map(OsString::from));
            for tracer in Tracer::ALL {
                let run = tracer
                    .run(python, &words)
                    .with_context(|| format!("{name} under {tracer}, round {round}"))?;
                table.add(name, tracer, run);
            }
        }
    }
    Ok(table)
}
