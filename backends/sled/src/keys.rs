//! The keys of the tree. Each begins with a letter for its kind; numbers are big-endian, so keys sort as their numbers do.
//!
//! | key | value |
//! | --- | --- |
//! | `H` | the format's version |
//! | `G` | the number of the latest group of batches |
//! | `N` | the next free numbers of topics, subscriptions and sources |
//! | `T` topic | its name |
//! | `Q` topic | its latest sequence |
//! | `S` topic subscription | its name, and the sequence after which it begins |
//! | `C` source | its name and cursor |
//! | `E` topic sequence | an event |
//! | `X` topic sequence subscription | an event is settled in a subscription, or to be redelivered |
//! | `P` whole-key part | the rest of a record that is too long for one value |
//! | `0` | nothing, see `flush_watch`; skipped |
//!
//! Records under `N T Q S C` are stored twice, the second time under the lower-case letter, because losing one would cost everything
//! that refers to it. Topics, subscriptions and sources are numbers of 4 bytes; sequences have 8 bytes, parts 2.

/// A kind of record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Header = b'H',
    Group = b'G',
    Numbers = b'N',
    Topic = b'T',
    LastSeq = b'Q',
    Subscription = b'S',
    Source = b'C',
    Event = b'E',
    Exception = b'X',
}

/// The first byte of the keys of parts.
pub(crate) const PART: u8 = b'P';

/// The bit that makes a letter lower case, which marks the key of the second copy.
pub(crate) const COPY: u8 = 0x20;

fn key<const N: usize>(kind: Kind, parts: [&[u8]; N]) -> Vec<u8> {
    let mut key = Vec::with_capacity(17);
    key.push(kind as u8);
    parts.iter().for_each(|part| key.extend_from_slice(part));
    key
}

pub(crate) fn header() -> Vec<u8> {
    key(Kind::Header, [])
}

/// The key that [`crate::flush_watch`] writes and removes.
pub(crate) fn nothing() -> Vec<u8> {
    vec![b'0']
}

pub(crate) fn group() -> Vec<u8> {
    key(Kind::Group, [])
}

pub(crate) fn numbers() -> Vec<u8> {
    key(Kind::Numbers, [])
}

pub(crate) fn topic(topic: u32) -> Vec<u8> {
    key(Kind::Topic, [&topic.to_be_bytes()])
}

pub(crate) fn last_seq(topic: u32) -> Vec<u8> {
    key(Kind::LastSeq, [&topic.to_be_bytes()])
}

pub(crate) fn subscription(topic: u32, subscription: u32) -> Vec<u8> {
    key(Kind::Subscription, [&topic.to_be_bytes(), &subscription.to_be_bytes()])
}

pub(crate) fn source(source: u32) -> Vec<u8> {
    key(Kind::Source, [&source.to_be_bytes()])
}

pub(crate) fn event(topic: u32, seq: u64) -> Vec<u8> {
    key(Kind::Event, [&topic.to_be_bytes(), &seq.to_be_bytes()])
}

/// The prefix of a topic's events.
pub(crate) fn events(topic: u32) -> Vec<u8> {
    key(Kind::Event, [&topic.to_be_bytes()])
}

/// The prefix of an event's exceptions.
pub(crate) fn exceptions(topic: u32, seq: u64) -> Vec<u8> {
    key(Kind::Exception, [&topic.to_be_bytes(), &seq.to_be_bytes()])
}

pub(crate) fn exception(topic: u32, seq: u64, subscription: u32) -> Vec<u8> {
    key(Kind::Exception, [&topic.to_be_bytes(), &seq.to_be_bytes(), &subscription.to_be_bytes()])
}

/// The prefix of a kind.
pub(crate) fn all(kind: Kind) -> [u8; 1] {
    [kind as u8]
}

/// The prefix of a kind's second copies.
pub(crate) fn all_copies(kind: Kind) -> [u8; 1] {
    [kind as u8 | COPY]
}

/// The key of the second copy.
pub(crate) fn copy(key: &[u8]) -> Vec<u8> {
    let mut copy = key.to_vec();
    copy[0] |= COPY;
    copy
}

/// The key of the first copy, given the key of either copy.
pub(crate) fn original(key: &[u8]) -> Vec<u8> {
    let mut original = key.to_vec();
    original[0] &= !COPY;
    original
}

/// The prefix of a record's parts.
pub(crate) fn parts(key: &[u8]) -> Vec<u8> {
    let mut parts = Vec::with_capacity(key.len() + 3);
    parts.push(PART);
    parts.extend_from_slice(key);
    parts
}

pub(crate) fn part(key: &[u8], number: u16) -> Vec<u8> {
    let mut part = parts(key);
    part.extend_from_slice(&number.to_be_bytes());
    part
}

/// The number at `at` in a key.
pub(crate) fn u32_at(key: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(key.get(at..at + 4)?.try_into().ok()?))
}

/// The sequence in the key of an event or exception.
pub(crate) fn seq_of(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.get(5..13)?.try_into().ok()?))
}

/// Describes a key for operators.
pub(crate) fn describe(key: &[u8]) -> String {
    let topic = u32_at(key, 1).unwrap_or_default();
    match (key.first().map(|kind| kind & !COPY), seq_of(key)) {
        (Some(b'E'), Some(seq)) => format!("event {seq} of topic number {topic}"),
        (Some(b'X'), Some(seq)) => format!("the settlement or redelivery of event {seq} of topic number {topic}"),
        (Some(b'G'), _) => "the end of the log".to_owned(),
        (Some(b'T'), _) => format!("the name of topic number {topic}"),
        (Some(b'Q'), _) => format!("the latest sequence of topic number {topic}"),
        (Some(b'S'), _) => format!("a subscription of topic number {topic}"),
        (Some(b'C'), _) => format!("the cursor of source number {topic}"),
        _ => format!("key {key:02x?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_sort_by_topic_then_sequence_and_their_exceptions_too() {
        let keys = [event(1, 2), event(1, 256), event(1, u64::MAX), event(2, 1), event(256, 0)];
        assert!(keys.is_sorted(), "{keys:?}");
        let keys = [exception(1, 2, 9), exception(1, 3, 1), exception(1, 3, 256), exception(2, 0, 0)];
        assert!(keys.is_sorted(), "{keys:?}");
        assert!(exception(7, 8, 9).starts_with(&exceptions(7, 8)));
    }

    #[test]
    fn the_parts_of_one_record_are_not_those_of_another() {
        assert!(part(&event(1, 2), 3).starts_with(&parts(&event(1, 2))));
        assert!(!part(&event(1, 258), 3).starts_with(&parts(&event(1, 2))));
        assert_eq!(original(&copy(&topic(5))), topic(5));
    }

    #[test]
    fn numbers_are_read_back_from_keys() {
        assert_eq!((u32_at(&exception(3, 4, 5), 1), seq_of(&exception(3, 4, 5))), (Some(3), Some(4)));
        assert_eq!(u32_at(&exception(3, 4, 5), 13), Some(5));
        assert_eq!(u32_at(b"T", 1), None);
    }
}
