//! The lag of a change stream, and the time left before the oplog drops unread changes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Stands for a figure that is not known yet.
const UNKNOWN: u64 = u64::MAX;

/// The stats of a source's stream, shared with the metrics.
#[derive(Debug)]
pub struct ChangeStreamStats {
    /// Successful openings of a stream.
    pub opened: AtomicU64,
    /// Gaps: lost history, dropped or renamed collections, and changes that could not be published.
    pub gaps: AtomicU64,
    /// Changes that MongoDB could not send because they are too large.
    pub too_large: AtomicU64,
    lag_ms: AtomicU64,
    oplog_secs: AtomicU64,
    position_secs: AtomicU64,
}

impl Default for ChangeStreamStats {
    fn default() -> Self {
        Self {
            opened: AtomicU64::new(0),
            gaps: AtomicU64::new(0),
            too_large: AtomicU64::new(0),
            lag_ms: AtomicU64::new(UNKNOWN),
            oplog_secs: AtomicU64::new(UNKNOWN),
            position_secs: AtomicU64::new(UNKNOWN),
        }
    }
}

impl ChangeStreamStats {
    /// The age of the latest change when it was read, by the cluster's clock (whole seconds). Zero once the stream has caught up; `None`
    /// before the server's first answer.
    #[must_use]
    pub fn lag(&self) -> Option<Duration> {
        known(&self.lag_ms).map(Duration::from_millis)
    }

    /// The time between the oplog's oldest change and the committed position: once it is used up, history is lost. `None` if nothing
    /// was read yet, or the user may not read the database `local`.
    #[must_use]
    pub fn remaining_oplog(&self) -> Option<Duration> {
        known(&self.oplog_secs).map(Duration::from_secs)
    }

    /// Records that no change is left to read.
    pub(super) fn caught_up(&self) {
        self.lag_ms.store(0, Ordering::Relaxed);
    }

    /// Records that a change of this time was read, in seconds since 1970.
    pub(super) fn read(&self, cluster_secs: u32) {
        let lag = u64::from(now_secs()).saturating_sub(u64::from(cluster_secs)) * 1000;
        self.lag_ms.store(lag, Ordering::Relaxed);
    }

    /// Records the time of the committed position.
    pub(super) fn stands_at(&self, cluster_secs: u32) {
        self.position_secs.store(u64::from(cluster_secs), Ordering::Relaxed);
    }

    /// Records the time of the oplog's oldest change.
    pub(super) fn oldest(&self, cluster_secs: Option<u32>) {
        let remaining =
            cluster_secs.zip(known(&self.position_secs)).map(|(oldest, at)| at.saturating_sub(u64::from(oldest)));
        self.oplog_secs.store(remaining.unwrap_or(UNKNOWN), Ordering::Relaxed);
    }
}

fn known(figure: &AtomicU64) -> Option<u64> {
    Some(figure.load(Ordering::Relaxed)).filter(|value| *value != UNKNOWN)
}

/// Seconds since 1970, by this machine's clock.
pub(super) fn now_secs() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_figures_are_none() {
        let stats = ChangeStreamStats::default();
        assert_eq!((stats.lag(), stats.remaining_oplog()), (None, None));
        stats.oldest(Some(5));
        assert_eq!(stats.remaining_oplog(), None, "nothing was read");
        stats.stands_at(65);
        stats.oldest(Some(5));
        assert_eq!(stats.remaining_oplog(), Some(Duration::from_secs(60)));
        stats.oldest(None);
        assert_eq!(stats.remaining_oplog(), None);
        stats.read(now_secs().saturating_sub(100));
        assert!(stats.lag().unwrap() >= Duration::from_secs(99));
        stats.caught_up();
        assert_eq!(stats.lag(), Some(Duration::ZERO));
    }
}
