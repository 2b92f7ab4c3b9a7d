//! Events of the feed as bytes, and the ids by which a client resumes.
//!
//! An id says which stream it belongs to, from which content (seed or files, and how often it panics) and where in it:
//! `1-5f0c9a2e-42` is event 42 of stream 1. The middle part lets an id from a feed with other content be told from our
//! own: that one is unknown here, and resuming at the same number of something else would be a silent gap.

use std::fmt;

/// The largest event number an id may have: far beyond anything served, and below all overflows.
const MAX_NUMBER: u64 = 1 << 53;

/// One of the feed's two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FeedStream {
    /// What `/tweets/1` serves.
    One,
    /// What `/tweets/2` serves.
    Two,
}

impl FeedStream {
    /// 1 or 2, as in the path.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::One => 1,
            Self::Two => 2,
        }
    }
}

/// The id of one event, as it stands in the `id:` field and comes back as `Last-Event-ID`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EventId {
    pub(super) stream: FeedStream,
    /// Stands for the content of the feed.
    pub(super) fingerprint: u32,
    /// The first event is number 1.
    pub(super) number: u64,
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:08x}-{}", self.stream.number(), self.fingerprint, self.number)
    }
}

impl EventId {
    /// The number in `text`, if that is the id of an event of this stream and feed, written as we write it.
    pub(super) fn number_in(text: &str, stream: FeedStream, fingerprint: u32) -> Option<u64> {
        let number = text.rsplit_once('-')?.1.parse().ok()?;
        let id = Self { stream, fingerprint, number };
        // Comparing the written form refuses all the other ways to write a number (`+7`, `007`).
        ((1..=MAX_NUMBER).contains(&number) && id.to_string() == text).then_some(number)
    }
}

/// Appends one event. Data with line breaks, of any of the three kinds that SSE knows, becomes several `data:` fields,
/// which the client joins with line feeds: in JSON they can stand between tokens only, where they mean nothing.
pub(super) fn push(out: &mut String, id: EventId, data: &str) {
    begin(out, id);
    let mut rest = data;
    while let Some(at) = rest.find(['\n', '\r']) {
        out.push_str(&rest[..at]);
        out.push_str("\ndata: ");
        let broken_by_two = rest[at..].starts_with("\r\n");
        rest = &rest[at + 1 + usize::from(broken_by_two)..];
    }
    out.push_str(rest);
    end(out);
}

/// Appends what goes before data that has no line break and is appended next.
pub(super) fn begin(out: &mut String, id: EventId) {
    use fmt::Write as _;
    write!(out, "id: {id}\ndata: ").expect("a String takes every write");
}

/// Appends what goes after it.
pub(super) fn end(out: &mut String) {
    out.push_str("\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: EventId = EventId { stream: FeedStream::One, fingerprint: 0xbeef, number: 42 };

    #[test]
    fn an_id_is_read_back_by_its_own_stream_and_feed_only() {
        let text = ID.to_string();
        assert_eq!(text, "1-0000beef-42");
        assert_eq!(EventId::number_in(&text, FeedStream::One, 0xbeef), Some(42));
        assert_eq!(EventId::number_in(&text, FeedStream::Two, 0xbeef), None);
        assert_eq!(EventId::number_in(&text, FeedStream::One, 0xbeee), None);
    }

    #[test]
    fn whatever_is_not_an_id_is_none() {
        for text in [
            "",
            "-",
            "42",
            "1-0000beef",
            "1-0000beef-",
            "1-0000beef-0",
            "1-0000beef-042",
            "1-0000beef-+42",
            "1-0000beef--42",
            "1-0000BEEF-42",
            "1-beef-42",
            " 1-0000beef-42",
            "1-0000beef-42 ",
            "3-0000beef-42",
            "1-0000beef-4²",
            "1-0000beef-18446744073709551615",
            "1-0000beef-99999999999999999999999",
            "日本-語-1",
        ] {
            assert_eq!(EventId::number_in(text, FeedStream::One, 0xbeef), None, "{text:?}");
        }
    }

    #[test]
    fn data_with_line_breaks_becomes_several_fields() {
        for (data, expected) in [
            ("{}", "id: 1-0000beef-42\ndata: {}\n\n"),
            ("{\r\"a\":1\n}", "id: 1-0000beef-42\ndata: {\ndata: \"a\":1\ndata: }\n\n"),
            ("{\r\n}", "id: 1-0000beef-42\ndata: {\ndata: }\n\n"),
            ("", "id: 1-0000beef-42\ndata: \n\n"),
            ("\n", "id: 1-0000beef-42\ndata: \ndata: \n\n"),
        ] {
            let mut out = String::new();
            push(&mut out, ID, data);
            assert_eq!(out, expected);
        }
    }
}
