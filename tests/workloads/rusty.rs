//! rusty: an optimized Rust program that allocates in the ways Rust programs do: maps, strings, boxed closures, threads,
//! sorting, formatting, and unwinding through a panic. It needs no go and ends by itself.

use std::{collections::BTreeMap, collections::HashMap, fmt::Write, hint::black_box, panic, thread};

trait Shape {
    fn area(&self) -> f64;
    fn name(&self) -> String;
}

struct Square(f64);
struct Circle(f64);

impl Shape for Square {
    fn area(&self) -> f64 {
        self.0 * self.0
    }
    fn name(&self) -> String {
        format!("square {:.3}", self.0)
    }
}

impl Shape for Circle {
    fn area(&self) -> f64 {
        self.0 * self.0 * std::f64::consts::PI
    }
    fn name(&self) -> String {
        format!("circle {:.3}", self.0)
    }
}

fn words(seed: u64) -> Vec<String> {
    (0..200u64).map(|n| format!("{:x}", n.wrapping_mul(seed ^ 0x9e37_79b9_7f4a_7c15))).collect()
}

fn counted(seed: u64) -> BTreeMap<String, Vec<usize>> {
    let mut map = BTreeMap::<String, Vec<usize>>::new();
    for (index, word) in words(seed).into_iter().enumerate() {
        map.entry(word.chars().rev().collect()).or_default().push(index);
    }
    map
}

fn shapes(seed: u64) -> String {
    let all: Vec<Box<dyn Shape>> = (0..50)
        .map(|n| n as f64 + seed as f64)
        .map(|size| if size as u64 % 2 == 0 { Box::new(Square(size)) as Box<dyn Shape> } else { Box::new(Circle(size)) })
        .collect();
    let mut text = String::new();
    for shape in &all {
        let _ = writeln!(text, "{}: {}", shape.name(), shape.area());
    }
    text
}

fn sorted(seed: u64) -> Vec<String> {
    let mut all = words(seed);
    all.sort_by_cached_key(|word| word.chars().rev().collect::<String>());
    all
}

fn caught(seed: u64) -> usize {
    panic::catch_unwind(|| {
        let guard = words(seed);
        if guard.len() > 10 {
            panic::panic_any(guard.len());
        }
    })
    .map_or_else(|thrown| thrown.downcast_ref::<usize>().copied().unwrap_or(0), |()| 0)
}

fn one(seed: u64) -> usize {
    let index: HashMap<String, usize> = counted(seed).into_iter().map(|(word, at)| (word, at.len())).collect();
    let joined = index.keys().map(String::as_str).collect::<Vec<_>>().join(",");
    joined.len() + shapes(seed).len() + sorted(seed).len() + caught(seed)
}

fn main() {
    panic::set_hook(Box::new(|_| {}));
    let threads: Vec<_> = (0..4u64)
        .map(|id| thread::spawn(move || (0..40).map(|n| one(id * 1000 + n)).sum::<usize>()))
        .collect();
    let total: usize = threads.into_iter().map(|thread| thread.join().unwrap_or(0)).sum();
    black_box(total);
}
