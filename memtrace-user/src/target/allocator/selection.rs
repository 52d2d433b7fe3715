//! Which functions of an object are probed, and as what, so that every call counts once.
//!
//! A call of an allocating function that is made inside another one is recognised by the probe itself: the
//! outermost counts. A plain `FREE` is not watched until it returns, so a function that hands its block on to
//! another probed `free` must not be probed as well. What hands over is decided by [`routing`](super::routing):
//!
//! | function | hands over | probed |
//! |---|---|---|
//! | frees | always, the block unchanged | no |
//! | frees | sometimes, or another address | as `FREE_OUTER` |
//! | frees | never | as `FREE` (`FREE_OUTER` in an [interposer](Flavour::Interposer)) |
//! | allocates | always, by a jump as its last act | no |
//! | allocates | otherwise | yes |
//! | all operators of the object | always | none of them |
//!
//! A jump leaves the same caller on the stack, so the other function sees all there is to see; where there is a call,
//! the outer function is probed for its caller's sake. The last line treats `operator new` and `delete` together: a
//! program that puts a header in front of each block changes the address in both, and must be watched either inside
//! of them or outside, not half and half.

use memtrace_common::kind;

use super::{
    Flavour,
    names::NameSpace,
    routing::{Router, Routing, Service},
    survey::{Candidate, Survey},
};

/// A function that counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Selected<'survey> {
    pub(super) candidate: &'survey Candidate,
    /// `memtrace_common::kind`.
    pub(super) kind: u32,
}

/// Applies the table above. Of glibc's dynamic linker only the announcement of loaded objects is taken: the
/// `malloc` it exported up to glibc 2.31 serves itself, before libc is there, from memory it never gives back.
pub(super) fn select<'survey>(
    survey: &'survey Survey,
    flavour: Flavour,
    router: &Router<'_>,
) -> Vec<Selected<'survey>> {
    let is_relevant = |candidate: &&Candidate| {
        flavour != Flavour::Linker || candidate.known.kind == kind::MAPS_CHANGED
    };
    let routed: Vec<(&Candidate, Routing)> = survey
        .candidates
        .iter()
        .filter(is_relevant)
        .map(|candidate| (candidate, routing(candidate, router)))
        .collect();
    let operators_hand_over = routed
        .iter()
        .filter(|(candidate, _)| is_operator(candidate))
        .all(|(_, routing)| matches!(routing, Routing::Always { .. }));
    routed
        .into_iter()
        .filter(|(candidate, _)| !(operators_hand_over && is_operator(candidate)))
        .filter_map(|(candidate, routing)| {
            let kind = match Service::of_kind(candidate.known.kind) {
                Some(Service::Frees) => free_kind(candidate, routing, flavour)?,
                _ if hands_over_allocation(candidate, routing) => return None,
                _ => candidate.known.kind,
            };
            Some(Selected { candidate, kind })
        })
        .collect()
}

fn is_operator(candidate: &Candidate) -> bool {
    candidate.known.space == NameSpace::Operator
}

fn routing(candidate: &Candidate, router: &Router<'_>) -> Routing {
    Service::of_kind(candidate.known.kind).map_or(Routing::Never, |service| {
        router.routing(candidate.rel, candidate.size, service)
    })
}

/// Whether the function that an allocating one always jumps to sees the same call. `pvalloc` hands on a rounded size,
/// and the size that counts is the one it was asked for.
fn hands_over_allocation(candidate: &Candidate, routing: Routing) -> bool {
    match routing {
        Routing::Always {
            by_jump,
            argument_kept,
        } => by_jump && (argument_kept || candidate.known.kind != kind::PVALLOC),
        Routing::Never | Routing::Partly => false,
    }
}

/// As what a freeing function is probed; none when another one sees all of its calls.
fn free_kind(candidate: &Candidate, routing: Routing, flavour: Flavour) -> Option<u32> {
    match routing {
        Routing::Always {
            argument_kept: true,
            ..
        } => None,
        Routing::Always {
            argument_kept: false,
            ..
        }
        | Routing::Partly => Some(kind::FREE_OUTER),
        Routing::Never
            if flavour == Flavour::Interposer && candidate.known.space != NameSpace::Prefixed =>
        {
            Some(kind::FREE_OUTER)
        }
        Routing::Never => Some(kind::FREE),
    }
}
