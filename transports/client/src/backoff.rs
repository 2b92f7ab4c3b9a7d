//! How long to wait before the next attempt to connect.

use std::time::Duration;

use broker_core::Backoff;

use crate::config::LONGEST;
use crate::error::Error;

/// Exponential backoff with jitter: the wait doubles from `initial` to `max`, and each one is drawn from its upper half,
/// so that a thousand clients of a broker that restarts do not come back in the same millisecond.
///
/// It starts over once a session has proved healthy: something was confirmed, delivered or otherwise answered after the
/// handshake. A mere connect does not count, or a broker that accepts and then fails would be hammered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackoffSettings {
    /// The first wait, before the jitter. Not zero. Default: 100 ms.
    pub initial: Duration,
    /// The longest wait, before the jitter. At least `initial`, at most a year. Default: 30 s.
    pub max: Duration,
    /// After how many failures in a row to give up, at least 1; `None` (the default): never.
    pub max_attempts: Option<u32>,
}

impl Default for BackoffSettings {
    fn default() -> Self {
        Self { initial: Duration::from_millis(100), max: Duration::from_secs(30), max_attempts: None }
    }
}

impl BackoffSettings {
    pub(crate) fn validate(&self) -> Result<(), Error> {
        if self.initial.is_zero() || self.max < self.initial || self.max > LONGEST {
            return Err(Error::Invalid("backoff: expected 0 < initial <= max <= a year".to_owned()));
        }
        if self.max_attempts == Some(0) {
            return Err(Error::Invalid("backoff: max_attempts is at least 1".to_owned()));
        }
        Ok(())
    }
}

/// The backoff of one connection: the shared one, which gives up after `max_attempts`.
#[derive(Debug)]
pub(crate) struct Reconnecting {
    backoff: Backoff,
    max_attempts: Option<u32>,
}

impl Reconnecting {
    pub(crate) fn new(settings: &BackoffSettings) -> Self {
        Self { backoff: Backoff::new(settings.initial, settings.max), max_attempts: settings.max_attempts }
    }

    /// Failures since the last healthy session.
    pub(crate) fn failures(&self) -> u32 {
        self.backoff.failures()
    }

    pub(crate) fn reset(&mut self) {
        self.backoff.reset();
    }

    /// Counts a failure. The wait before the next attempt, or `None` if this was the last one allowed.
    pub(crate) fn next_wait(&mut self) -> Option<Duration> {
        let wait = self.backoff.next_delay();
        self.max_attempts.is_none_or(|most| self.backoff.failures() < most).then_some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reconnecting(max_attempts: Option<u32>) -> Reconnecting {
        let (initial, max) = (Duration::from_millis(100), Duration::from_secs(1));
        Reconnecting::new(&BackoffSettings { initial, max, max_attempts })
    }

    #[test]
    fn waits_grow_from_initial_to_max_and_start_over_after_a_reset() {
        let mut reconnecting = reconnecting(None);
        let first = reconnecting.next_wait().unwrap().as_millis();
        assert!((50..=100).contains(&first), "{first}");
        let last = (0..9).filter_map(|_| reconnecting.next_wait()).last().unwrap().as_millis();
        assert!((500..=1000).contains(&last), "{last}");
        assert_eq!(reconnecting.failures(), 10);
        reconnecting.reset();
        assert_eq!(reconnecting.failures(), 0);
        assert!(reconnecting.next_wait().unwrap().as_millis() <= 100);
    }

    #[test]
    fn attempts_run_out_and_a_reset_allows_as_many_again() {
        let mut reconnecting = reconnecting(Some(2));
        assert!(reconnecting.next_wait().is_some());
        assert_eq!(reconnecting.next_wait(), None);
        reconnecting.reset();
        assert!(reconnecting.next_wait().is_some());
    }
}
