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
    /// How much payloads may cost within a budget of `budget` bytes: what the index leaves of a half of it, and at least an eighth,
    /// so that deliveries from a long backlog still read many events at a time.
    ///
    /// The other half is for what is not counted: what the allocator takes beyond what it is asked for and keeps for later, the
    /// buffers of storage and connections. A million events of 256 bytes that wait were 245 MB of resident memory while all of
    /// 256 MiB was counted on, and are some 180 MB so; they are consumed as fast, since what is read back comes in large pieces.
    #[must_use]
    pub fn room_for_payloads(self, budget: usize) -> usize {
        (budget / 2).saturating_sub(self.index).max(budget / 8)
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

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: usize = 1 << 20;

    #[test]
    fn payloads_get_what_the_index_leaves_of_half_the_budget_and_at_least_an_eighth() {
        let room = |index| Memory { payloads: 0, index }.room_for_payloads(BUDGET);
        assert_eq!(room(0), BUDGET / 2);
        assert_eq!(room(BUDGET / 4), BUDGET / 4);
        assert_eq!(room(BUDGET / 2), BUDGET / 8);
        assert_eq!(room(2 * BUDGET), BUDGET / 8);
        assert_eq!(room(usize::MAX), BUDGET / 8);
    }

    #[test]
    fn payloads_are_dropped_until_there_is_room_again_and_nothing_while_there_is() {
        let mut memory = Memory { payloads: BUDGET / 2, index: 0 };
        memory.stay_within(BUDGET, |_| panic!("there is room"));
        memory.payloads += 1;
        let mut asked = Vec::new();
        memory.stay_within(BUDGET, |excess| {
            asked.push(excess);
            excess.min(40_000)
        });
        let excess = 1 + BUDGET / 16;
        assert_eq!(asked, [excess, excess - 40_000]);
        assert_eq!(memory.payloads, BUDGET / 2 - BUDGET / 16);
    }

    #[test]
    fn what_cannot_be_dropped_stays_and_is_not_asked_for_without_end() {
        let mut memory = Memory { payloads: BUDGET, index: 0 };
        let mut asked = 0;
        memory.stay_within(BUDGET, |_| {
            asked += 1;
            0
        });
        assert_eq!((asked, memory.payloads), (1, BUDGET));
    }
}
