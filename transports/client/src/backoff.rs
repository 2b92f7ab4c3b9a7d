//! How long to wait before the next attempt to connect.

use std::time::Duration;

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

/// Where one connection stands in its backoff.
#[derive(Debug)]
pub(crate) struct Backoff {
    settings: BackoffSettings,
    failures: u32,
}

impl Backoff {
    pub(crate) fn new(settings: BackoffSettings) -> Self {
        Self { settings, failures: 0 }
    }

    /// Failures since the last healthy session.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// Counts a failure. The wait before the next attempt, or `None` if this was the last one allowed.
    pub(crate) fn next_wait(&mut self) -> Option<Duration> {
        self.next_wait_with(rand::random::<f64>())
    }

    /// `jitter` is from 0 to 1.
    fn next_wait_with(&mut self, jitter: f64) -> Option<Duration> {
        let doublings = self.failures;
        self.failures = self.failures.saturating_add(1);
        if self.settings.max_attempts.is_some_and(|most| self.failures >= most) {
            return None;
        }
        let full = 1_u32
            .checked_shl(doublings)
            .and_then(|factor| self.settings.initial.checked_mul(factor))
            .map_or(self.settings.max, |wait| wait.min(self.settings.max));
        Some(full.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backoff(max_attempts: Option<u32>) -> Backoff {
        Backoff::new(BackoffSettings { initial: Duration::from_millis(100), max: Duration::from_secs(1), max_attempts })
    }

    #[test]
    fn waits_double_up_to_the_cap_and_start_over_after_a_reset() {
        let mut backoff = backoff(None);
        let waits: Vec<_> = (0..6).map(|_| backoff.next_wait_with(1.0).unwrap().as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1000, 1000]);
        backoff.reset();
        assert_eq!(backoff.next_wait_with(1.0), Some(Duration::from_millis(100)));
    }

    #[test]
    fn jitter_takes_away_at_most_half() {
        assert_eq!(backoff(None).next_wait_with(0.0), Some(Duration::from_millis(50)));
        for _ in 0..1000 {
            let wait = backoff(None).next_wait().unwrap();
            assert!((50..=100).contains(&wait.as_millis()), "{wait:?}");
        }
    }

    #[test]
    fn a_very_long_outage_does_not_overflow() {
        let mut backoff = backoff(None);
        backoff.failures = u32::MAX;
        assert_eq!(backoff.next_wait_with(1.0), Some(Duration::from_secs(1)));
    }

    #[test]
    fn attempts_run_out() {
        let mut backoff = backoff(Some(2));
        assert!(backoff.next_wait().is_some());
        assert_eq!(backoff.next_wait(), None);
    }
}
