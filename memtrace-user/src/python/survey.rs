//! Which CPythons run on this machine, and whether their frames can be told.

use std::{collections::HashMap, sync::Arc};

use super::{
    Refusal,
    image::{self, PythonImage},
    runtime::{self, Runtime, Unfound},
};
use crate::{
    ids::{ObjectId, Pid},
    system::{Check, Verdict},
    target::{maps, object::Object, procfs, store::ObjectStore},
    unwind::mappings::bias,
};

/// Runtimes that are listed.
const MAX_LISTED: usize = 64;
/// Files that are looked at.
const MAX_OBJECTS: usize = 1024;

/// One line for each CPython that runs, or one that says that there is none.
#[must_use]
pub fn checks() -> Vec<Check> {
    let mut survey = Survey::new();
    let mut pids: Vec<Pid> = procfs::processes()
        .iter()
        .map(|process| process.pid)
        .collect();
    pids.sort_unstable();
    for pid in pids {
        survey.look_at(pid);
    }
    if survey.left_out > 0 {
        let more = format!("{} more", survey.left_out);
        survey.checks.push(Check::ok("python", more));
    }
    if survey.checks.is_empty() {
        survey.checks.push(Check::ok("python", "none runs"));
    }
    survey.checks
}

type Image = Result<PythonImage, Refusal>;

struct Survey {
    store: ObjectStore,
    /// What was found in each file.
    images: HashMap<ObjectId, Option<Arc<Image>>>,
    checks: Vec<Check>,
    left_out: usize,
}

impl Survey {
    fn new() -> Self {
        Self {
            store: ObjectStore::new(MAX_OBJECTS),
            images: HashMap::new(),
            checks: Vec::new(),
            left_out: 0,
        }
    }

    fn look_at(&mut self, pid: Pid) {
        let mappings = maps::read(pid).unwrap_or_default();
        for mapping in mappings.iter().filter(|mapping| mapping.access.execute) {
            let Some(object) = self.store.object_of(pid, mapping) else {
                continue;
            };
            let Some(image) = self.image(&object) else {
                continue;
            };
            if self.checks.len() == MAX_LISTED {
                self.left_out += 1;
                return;
            }
            let bias = object.elf.as_ref().ok().and_then(|elf| bias(mapping, elf));
            let found = match (image.as_ref(), bias) {
                (Ok(image), Some(bias)) => runtime::find(pid, &object, bias, image),
                (Ok(_), None) => Err(Unfound::NotYet),
                (Err(refusal), _) => Err(refusal.clone().into()),
            };
            self.checks.push(check(pid, &object, found));
            return;
        }
    }

    fn image(&mut self, object: &Object) -> Option<Arc<Image>> {
        self.images
            .entry(object.id)
            .or_insert_with(|| image::find(object).map(Arc::new))
            .clone()
    }
}

fn check(pid: Pid, object: &Object, found: Result<Runtime, Unfound>) -> Check {
    let path = object.path.display();
    let (verdict, detail) = match found {
        Ok(runtime) if runtime.provisional => (
            Verdict::Ok,
            format!("CPython {}: just begun, not tested yet", runtime.version),
        ),
        Ok(runtime) => (
            Verdict::Ok,
            format!(
                "CPython {}: self-test passed, {}",
                runtime.version, runtime.reach
            ),
        ),
        Err(unfound) => (Verdict::Degraded, unfound.to_string()),
    };
    Check {
        name: "python",
        verdict,
        detail: format!("pid {pid}, {path}: {detail}"),
        remedy: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::tests::processes::{Program, interpreters, series};

    #[test]
    fn each_runtime_is_a_line_and_many_are_cut() {
        let mut survey = Survey::new();
        let mut programs = Vec::new();
        for interpreter in interpreters() {
            let (major, minor) = series(&interpreter);
            let mut program = Program::start(
                &interpreter,
                "import os; os.write(1, b'begun\\n'); os.read(0, 1)",
            );
            program.line();
            survey.look_at(program.pid());
            let Check {
                detail, verdict, ..
            } = survey.checks.last().expect("it has a line");
            assert!(detail.starts_with(&format!("pid {}, /", program.pid())));
            let version = format!(": CPython {major}.{minor}.");
            assert!(detail.contains(&version), "{detail}");
            let is_supported = (major, minor) >= (3, 8);
            assert_eq!(*verdict == Verdict::Ok, is_supported, "{detail}");
            assert_eq!(detail.contains("self-test passed"), is_supported);
            programs.push(program);
        }
        for _ in 0..MAX_LISTED {
            survey.look_at(programs[0].pid());
        }
        assert_eq!(survey.checks.len(), MAX_LISTED);
        assert_eq!(survey.left_out, programs.len());
        survey.look_at(Pid(std::process::id()));
        assert_eq!(survey.left_out, programs.len());
    }

    #[test]
    fn a_machine_is_looked_at_as_a_whole() {
        let checks = checks();
        assert!(!checks.is_empty() && checks.len() <= MAX_LISTED + 1);
    }
}
