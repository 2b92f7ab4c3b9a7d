//! The wait before the next attempt at something that failed.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

/// Exponential backoff with jitter.
///
/// The n-th wait since the last success is drawn from the upper half of `first` · 2^(n-1): long enough for what failed to recover,
/// and spread so that a thousand clients of a broker that restarts do not return in the same millisecond. No wait is longer than
/// `longest`, nor shorter than [`at_least`](Self::at_least) unless `longest` is.
///
/// [`reset`](Self::reset) belongs after the first sign of health (an event, an answer), not after a mere connect: a peer that
/// accepts and then fails would otherwise be retried at the shortest wait indefinitely.
///
/// Neither sleeps nor reads a clock. Randomness is its own, or an argument of [`next_delay_at`](Self::next_delay_at).
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    shortest: Duration,
    longest: Duration,
    failures: u32,
    random: u64,
}

impl Backoff {
    /// Waits of `first` initially and of `longest` at most, each before the jitter.
    #[must_use]
    pub fn new(first: Duration, longest: Duration) -> Self {
        // Std's hasher keys are the one source of randomness that costs no dependency; they differ from one call to the next.
        let random = RandomState::new().hash_one(0_u8);
        Self { first, shortest: Duration::ZERO, longest, failures: 0, random }
    }

    /// The same waits, none of them shorter than `shortest`, whatever the jitter.
    #[must_use]
    pub fn at_least(mut self, shortest: Duration) -> Self {
        self.shortest = shortest;
        self
    }

    /// Changes the range of the first wait, and the later ones with it. The number of failures stands.
    pub fn set_first(&mut self, first: Duration, shortest: Duration) {
        self.first = first;
        self.shortest = shortest;
    }

    /// Records a success: the next wait is a first one again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// The waits drawn since the last success.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Counts a failure and returns the wait before the next attempt.
    pub fn next_delay(&mut self) -> Duration {
        let spread = self.random_spread();
        self.next_delay_at(spread)
    }

    /// Like [`next_delay`](Self::next_delay), with `spread` (0 to 1) choosing between the shortest and the longest wait allowed.
    pub fn next_delay_at(&mut self, spread: f64) -> Duration {
        // 2^failures saturates long before the counter does.
        let most = self.first.saturating_mul(2_u32.saturating_pow(self.failures)).min(self.longest);
        self.failures = self.failures.saturating_add(1);
        let least = (most / 2).max(self.shortest).min(most);
        // Saturating: a float that stands for more than half of `Duration::MAX` may be rounded up.
        least.saturating_add((most - least).mul_f64(spread.clamp(0.0, 1.0)))
    }

    /// The next number of SplitMix64, scaled to 0..1. Not for secrets.
    fn random_spread(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        f64::from(u32::try_from(mixed >> 32).unwrap_or(u32::MAX)) / f64::from(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn waits_double_up_to_the_longest_and_start_over_after_a_reset() {
        let mut low = Backoff::new(ms(100), ms(1000));
        let mut high = low.clone();
        let waits: Vec<_> = (0..6).map(|_| (low.next_delay_at(0.0), high.next_delay_at(1.0))).collect();
        let expected = [(50, 100), (100, 200), (200, 400), (400, 800), (500, 1000), (500, 1000)];
        assert_eq!(waits, expected.map(|(low, high)| (ms(low), ms(high))));
        assert_eq!(high.failures(), 6);
        high.reset();
        assert_eq!((high.failures(), high.next_delay_at(1.0)), (0, ms(100)));
    }

    #[test]
    fn no_wait_is_shorter_than_the_shortest_nor_longer_than_the_longest() {
        let mut backoff = Backoff::new(ms(1800), ms(1000)).at_least(ms(900));
        for _ in 0..3 {
            assert_eq!((backoff.next_delay_at(0.0), backoff.next_delay_at(1.0)), (ms(900), ms(1000)));
        }
        // Where the two contradict each other, the longest wins.
        assert_eq!(Backoff::new(ms(10), ms(20)).at_least(ms(50)).next_delay_at(0.5), ms(10));
    }

    #[test]
    fn the_range_changes_without_forgetting_the_failures() {
        let mut backoff = Backoff::new(ms(10), ms(1000));
        let _first = backoff.next_delay_at(1.0);
        backoff.set_first(ms(200), ms(100));
        assert_eq!(backoff.next_delay_at(1.0), ms(400));
        backoff.reset();
        assert_eq!(backoff.next_delay_at(0.0), ms(100));
    }

    #[test]
    fn drawn_waits_stay_in_the_upper_half_and_differ() {
        let mut backoff = Backoff::new(ms(100), ms(100));
        let waits: Vec<_> = (0..1000).map(|_| backoff.next_delay()).collect();
        assert!(waits.iter().all(|wait| (ms(50)..=ms(100)).contains(wait)));
        assert!(
            waits.iter().any(|wait| *wait < ms(60)) && waits.iter().any(|wait| *wait > ms(90)),
            "the range is used"
        );
        let others: Vec<_> = (0..2).map(|_| Backoff::new(ms(100), ms(100)).next_delay()).collect();
        assert_ne!(others[0], others[1], "two backoffs do not wait in step");
    }

    #[test]
    fn an_endless_outage_and_a_bad_spread_overflow_nothing() {
        let mut backoff = Backoff::new(ms(100), ms(1000));
        backoff.failures = u32::MAX - 1;
        for spread in [0.5, 1.0, 7.0] {
            assert!(backoff.next_delay_at(spread) <= ms(1000));
        }
        assert!(Backoff::new(Duration::MAX, Duration::MAX).next_delay_at(1.0) > Duration::MAX / 2);
    }
}
