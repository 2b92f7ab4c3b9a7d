//! Schedules events without drift.

use std::time::Duration;

/// The backlog that a slow client may catch up on. Beyond it the schedule shifts: a client that stalled for an hour gets one second's
/// worth of events at once and then the usual pace.
const MAX_LAG_SECONDS: f64 = 1.0;

/// The longest time between two checks of the schedule, so that very low rates do not overflow.
const MAX_WAIT: Duration = Duration::from_secs(86_400);

/// The schedule of one connection: slot `k`, counted from 0, is due `k / rate` seconds after its start. Each slot is computed from the
/// start and not from the one before, so rounding errors and late wake-ups do not add up.
#[derive(Debug)]
pub(super) struct Pacer {
    rate: f64,
    /// Slots that were used or skipped.
    used: u64,
}

impl Pacer {
    /// A schedule for `rate` events per second, which must be above 0 and finite.
    pub(super) fn new(rate: f64) -> Self {
        Self { rate, used: 0 }
    }

    /// The number of events due at `elapsed` after the start. Skips slots beyond the largest backlog.
    pub(super) fn due(&mut self, elapsed: Duration) -> u64 {
        // Casts saturate. At a million per second, integers stay exact for 285 years.
        let mut slots = ((elapsed.as_secs_f64() * self.rate).floor() as u64).saturating_add(1);
        // The product may round differently from the quotient in `at`, which decides. Otherwise `next` could return a time
        // that has passed while nothing is due, and the caller would spin.
        if self.at(slots - 1).is_none_or(|at| at > elapsed) {
            slots -= 1;
        } else if self.at(slots).is_some_and(|at| at <= elapsed) {
            slots = slots.saturating_add(1);
        }
        let most = ((MAX_LAG_SECONDS * self.rate) as u64).max(1);
        let due = slots.saturating_sub(self.used);
        if due > most {
            self.used = slots - most;
        }
        due.min(most)
    }

    /// Records that `count` events were sent.
    pub(super) fn sent(&mut self, count: u64) {
        self.used += count;
    }

    /// The time after the start at which to check again if nothing is due at `elapsed`.
    pub(super) fn next(&self, elapsed: Duration) -> Duration {
        let latest = elapsed.saturating_add(MAX_WAIT);
        self.at(self.used).map_or(latest, |at| at.min(latest))
    }

    /// The time after the start at which slot `k` is due; `None` if a `Duration` cannot hold it.
    fn at(&self, k: u64) -> Option<Duration> {
        Duration::try_from_secs_f64(k as f64 / self.rate).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn millis(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn the_first_event_is_due_at_once_and_the_others_at_their_time() {
        let mut pacer = Pacer::new(50.0);
        assert_eq!(pacer.due(millis(0)), 1);
        pacer.sent(1);
        assert_eq!(pacer.due(millis(19)), 0);
        assert_eq!(pacer.next(millis(19)), millis(20));
        assert_eq!(pacer.due(millis(20)), 1);
    }

    #[test]
    fn late_checks_do_not_add_up() {
        let mut pacer = Pacer::new(100_000.0);
        let mut sent = 0;
        // Every check is 0.7 ms late, and the time between them varies.
        let mut now = Duration::ZERO;
        for nth in 0..10_000 {
            now += millis(1 + nth % 3) + Duration::from_micros(700);
            let due = pacer.due(now);
            pacer.sent(due);
            sent += due;
        }
        assert_eq!(sent, (now.as_secs_f64() * 100_000.0) as u64 + 1);
    }

    #[test]
    fn a_client_that_stalled_catches_up_one_second_and_no_more() {
        let mut pacer = Pacer::new(200.0);
        let due = pacer.due(Duration::from_secs(3_600));
        assert_eq!(due, 200);
        // Taken in two halves.
        pacer.sent(120);
        assert_eq!(pacer.due(Duration::from_secs(3_600)), 80);
        pacer.sent(80);
        assert_eq!(pacer.due(Duration::from_secs(3_600)), 0);
        assert_eq!(pacer.due(Duration::from_secs(3_601)), 200);
    }

    #[test]
    fn below_one_event_per_second_the_backlog_is_one_event() {
        let mut pacer = Pacer::new(0.1);
        assert_eq!(pacer.due(Duration::from_secs(60)), 1);
        pacer.sent(1);
        assert_eq!(pacer.due(Duration::from_secs(60)), 0);
        assert_eq!(pacer.next(Duration::from_secs(60)), Duration::from_secs(70));
    }

    #[test]
    fn an_event_is_due_exactly_at_the_time_named_as_next() {
        for rate in [0.1, 0.3, 1.0, 3.0, 7.7, 50.0, 999.0, 1_000.0, 10_000.0, 123_456.7, 1e6] {
            let mut pacer = Pacer::new(rate);
            pacer.sent(1);
            let mut now = Duration::ZERO;
            for _ in 0..10_000 {
                assert_eq!(pacer.due(now), 0, "at {now:?} with {rate}");
                now = pacer.next(now);
                assert_eq!(pacer.due(now - Duration::from_nanos(1)), 0, "before {now:?} with {rate}");
                assert_eq!(pacer.due(now), 1, "at {now:?} with {rate}");
                pacer.sent(1);
            }
        }
    }

    #[test]
    fn the_lowest_and_highest_rates_do_not_overflow() {
        let mut pacer = Pacer::new(f64::MIN_POSITIVE);
        assert_eq!(pacer.due(Duration::ZERO), 1);
        pacer.sent(1);
        assert_eq!(pacer.next(Duration::ZERO), MAX_WAIT);
        assert_eq!(pacer.due(Duration::MAX / 2), 0);
        let mut pacer = Pacer::new(super::super::MAX_RATE);
        assert_eq!(pacer.due(Duration::from_secs(1 << 40)), 1_000_000);
    }
}
