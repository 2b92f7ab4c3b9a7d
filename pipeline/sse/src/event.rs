//! The items that an event stream yields.

use std::borrow::Cow;
use std::sync::Arc;

/// One item of an event stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SseItem {
    /// A complete event.
    Event(SseEvent),
    /// A line or event exceeded a limit and is skipped. The stream continues.
    Oversize(Oversize),
    /// A block without data that changed the last event id to this one; empty if the server reset it.
    Id(Arc<str>),
}

/// An event as the WHATWG rules dispatch it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SseEvent {
    /// The value of the last `event` field, `message` where there was none or an empty one.
    pub event_type: Cow<'static, str>,
    /// The values of the `data` fields, joined by line feeds. Bytes that are not UTF-8 have become U+FFFD. May be empty
    /// (a bare `data` line).
    pub data: String,
    /// The last event id: the `id` field of this event or, without one, of the newest event before it that had one.
    /// Empty where there is none. Shared between the events it covers.
    pub last_event_id: Arc<str>,
    /// Whether the id is this event's own and not carried over from an earlier one.
    pub has_own_id: bool,
    /// The number of the stream that it came on, counted by the parser from 0: each reconnect begins another.
    pub stream: u64,
}

impl SseEvent {
    /// The type of an event that names none.
    pub const DEFAULT_TYPE: &'static str = "message";
}

/// A report that a line or event exceeded one of the [`ParserLimits`](super::ParserLimits). It is made once per event or ignored line, as
/// soon as the limit is passed, because the end may never come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Oversize {
    /// The kind of item that exceeded its limit.
    pub what: Oversized,
    /// The limit, in bytes.
    pub limit: usize,
    /// The last event id before it, that of the newest complete event. Empty if there is none.
    pub last_event_id: Arc<str>,
}

/// The subject of an [`Oversize`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oversized {
    /// A comment, or a field that the standard ignores. Nothing is lost.
    IgnoredLine,
    /// A line with a meaningful field. Its whole event is skipped. Ids in its other lines still count; otherwise the stream would
    /// resume before it again and again.
    Line,
    /// The data of an event, which is skipped in the same way.
    Event,
}

impl Oversized {
    /// A word for logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::IgnoredLine => "ignored line",
            Self::Line => "line",
            Self::Event => "event",
        }
    }
}
