//! The events: JSON documents of one size, all different, identified by their ids.
//!
//! Every server gets the same bytes. Herald reads the id and the priority from them; the others treat them as an opaque payload,
//! and servers without priorities deliver first in, first out.

use std::io::Write as _;
use std::ops::RangeInclusive;

use crate::Error;

/// The number of digits of an event's number.
const DIGITS: usize = 9;
/// The offset of these digits: after `{"id":"e`.
const AT: usize = HEAD.len();
const HEAD: &[u8] = b"{\"id\":\"e";
const PRIORITY: &[u8] = b"\",\"priority\":";
const MSG: &[u8] = b",\"msg\":\"";
const TAIL: &[u8] = b"\"}";

/// The size of an event in bytes, without its message and the digits of its priority.
const FRAME: usize = HEAD.len() + DIGITS + PRIORITY.len() + MSG.len() + TAIL.len();

/// The smallest event, in bytes.
pub const MIN_SIZE: usize = FRAME + 11;

/// The number of events that one run can number.
pub const MAX_EVENTS: u64 = 1_000_000_000;

/// An event found in a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Its number.
    pub index: u64,
    /// The priority it came with.
    pub priority: i32,
}

/// Generates the events of a run. The same settings generate the same events.
#[derive(Debug, Clone)]
pub struct Events {
    size: usize,
    low: i32,
    span: u64,
    seed: u64,
    filler: Vec<u8>,
}

impl Events {
    /// Creates a generator of events of `size` bytes (the whole document) with random priorities in `priorities`.
    ///
    /// # Errors
    /// [`Error::Options`]: a size below [`MIN_SIZE`], or no priorities.
    pub fn new(size: usize, priorities: &RangeInclusive<i32>, seed: u64) -> Result<Self, Error> {
        if size < MIN_SIZE {
            return Err(Error::Options(format!("an event takes at least {MIN_SIZE} bytes, so not {size}")));
        }
        let (low, high) = (*priorities.start(), *priorities.end());
        let span = i64::from(high) - i64::from(low) + 1;
        let span = u64::try_from(span).ok().filter(|span| *span > 0);
        let span = span.ok_or_else(|| Error::Options(format!("no priorities from {low} to {high}")))?;
        // Letters that do not compress well.
        let filler = (0..size as u64).map(|at| b'a' + (mix(seed ^ at) % 26) as u8).collect();
        Ok(Self { size, low, span, seed, filler })
    }

    /// The size of each event in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// The number of priorities.
    #[must_use]
    pub fn priorities(&self) -> usize {
        usize::try_from(self.span).unwrap_or(usize::MAX)
    }

    /// The priority of event `index`.
    #[must_use]
    pub fn priority(&self, index: u64) -> i32 {
        let above = i64::try_from(mix(self.seed.wrapping_add(index)) % self.span).unwrap_or(0);
        i32::try_from(i64::from(self.low) + above).unwrap_or(self.low)
    }

    /// The rank of a priority within the run, 0 for the lowest; `None` if the run does not use it.
    #[must_use]
    pub fn rank(&self, priority: i32) -> Option<usize> {
        let above = u64::try_from(i64::from(priority) - i64::from(self.low)).ok()?;
        (above < self.span).then(|| usize::try_from(above).unwrap_or(usize::MAX))
    }

    /// Appends event `index`.
    pub fn write(&self, index: u64, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(HEAD);
        write_digits(index, out);
        out.extend_from_slice(PRIORITY);
        // Writing to memory does not fail.
        let _ = write!(out, "{}", self.priority(index));
        out.extend_from_slice(MSG);
        let taken = out.len() - start + TAIL.len();
        out.extend_from_slice(&self.filler[..self.size.saturating_sub(taken)]);
        out.extend_from_slice(TAIL);
    }

    /// Reads the event back from a payload; `None` if the payload differs in any byte from the one published.
    #[must_use]
    pub fn find(&self, payload: &[u8]) -> Option<Found> {
        let index = digits(payload.get(AT..AT + DIGITS)?)?;
        let rest = payload.get(AT + DIGITS..)?.strip_prefix(PRIORITY)?;
        let (priority, rest) = integer(rest)?;
        let msg = rest.strip_prefix(MSG)?.strip_suffix(TAIL)?;
        let whole = payload.len() == self.size && payload.starts_with(HEAD);
        (whole && self.is(index, priority, msg)).then_some(Found { index, priority })
    }

    /// Whether the bytes are exactly those of event `index`.
    #[must_use]
    pub fn is(&self, index: u64, priority: i32, msg: &[u8]) -> bool {
        priority == self.priority(index) && self.filler.starts_with(msg) && self.msg_len(priority) == msg.len()
    }

    fn msg_len(&self, priority: i32) -> usize {
        let mut digits = usize::from(priority < 0);
        let mut rest = priority.unsigned_abs();
        loop {
            digits += 1;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        self.size - FRAME - digits
    }
}

/// The length of an id in bytes.
pub const ID_LEN: usize = 1 + DIGITS;

/// The number in an id.
#[must_use]
pub fn index_of_id(id: &[u8]) -> Option<u64> {
    digits(id.strip_prefix(b"e")?).filter(|_| id.len() == ID_LEN)
}

/// Splits off a leading integer.
#[must_use]
pub fn integer(text: &[u8]) -> Option<(i32, &[u8])> {
    let len = text.iter().position(|byte| !(byte.is_ascii_digit() || *byte == b'-')).unwrap_or(text.len());
    let (number, rest) = text.split_at(len);
    Some((std::str::from_utf8(number).ok()?.parse().ok()?, rest))
}

fn write_digits(index: u64, out: &mut Vec<u8>) {
    let mut text = [b'0'; DIGITS];
    let mut rest = index;
    for digit in text.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    out.extend_from_slice(&text);
}

fn digits(text: &[u8]) -> Option<u64> {
    text.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.wrapping_sub(b'0');
        (digit < 10).then(|| number * 10 + u64::from(digit))
    })
}

/// SplitMix64: maps neighbouring numbers to unrelated ones.
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_has_its_size_and_is_known_again() {
        for (size, range) in [(256, 0..=6), (MIN_SIZE, i32::MIN..=i32::MAX), (100, -20..=120)] {
            let events = Events::new(size, &range, 7).unwrap();
            for index in [0, 1, 17, 999_999_999] {
                let mut out = Vec::new();
                events.write(index, &mut out);
                assert_eq!(out.len(), size, "{}", String::from_utf8_lossy(&out));
                assert_eq!(events.find(&out), Some(Found { index, priority: events.priority(index) }));
                assert!(serde_json::from_slice::<serde_json::Value>(&out).is_ok());
                let changed = out.len() - 4;
                out[changed] ^= 1;
                assert_eq!(events.find(&out), None, "a changed byte is noticed");
            }
        }
    }

    #[test]
    fn priorities_are_spread_over_the_range() {
        let events = Events::new(256, &(0..=6), 1).unwrap();
        let mut count = [0; 7];
        (0..7000).for_each(|index| count[events.rank(events.priority(index)).unwrap()] += 1);
        assert!(count.iter().all(|n| (850..1150).contains(n)), "{count:?}");
        assert_eq!((events.rank(7), events.rank(-1)), (None, None));
    }

    #[test]
    fn what_cannot_be_made_is_refused() {
        assert!(Events::new(MIN_SIZE - 1, &(0..=6), 1).is_err());
        let (low, high) = (2, 1);
        assert!(Events::new(256, &(low..=high), 1).is_err());
    }

    #[test]
    fn ids_carry_the_number() {
        assert_eq!(index_of_id(b"e000000042"), Some(42));
        assert_eq!(index_of_id(b"e0000x0042"), None);
        assert_eq!(index_of_id(b"e42"), None);
    }
}
