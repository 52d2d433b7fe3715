//! The rings that the session reads itself: notices, and the probes' own log. Few records, so the probes wake the reader.

use std::{io, os::fd::AsRawFd};

use anyhow::Context as _;
use memtrace_common::notice::Notice;
use tokio::io::unix::AsyncFd;
use zerocopy::FromBytes as _;

use crate::probe::{Probes, Ring};

/// The notice ring, watched by tokio.
pub(super) struct Notices(AsyncFd<Ring>);

impl Notices {
    pub(super) fn watch(ring: Ring) -> anyhow::Result<Self> {
        watch(ring)
            .map(Self)
            .context("failed to watch the probes' notices")
    }

    /// Waits for notices and reads all there are.
    pub(super) async fn read(&mut self) -> anyhow::Result<Vec<Notice>> {
        let ready = self.0.readable_mut().await;
        let mut guard = ready.context("failed to wait for the probes' notices")?;
        let mut notices = Vec::new();
        while let Some(record) = guard.get_inner_mut().next() {
            match Notice::read_from_bytes(&record) {
                Ok(notice) => notices.push(notice),
                Err(_) => log::warn!("a notice of the probes is damaged: {} bytes", record.len()),
            }
        }
        guard.clear_ready();
        Ok(notices)
    }
}

/// Hands the probes' own log to `log`, as it comes.
pub(super) fn follow_log(probes: &mut Probes) -> anyhow::Result<()> {
    let mut logger = watch(probes.logger()?).context("failed to watch the probes' log")?;
    tokio::spawn(async move {
        while let Ok(mut guard) = logger.readable_mut().await {
            guard.get_inner_mut().flush();
            guard.clear_ready();
        }
    });
    Ok(())
}

fn watch<T: AsRawFd>(ring: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: both rings own their descriptor for as long as they live, and the result owns the ring.
    Ok(unsafe { AsyncFd::register(ring) }?)
}
