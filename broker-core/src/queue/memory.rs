//! The memory of waiting events, and how it stays within a budget.

/// The memory of waiting events, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    /// Payloads, which can be read back from the storage.
    pub payloads: usize,
    /// The part that must stay in memory for each event: its entry, and its row in the index of ids.
    pub index: usize,
}

impl Memory {
    /// The bytes for payloads within a budget of `budget` bytes: half of the budget minus the index, but at least an eighth, so
    /// that deliveries from a long backlog still read many events at a time.
    ///
    /// The other half is for uncounted memory: what the allocator takes beyond each request and keeps for later, and the buffers
    /// of storage and connections. With the whole budget of 256 MiB given to payloads, a million waiting events of 256 bytes took 245 MB of
    /// resident memory; with half of it they take about 180 MB. They are consumed as fast, because payloads are read back in large pieces.
    #[must_use]
    pub fn room_for_payloads(self, budget: usize) -> usize {
        (budget / 2).saturating_sub(self.index).max(budget / 8)
    }

    /// Adds the difference between two states of a part.
    pub fn change(&mut self, before: Self, after: Self) {
        self.payloads = self.payloads + after.payloads - before.payloads;
        self.index = self.index + after.index - before.index;
    }

    /// Drops payloads that exceed their share, and an eighth more, so that this is not needed in every turn. `evict_largest`
    /// drops the given number of bytes from the topic with the most payloads in memory, and returns how many it dropped.
    pub fn stay_within(&mut self, budget: usize, mut evict_largest: impl FnMut(usize) -> usize) {
        let room = self.room_for_payloads(budget);
        if self.payloads <= room {
            return;
        }
        let mut excess = self.payloads - room + room / 8;
        // A few rounds either reach the goal or find that nothing can be read back yet.
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
    fn payloads_are_dropped_until_there_is_room_again_and_none_while_there_is() {
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
    fn payloads_that_cannot_be_dropped_stay_after_a_few_attempts() {
        let mut memory = Memory { payloads: BUDGET, index: 0 };
        let mut asked = 0;
        memory.stay_within(BUDGET, |_| {
            asked += 1;
            0
        });
        assert_eq!((asked, memory.payloads), (1, BUDGET));
    }
}
