//! A set of sequences, stored as ranges.

use std::collections::BTreeMap;

/// A set of sequences, as ranges from first to last. Settled sequences are mostly consecutive, so there are few.
#[derive(Debug, Default)]
pub(super) struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// Whether the set contains `seq`.
    pub(super) fn contains(&self, seq: u64) -> bool {
        self.0.range(..=seq).next_back().is_some_and(|(_, last)| *last >= seq)
    }

    /// Adds `seq`. Returns false if the set contained it already.
    pub(super) fn insert(&mut self, seq: u64) -> bool {
        if self.contains(seq) {
            return false;
        }
        let mut last = seq;
        if let Some(after) = seq.checked_add(1)
            && let Some(end) = self.0.remove(&after)
        {
            last = end;
        }
        let before = self.0.range_mut(..seq).next_back();
        match before {
            Some((_, end)) if end.checked_add(1) == Some(seq) => *end = last,
            _ => drop(self.0.insert(seq, last)),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_set(seqs in proptest::collection::vec(0_u64..40, 0..80)) {
            let (mut ranges, mut set) = (Ranges::default(), BTreeSet::new());
            for seq in seqs {
                prop_assert_eq!(ranges.insert(seq), set.insert(seq));
            }
            for seq in 0..41 {
                prop_assert_eq!(ranges.contains(seq), set.contains(&seq));
            }
            let runs = set.iter().filter(|seq| seq.checked_sub(1).is_none_or(|before| !set.contains(&before))).count();
            prop_assert_eq!(ranges.0.len(), runs, "neighbours are one range");
        }
    }

    #[test]
    fn the_ends_of_the_numbers_are_in_it() {
        let mut ranges = Ranges::default();
        assert!(ranges.insert(u64::MAX) && ranges.insert(0) && ranges.insert(u64::MAX - 1));
        assert!(ranges.contains(u64::MAX) && ranges.contains(0) && !ranges.contains(1));
    }
}
