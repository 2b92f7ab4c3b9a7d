//! Counts, and whether they add up.

use std::ops::AddAssign;

/// What became of the events that were confirmed to their publishers, for one subscription or for several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Confirmed, and sent when the subscription was there.
    pub confirmed: u64,
    /// Acknowledged with an answer.
    pub acknowledged: u64,
    /// Moved to the dead letters. None yet: this version of the broker has none.
    pub dead_lettered: u64,
    /// Still there in the end.
    pub waiting: u64,
    /// Not there in the end; an acknowledgement was sent and its answer cut off by a crash.
    pub undecided: u64,
    /// None of these.
    pub lost: u64,
}

impl Tally {
    /// confirmed = acknowledged + dead-lettered + still waiting, those included that were acknowledged without an answer.
    #[must_use]
    pub fn adds_up(&self) -> bool {
        self.confirmed == self.acknowledged + self.dead_lettered + self.waiting + self.undecided && self.lost == 0
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.confirmed += other.confirmed;
        self.acknowledged += other.acknowledged;
        self.dead_lettered += other.dead_lettered;
        self.waiting += other.waiting;
        self.undecided += other.undecided;
        self.lost += other.lost;
    }
}
