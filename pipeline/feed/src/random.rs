//! Reproducible random numbers: the same for the same key, on every machine and in every version of this crate.
//!
//! A client that resumes after an upgrade of the feed must receive the same tweets as before it. `rand`'s generators may change
//! between releases, and floating-point functions differ between platforms. The generator therefore has a small fixed algorithm
//! (SplitMix64, by Sebastiano Vigna, public domain) and uses integers only.

/// Scrambles 64 bits; a bijection in which every input bit changes about half of the output bits.
pub(super) const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// SplitMix64's step: the odd integer nearest to 2^64 divided by the golden ratio.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A stream of random numbers that is a pure function of its key.
#[derive(Debug, Clone)]
pub(super) struct Dice(u64);

impl Dice {
    /// The random numbers for `key`; the order of its parts matters.
    pub(super) fn new(key: [u64; 4]) -> Self {
        Self(key.iter().fold(STEP, |state, part| mix(state.wrapping_add(mix(*part ^ STEP)))))
    }

    /// The next 64 random bits.
    pub(super) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// A number from 0 to `n - 1`; 0 if `n` is 0. The bias of this method is below 2^-30 for the sizes used here.
    pub(super) fn below(&mut self, n: u64) -> u64 {
        // The product of two 64-bit numbers, shifted right by 64, fits in 64 bits.
        ((u128::from(self.bits()) * u128::from(n)) >> 64) as u64
    }

    /// A number from `low` to `high`, both included.
    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// True in `percent` of 100 cases.
    pub(super) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of `items`.
    ///
    /// # Panics
    /// If `items` is empty. A test ensures that no table of `words` is.
    pub(super) fn pick<'a, T: ?Sized>(&mut self, items: &[&'a T]) -> &'a T {
        items[self.index(items.len())]
    }

    /// An index into a table of `len` entries.
    pub(super) fn index(&mut self, len: usize) -> usize {
        // Less than `len`, so it fits.
        self.below(len as u64) as usize
    }

    /// A number with a long tail. Its count of binary digits follows a geometric distribution: `digits` is most likely, each further
    /// digit half as likely as the one before, up to `most`.
    pub(super) fn long_tail(&mut self, digits: u32, most: u32) -> u64 {
        let digits = (digits + self.bits().trailing_ones()).min(most).min(62);
        let floor = (1_u64 << digits) >> 1;
        floor + self.below(floor.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_key_same_numbers_and_other_key_other_numbers() {
        let take = |key| {
            let mut dice = Dice::new(key);
            [dice.bits(), dice.bits(), dice.bits()]
        };
        assert_eq!(take([1, 2, 3, 4]), take([1, 2, 3, 4]));
        assert_ne!(take([1, 2, 3, 4]), take([1, 2, 4, 3]));
        assert_ne!(take([0, 0, 0, 0]), take([0, 0, 0, 1]));
    }

    #[test]
    fn the_numbers_are_those_of_every_version() {
        let mut dice = Dice::new([42, 1, 7, 0]);
        assert_eq!([dice.below(1_000_000), dice.below(1_000_000), dice.below(1_000_000)], PINNED);
    }

    /// Other numbers would mean other tweets under the same ids.
    const PINNED: [u64; 3] = [398_172, 664_093, 310_844];

    #[test]
    fn ranges_hold() {
        let mut dice = Dice::new([9, 9, 9, 9]);
        for _ in 0..10_000 {
            assert!((3..=5).contains(&dice.between(3, 5)));
            assert!(dice.below(7) < 7);
            assert!(dice.long_tail(4, 10) < 1 << 10);
        }
        assert_eq!(dice.below(0), 0);
        assert_eq!(dice.long_tail(0, 0), 0);
    }
}
