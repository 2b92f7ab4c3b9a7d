//! Counts of events by outcome, and whether they add up.

use std::ops::AddAssign;

/// The outcome of the events confirmed to their publishers, for one or several subscriptions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Confirmed, and sent while the subscription existed.
    pub confirmed: u64,
    /// Acknowledged with an answer.
    pub acknowledged: u64,
    /// Moved to a dead-letter topic; always 0, because a campaign configures no limits that create dead letters.
    pub dead_lettered: u64,
    /// Still waiting at the end.
    pub waiting: u64,
    /// Gone at the end after an acknowledgement whose answer was lost in a crash.
    pub undecided: u64,
    /// Gone without an acknowledgement.
    pub lost: u64,
}

impl Tally {
    /// Whether confirmed = acknowledged + dead-lettered + still waiting, including events acknowledged without an answer.
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
