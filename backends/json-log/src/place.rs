//! Packs the position of a record into a [`Place`]:
//!
//! ```text
//!   63            40 39                               8 7        0
//!   │ segment number │ offset of the line in the segment │ size   │   size: 5 bits of exponent, 3 of mantissa
//! ```

use broker_core::storage::Place;

const SEGMENT_BITS: u32 = 24;
const OFFSET_BITS: u32 = 32;
const SIZE_BITS: u32 = 8;

/// The largest offset of a record.
pub(crate) const MAX_OFFSET: u64 = (1 << OFFSET_BITS) - 1;

/// The position of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct At {
    /// The low 24 bits of the segment's number: see [`full_number`].
    pub(crate) segment: u64,
    /// The first byte of its line.
    pub(crate) offset: u64,
    /// The length of its line, line ending included, rounded up by at most an eighth.
    pub(crate) size: u64,
}

/// Packs a place; `offset` must not be above [`MAX_OFFSET`], `len` not above 32 GiB.
///
/// The size lets a record be read in one read. It also makes a `Release` subtract exactly what the event added to its segment's live
/// bytes. A place is never stored, so its packing is not part of the format.
pub(crate) fn pack(segment: u64, offset: u64, len: u64) -> Place {
    let segment = segment & ((1 << SEGMENT_BITS) - 1);
    Place(segment << (OFFSET_BITS + SIZE_BITS) | (offset & MAX_OFFSET) << SIZE_BITS | size_class(len))
}

/// Unpacks a place.
pub(crate) fn unpack(place: Place) -> At {
    At {
        segment: place.0 >> (OFFSET_BITS + SIZE_BITS),
        offset: place.0 >> SIZE_BITS & MAX_OFFSET,
        size: class_size(place.0 & ((1 << SIZE_BITS) - 1)),
    }
}

/// Restores a segment's full number from its low bits. Numbers only grow, but far fewer than 2^24 segments exist at a time.
pub(crate) fn full_number(low: u64, oldest: u64) -> u64 {
    oldest + (low.wrapping_sub(oldest) & ((1 << SEGMENT_BITS) - 1))
}

/// Encodes a length as a floating-point number, rounded up: five bits of exponent, three of mantissa.
fn size_class(len: u64) -> u64 {
    let len = len.max(8);
    let mut exponent = u64::from(u64::BITS - len.leading_zeros() - 4);
    let mut mantissa = len.div_ceil(1 << exponent);
    if mantissa == 16 {
        mantissa = 8;
        exponent += 1;
    }
    (exponent.min(31) << 3) | (mantissa - 8)
}

fn class_size(class: u64) -> u64 {
    (8 + (class & 7)) << (class >> 3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_segment_number_beyond_its_bits_is_found_again() {
        for number in [1, 77, (1 << 24) - 1, 1 << 24, (1 << 24) + 5, (9 << 24) + 3] {
            let at = unpack(pack(number, 12, 300));
            assert_eq!(full_number(at.segment, number.saturating_sub(40)), number);
            assert_eq!(full_number(at.segment, number), number);
        }
    }

    proptest! {
        #[test]
        fn unpacking_restores_what_was_packed(segment in 0_u64..1 << 24, offset in 0..=MAX_OFFSET, len in 8_u64..1 << 34) {
            let at = unpack(pack(segment, offset, len));
            prop_assert_eq!((at.segment, at.offset), (segment, offset));
            prop_assert!(at.size >= len && at.size <= len + len / 8 + 1, "{} for {}", at.size, len);
        }

        #[test]
        fn any_number_unpacks(place: u64) {
            let _at = unpack(Place(place));
        }
    }
}
