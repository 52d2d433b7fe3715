//! Which processes and files are traced, and where in them.
//!
//! An object's allocator: [`allocator`] says what to probe, from names ([`survey`], over [`names`]) and code
//! ([`routing`], [`selection`], [`probe_point`]), all read through [`image`]. [`placement`] puts together the
//! objects of one process.

pub mod allocator;
mod image;
mod names;
pub mod placement;
pub mod probe_point;
mod routing;
mod selection;
mod survey;
