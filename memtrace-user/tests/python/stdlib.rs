//! Every line of the whole standard library of every interpreter.

use std::{
    io::{self, BufReader, Read},
    path::Path,
};

use memtrace::python::lines::Spans;

use super::{decoded, format, interpreters, told};

/// Runs of lines in a code object whose first and last instruction are looked up one by one as well.
const LOOKED_UP: usize = 8;

/// What was compared.
#[derive(Clone, Copy, Debug, Default)]
struct Compared {
    codes: u64,
    units: u64,
    /// Of these, with the function that looks for one line.
    single: u64,
    different: u64,
}

/// A stream of the script's numbers.
struct Stream<R>(R);

impl<R: Read> Stream<R> {
    /// Four bytes; none at the end.
    fn number(&mut self) -> Option<u32> {
        let mut bytes = [0; 4];
        match self.0.read_exact(&mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
            read => {
                read.unwrap();
                Some(u32::from_le_bytes(bytes))
            }
        }
    }

    fn bytes(&mut self, count: u32) -> Vec<u8> {
        let mut bytes = vec![0; count as usize];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    fn run(&mut self) -> (u32, i32) {
        let units = self.number().unwrap();
        (units, self.number().unwrap().cast_signed())
    }
}

#[test]
fn every_line_of_the_standard_library() {
    let results = interpreters::each(compare);
    let mut pairs = 0;
    for (python, compared) in &results {
        println!("{}: {compared:?}", python.display());
        assert_eq!(compared.different, 0, "{}", python.display());
        assert!(compared.codes > 5_000, "{}", python.display());
        assert!(compared.single > compared.codes, "{}", python.display());
        pairs += compared.units;
    }
    println!("{pairs} pairs of a code object and an instruction, 0 different");
}

fn compare(python: &Path) -> Compared {
    let mut child = interpreters::start(python, "stdlib.py");
    let mut stream = Stream(BufReader::new(child.stdout.take().unwrap()));
    let minor = stream.number().unwrap();
    let mut compared = Compared::default();
    while let Some(size) = stream.number() {
        let units = stream.number().unwrap();
        let first_line = stream.number().unwrap().cast_signed();
        let runs = stream.number().unwrap();
        let table = stream.bytes(size);
        let runs: Vec<(u32, i32)> = (0..runs).map(|_| stream.run()).collect();
        let spans = || Spans::new(format(minor), &table, first_line);
        let truth = told(&runs);
        assert_eq!(truth.len(), units as usize);
        let found = decoded(spans(), truth.len());
        let is_different = |(truth, found): &(&_, &_)| truth != found;
        compared.different += truth.iter().zip(&found).filter(is_different).count() as u64;
        for unit in ends(&runs).take(2 * LOOKED_UP) {
            compared.single += 1;
            compared.different += u64::from(spans().line_of(unit) != truth[unit as usize]);
        }
        compared.codes += 1;
        compared.units += u64::from(units);
    }
    assert!(child.wait().unwrap().success(), "{}", python.display());
    compared
}

/// The first and the last code unit of each run.
fn ends(runs: &[(u32, i32)]) -> impl Iterator<Item = u32> {
    let mut end = 0;
    runs.iter().flat_map(move |(units, _)| {
        let start = end;
        end += units;
        [start, end - 1]
    })
}
