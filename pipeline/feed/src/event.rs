//! Encodes the feed's events, and the ids by which a client resumes.
//!
//! ```text
//!   1-5f0c9a2e-42
//!   │ │        └─ the event's number in the stream
//!   │ └────────── a fingerprint of the content: the seed or the files, and `panic_every`
//!   └──────────── the stream
//! ```
//!
//! The fingerprint detects ids of a feed with other content. Resuming at the same number of different content would be a silent
//! gap.

use std::fmt;

/// The largest event number in an id: more than is ever served, and safe from overflow.
const MAX_NUMBER: u64 = 1 << 53;

/// One of the feed's two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FeedStream {
    /// The stream at `/tweets/1`.
    One,
    /// The stream at `/tweets/2`.
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

/// The id of one event, as sent in the `id:` field and returned as `Last-Event-ID`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EventId {
    pub(super) stream: FeedStream,
    /// A hash of the feed's content.
    pub(super) fingerprint: u32,
    /// Counted from 1.
    pub(super) number: u64,
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:08x}-{}", self.stream.number(), self.fingerprint, self.number)
    }
}

impl EventId {
    /// The number in `text`, if it is the id of an event of this stream and content in its canonical form.
    pub(super) fn number_in(text: &str, stream: FeedStream, fingerprint: u32) -> Option<u64> {
        let number = text.rsplit_once('-')?.1.parse().ok()?;
        let id = Self { stream, fingerprint, number };
        // Comparing the text refuses other spellings of a number (`+7`, `007`).
        ((1..=MAX_NUMBER).contains(&number) && id.to_string() == text).then_some(number)
    }
}

/// Appends one event. Data with line breaks (any of SSE's three kinds) becomes several `data:` fields, which the client joins with
/// line feeds. In JSON, line breaks occur only between tokens, so their kind does not matter.
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

/// Appends the head of an event. The caller then appends data without line breaks, and calls [`end`].
pub(super) fn begin(out: &mut String, id: EventId) {
    use fmt::Write as _;
    write!(out, "id: {id}\ndata: ").expect("a String takes every write");
}

/// Appends the end of an event.
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
    fn texts_that_are_no_id_are_refused() {
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
