//! What events that wait cost in memory, and how that stays within a budget.

/// What events that wait cost in memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    /// Payloads, which can be read back from the storage.
    pub payloads: usize,
    /// What has to stay for each event: its entry, and its row in the index of ids.
    pub index: usize,
}

impl Memory {
    /// How much payloads may cost within a budget of `budget` bytes: what the index leaves of it, and at least an eighth, so that
    /// deliveries from a long backlog still read many events at a time.
    #[must_use]
    pub fn room_for_payloads(self, budget: usize) -> usize {
        budget.saturating_sub(self.index).max(budget / 8)
    }

    /// Takes the difference between two states of a part into account.
    pub fn change(&mut self, before: Self, after: Self) {
        self.payloads = self.payloads + after.payloads - before.payloads;
        self.index = self.index + after.index - before.index;
    }

    /// Has payloads dropped when they cost more than they may, and then some, so that it is not done at every turn.
    /// `evict_largest` drops so many bytes from the topic that has the most in memory, and returns how many it did.
    pub fn stay_within(&mut self, budget: usize, mut evict_largest: impl FnMut(usize) -> usize) {
        let room = self.room_for_payloads(budget);
        if self.payloads <= room {
            return;
        }
        let mut excess = self.payloads - room + room / 8;
        // A few rounds reach the goal or find that nothing can be read back yet.
        for _ in 0..8 {
            let freed = evict_largest(excess);
            self.payloads -= freed;
            excess = excess.saturating_sub(freed);
            if freed == 0 || excess == 0 {
                return;
            }
        }
    }
}

impl std::iter::Sum for Memory {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        let add =
            |sum: Self, part: Self| Self { payloads: sum.payloads + part.payloads, index: sum.index + part.index };
        parts.fold(Self::default(), add)
    }
}
