//! A number of events and the bytes of their payloads, counted together.

use std::iter::Sum;
use std::ops::{Add, AddAssign};

/// A number of events, and the bytes of their payloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// The number of events.
    pub events: u64,
    /// The bytes of their payloads.
    pub bytes: u64,
}

impl Tally {
    /// No events.
    pub const ZERO: Self = Self { events: 0, bytes: 0 };

    /// One event of `bytes` bytes.
    #[must_use]
    pub fn one(bytes: u64) -> Self {
        Self { events: 1, bytes }
    }

    /// The difference; each part stops at 0 by itself.
    #[must_use]
    pub fn saturating_sub(self, other: Self) -> Self {
        Self { events: self.events.saturating_sub(other.events), bytes: self.bytes.saturating_sub(other.bytes) }
    }
}

impl Add for Tally {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { events: self.events + other.events, bytes: self.bytes + other.bytes }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for Tally {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::ZERO, Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_and_bytes_add_up_and_each_stops_at_zero_by_itself() {
        let sum: Tally = [Tally::one(7), Tally::one(5), Tally::ZERO].into_iter().sum();
        assert_eq!(sum, Tally { events: 2, bytes: 12 });
        let rest = sum.saturating_sub(Tally { events: 1, bytes: 20 });
        assert_eq!(rest, Tally { events: 1, bytes: 0 });
    }
}
