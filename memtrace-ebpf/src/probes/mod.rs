//! The programs, by what they stand on.

mod allocator;
mod edit;
mod obituary;
mod process;

pub(crate) use self::allocator::UprobeContext;
