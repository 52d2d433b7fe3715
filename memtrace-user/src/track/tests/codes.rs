//! What Python frames stand for: each rule by name, and random traces against what really was at each address.

use std::collections::{BTreeMap, HashMap};

use memtrace_common::stack::{StackHeader, frame, python_frame};
use proptest::prelude::*;

use super::*;
use crate::{
    ids::{BindingId, CodeId},
    python::book::Word,
};

fn code_freed(tgid: u32, addr: u64) -> Event {
    event(event::CODE_FREED, tgid, addr, 0, 0)
}

/// Delivers a stack of Python frames, one native one outside.
fn add(tracker: &mut Tracker, id: u64, codes: &[u64]) {
    let frames = codes.iter().map(|code| python_frame(*code, 3));
    let frames: Vec<u64> = frames.chain([frame(1, 0x10)]).collect();
    let header = StackHeader {
        id,
        count: frames.len() as u16,
        ..StackHeader::default()
    };
    tracker.add_stack(&header, &frames);
}

fn apply(tracker: &mut Tracker, events: &[Event]) {
    for event in events {
        tracker.apply(event, Millis(0));
    }
}

fn new_tracker() -> Tracker {
    Tracker::new(ample(), BlockFilter::default())
}

fn freeze(tracker: &Tracker) -> Snapshot {
    tracker.freeze(BlockFilter::default(), Duration::ZERO)
}

/// Live blocks and code objects of the sites of a process, in the order of their bindings.
fn sites(snapshot: &Snapshot, pid: u32) -> Vec<(u64, Option<Vec<u32>>)> {
    let process = generations(snapshot, pid)[0];
    let mut sites = process.sites.clone();
    sites.sort_by_key(|site| site.binding);
    let codes = |site: &SiteCounts| {
        let binding = snapshot.bindings.get(&site.binding)?;
        Some(binding.codes.iter().map(|code| code.0).collect())
    };
    sites
        .iter()
        .map(|site| (site.live_blocks, codes(site)))
        .collect()
}

const A: u64 = 0x7000_0000_1000;
const B: u64 = 0x7000_0000_2000;

#[test]
fn a_freed_code_object_closes_the_sites_that_rely_on_it() {
    let mut tracker = new_tracker();
    add(&mut tracker, 1, &[A, B]);
    add(&mut tracker, 2, &[B]);
    apply(&mut tracker, &[alloc(1, 0x10, 1, 1), alloc(1, 0x20, 1, 2)]);
    tracker.settle();
    // Nobody knows this one; nothing changes.
    apply(&mut tracker, &[code_freed(1, 0x9000), alloc(1, 0x30, 1, 1)]);
    apply(
        &mut tracker,
        &[code_freed(1, A), alloc(1, 0x40, 1, 1), alloc(1, 0x50, 1, 2)],
    );
    tracker.settle();
    let snapshot = freeze(&tracker);
    assert_eq!(
        sites(&snapshot, 1),
        [
            (2, Some(vec![2, 3])),
            (2, Some(vec![3])),
            (1, Some(vec![4, 3]))
        ]
    );
    let [a, b, again] = [(2, A), (3, B), (4, A)].map(|(id, addr)| Word::New {
        id: CodeId(id),
        pid: Pid(1),
        addr,
    });
    let freed = Word::Freed {
        id: CodeId(2),
        pid: Pid(1),
    };
    assert_eq!(tracker.take_words(), [a, b, freed, again]);
    assert!(tracker.take_words().is_empty());
}

#[test]
fn what_ends_before_the_stack_arrives_separates_the_blocks_all_the_same() {
    let mut tracker = new_tracker();
    apply(
        &mut tracker,
        &[
            alloc(1, 0x10, 1, 1),
            code_freed(1, A),
            alloc(1, 0x20, 1, 1),
            code_freed(1, A),
            alloc(1, 0x30, 1, 1),
        ],
    );
    add(&mut tracker, 1, &[A, B]);
    tracker.settle();
    let snapshot = freeze(&tracker);
    // The first two were freed before anybody could know them. Equal bindings are one, and the report adds them up.
    let gone = Some(vec![CodeId::FREED.0, 2]);
    assert_eq!(
        sites(&snapshot, 1),
        [(1, gone.clone()), (1, gone), (1, Some(vec![3, 2]))]
    );
}

#[test]
fn a_stack_that_was_lost_is_bound_from_when_it_arrives() {
    let mut tracker = new_tracker();
    apply(&mut tracker, &[alloc(1, 0x10, 1, 1)]);
    tracker.settle();
    apply(&mut tracker, &[alloc(1, 0x20, 1, 1)]);
    add(&mut tracker, 1, &[A]);
    tracker.settle();
    apply(&mut tracker, &[alloc(1, 0x30, 1, 1)]);
    tracker.settle();
    let snapshot = freeze(&tracker);
    assert_eq!(sites(&snapshot, 1), [(2, None), (1, Some(vec![2]))]);
    assert_eq!(snapshot.unbound_sites, 1);
}

#[test]
fn native_stacks_are_bound_to_nothing_and_never_closed() {
    let mut tracker = new_tracker();
    apply(&mut tracker, &[alloc(1, 0x10, 1, 1)]);
    tracker.settle();
    add(&mut tracker, 1, &[]);
    apply(&mut tracker, &[code_freed(1, A), alloc(1, 0x20, 1, 1)]);
    tracker.settle();
    assert_eq!(sites(&freeze(&tracker), 1), [(2, None)]);
    assert!(tracker.take_words().is_empty());
}

#[test]
fn a_child_has_what_its_parent_had_when_it_was_forked() {
    let mut tracker = new_tracker();
    add(&mut tracker, 1, &[A]);
    apply(
        &mut tracker,
        &[
            alloc(1, 0x10, 1, 1),
            fork(1, 2),
            code_freed(1, A),
            alloc(1, 0x20, 1, 1),
            alloc(2, 0x30, 1, 1),
            code_freed(2, A),
            alloc(2, 0x40, 1, 1),
        ],
    );
    tracker.settle();
    let snapshot = freeze(&tracker);
    assert_eq!(
        sites(&snapshot, 1),
        [(1, Some(vec![2])), (1, Some(vec![3]))]
    );
    assert_eq!(
        sites(&snapshot, 2),
        [(2, Some(vec![2])), (1, Some(vec![4]))]
    );
    let owners: Vec<_> = tracker
        .take_words()
        .into_iter()
        .map(|word| match word {
            Word::New { id, pid, .. } => (id.0, pid.0),
            Word::Freed { id, pid } => (100 + id.0, pid.0),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(owners, [(2, 1), (102, 1), (102, 2), (3, 1), (4, 2)]);
}

#[test]
fn another_program_knows_nothing_of_the_former() {
    let mut tracker = new_tracker();
    add(&mut tracker, 1, &[A]);
    apply(
        &mut tracker,
        &[alloc(1, 0x10, 1, 1), exec(1), alloc(1, 0x10, 1, 1), exit(1)],
    );
    let words = tracker.take_words();
    assert_eq!(words.len(), 4, "{words:?}");
    assert_eq!(
        (&words[1], &words[3]),
        (&Word::Ended(Pid(1)), &Word::Ended(Pid(1)))
    );
    let snapshot = freeze(&tracker);
    let codes: Vec<_> = snapshot
        .processes
        .iter()
        .map(|process| process.sites[0].binding)
        .collect();
    assert_eq!(codes, [BindingId(1), BindingId(2)]);
}

#[test]
fn after_lost_ends_everything_begins_anew_and_what_was_open_is_doubted() {
    let mut tracker = new_tracker();
    add(&mut tracker, 1, &[A]);
    add(&mut tracker, 2, &[]);
    apply(
        &mut tracker,
        &[
            alloc(1, 0x10, 1, 1),
            code_freed(1, A),
            alloc(1, 0x20, 1, 1),
            alloc(1, 0x30, 1, 2),
        ],
    );
    tracker.settle();
    let since = Duration::from_millis(5);
    tracker.distrust_codes(since);
    apply(&mut tracker, &[alloc(1, 0x40, 1, 1), alloc(1, 0x50, 1, 2)]);
    tracker.settle();
    let snapshot = freeze(&tracker);
    // The native site, the closed one, the new one, the doubted one.
    assert_eq!(
        sites(&snapshot, 1),
        [(2, None), (1, Some(vec![2])), (1, Some(vec![4])), (1, None)]
    );
    assert!(
        snapshot.processes[0]
            .sites
            .iter()
            .any(|site| site.binding == BindingId::DOUBTED)
    );
    assert!(tracker.take_words().contains(&Word::Distrust { since }));
}

#[test]
fn at_its_limits_the_tracker_names_less_and_says_so() {
    let limits = Limits {
        code_bytes: 1000,
        stack_bytes: 1000,
        ..ample()
    };
    let mut tracker = Tracker::new(limits, BlockFilter::default());
    for n in 1..20 {
        add(&mut tracker, n, &[n << 12]);
        apply(&mut tracker, &[alloc(1, n << 4, 1, n)]);
        tracker.settle();
    }
    let snapshot = freeze(&tracker);
    let bytes = tracker.dictionary.bytes();
    assert!(bytes <= limits.stack_bytes, "{bytes}");
    assert!(snapshot.unbound_sites > 0);
    let (.., codes) = tracker.processes.stored();
    assert!(codes <= limits.code_bytes, "{codes}");

    let limits = Limits {
        code_bytes: 500,
        ..ample()
    };
    let mut tracker = Tracker::new(limits, BlockFilter::default());
    add(&mut tracker, 1, &[A, B, 0x5000]);
    apply(&mut tracker, &[alloc(1, 0x10, 1, 1)]);
    tracker.settle();
    let room = CodeId::NO_ROOM.0;
    assert_eq!(sites(&freeze(&tracker), 1), [(1, Some(vec![2, 3, room]))]);
}

#[test]
fn words_that_nobody_takes_are_given_up() {
    let mut tracker = new_tracker();
    for n in 1..70_000 {
        add(&mut tracker, n, &[n << 12]);
        apply(&mut tracker, &[alloc(1, n << 4, 1, n)]);
    }
    tracker.settle();
    let words = tracker.take_words();
    assert_eq!(words.len(), (1 << 16) + 1);
    assert_eq!(words.last(), Some(&Word::Missed));
}

/// What happens in two related processes and between the rings.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A process allocates from a stack.
    Alloc(u32, u64),
    /// A process frees what is at an address.
    Free(u32, usize),
    /// Process 2 is forked from process 1.
    Fork,
    /// The oldest stack on its way arrives.
    Arrive,
    /// All stacks arrive, and the round ends.
    Settle,
    /// All stacks on their way are lost, and the round ends.
    Lose,
}

const ADDRESSES: [u64; 3] = [A, B, 0x7000_0000_3000];
/// The stacks: which of the addresses they have.
const STACKS: [&[usize]; 4] = [&[0], &[1, 0], &[0, 1, 0, 2], &[2]];

fn a_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1..3_u32, 0..4_u64).prop_map(|(pid, stack)| Step::Alloc(pid, stack)),
        3 => (1..3_u32, 0..3_usize).prop_map(|(pid, addr)| Step::Free(pid, addr)),
        1 => Just(Step::Fork),
        1 => Just(Step::Arrive),
        2 => Just(Step::Settle),
        1 => Just(Step::Lose),
    ]
}

/// What is really at the addresses of a process.
type Memory = [u32; 3];

#[derive(Default)]
struct World {
    made: u32,
    memory: HashMap<u32, Memory>,
    /// Blocks by process, stack and what its frames really were.
    blocks: HashMap<u32, BTreeMap<(u64, Vec<u32>), u64>>,
    /// Numbers of these groups; a block's size is 2 to the power of its group's.
    groups: Vec<(u64, Vec<u32>)>,
    sent: Vec<u64>,
    on_their_way: Vec<u64>,
    next_block: u64,
}

impl World {
    fn memory(&mut self, pid: u32) -> Memory {
        let made = &mut self.made;
        *self.memory.entry(pid).or_insert_with(|| {
            *made += 3;
            [*made, *made + 1, *made + 2]
        })
    }

    /// The event of an allocation, if its group has a number.
    fn alloc(&mut self, pid: u32, stack: u64) -> Option<Event> {
        let memory = self.memory(pid);
        let codes: Vec<u32> = STACKS[stack as usize]
            .iter()
            .map(|at| memory[*at])
            .collect();
        let group = (stack, codes);
        let known = self.groups.iter().position(|known| *known == group);
        let number = known.unwrap_or_else(|| {
            self.groups.push(group.clone());
            self.groups.len() - 1
        });
        if number >= 48 {
            return None;
        }
        if !self.sent.contains(&stack) {
            self.sent.push(stack);
            self.on_their_way.push(stack);
        }
        let blocks = self.blocks.entry(pid).or_default();
        *blocks.entry(group).or_default() += 1;
        self.next_block += 16;
        Some(alloc(pid, self.next_block, 1 << number, stack + 1))
    }
}

fn deliver(tracker: &mut Tracker, stack: u64) {
    let codes: Vec<u64> = STACKS[stack as usize]
        .iter()
        .map(|at| ADDRESSES[*at])
        .collect();
    add(tracker, stack + 1, &codes);
}

fn take(step: Step, world: &mut World, tracker: &mut Tracker) {
    match step {
        Step::Alloc(pid, stack) => {
            if let Some(event) = world.alloc(pid, stack) {
                apply(tracker, &[event]);
            }
        }
        Step::Free(pid, at) => {
            let mut memory = world.memory(pid);
            world.made += 3;
            memory[at] = world.made;
            world.memory.insert(pid, memory);
            apply(tracker, &[code_freed(pid, ADDRESSES[at])]);
        }
        Step::Fork => {
            let memory = world.memory(1);
            world.memory.insert(2, memory);
            let blocks = world.blocks.get(&1).cloned().unwrap_or_default();
            world.blocks.insert(2, blocks);
            apply(tracker, &[fork(1, 2)]);
        }
        Step::Arrive => {
            if !world.on_their_way.is_empty() {
                deliver(tracker, world.on_their_way.remove(0));
            }
        }
        Step::Settle => {
            for stack in std::mem::take(&mut world.on_their_way) {
                deliver(tracker, stack);
            }
            tracker.settle();
        }
        Step::Lose => {
            for stack in std::mem::take(&mut world.on_their_way) {
                // Sent again when it is met again.
                world.sent.retain(|sent| *sent != stack);
            }
            tracker.settle();
        }
    }
}

/// The one group whose blocks a site holds; `None` when it holds those of several.
fn group_of(site: &SiteCounts) -> Option<usize> {
    let size = site.live_bytes.0.checked_div(site.live_blocks)?;
    let exact = size * site.live_blocks == site.live_bytes.0 && size.is_power_of_two();
    exact.then(|| size.trailing_zeros() as usize)
}

/// Every named site holds the blocks of one group, and a number always stands for the same code object.
fn check(world: &World, snapshot: &Snapshot) -> Result<(), TestCaseError> {
    let mut truth: HashMap<CodeId, u32> = HashMap::new();
    for process in snapshot.processes.iter().filter(|process| !process.exited) {
        let blocks = world.blocks.get(&process.pid.0);
        let really: u64 = blocks.map_or(0, |blocks| blocks.values().sum());
        prop_assert_eq!(process.live_blocks, really);
        for site in &process.sites {
            let Some(binding) = snapshot.bindings.get(&site.binding) else {
                continue;
            };
            let frames = STACKS[binding.stack.0 as usize - 1].len();
            prop_assert_eq!(binding.codes.len(), frames);
            if binding.codes.iter().all(|code| *code == CodeId::FREED) {
                continue;
            }
            let Some(group) = group_of(site) else {
                // Without a number its blocks may be of several code objects: they are called gone together.
                prop_assert!(binding.codes.contains(&CodeId::FREED), "{:?}", site);
                continue;
            };
            let codes = &world.groups[group].1;
            for (code, really) in binding.codes.iter().zip(codes) {
                if *code != CodeId::FREED {
                    let known = *truth.entry(*code).or_insert(*really);
                    prop_assert_eq!(known, *really, "{:?} in {:?}", code, process.pid);
                }
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_number_never_stands_for_two_code_objects(steps in prop::collection::vec(a_step(), 0..80)) {
        let mut world = World::default();
        let mut tracker = new_tracker();
        for step in steps {
            take(step, &mut world, &mut tracker);
        }
        take(Step::Settle, &mut world, &mut tracker);
        check(&world, &freeze(&tracker))?;
    }

    #[test]
    fn with_its_stacks_there_everything_is_numbered(steps in prop::collection::vec(a_step(), 0..80)) {
        let mut world = World::default();
        let mut tracker = new_tracker();
        for stack in 0..STACKS.len() as u64 {
            deliver(&mut tracker, stack);
            world.sent.push(stack);
        }
        for step in steps {
            take(step, &mut world, &mut tracker);
        }
        tracker.settle();
        let snapshot = freeze(&tracker);
        check(&world, &snapshot)?;
        for site in snapshot.processes.iter().flat_map(|process| &process.sites) {
            let codes = snapshot.bindings.get(&site.binding).map(|binding| &binding.codes);
            prop_assert!(codes.is_some_and(|codes| codes.iter().all(|code| *code >= CodeId::FIRST)));
        }
        for pid in [1, 2] {
            apply(&mut tracker, &[exit(pid)]);
        }
        prop_assert_eq!(tracker.processes.stored(), (0, 0, 0));
    }
}
