//! What comes out of an event stream.

use std::borrow::Cow;
use std::sync::Arc;

/// One thing read from an event stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SseItem {
    /// A whole event.
    Event(SseEvent),
    /// Something was larger than the limits allow and has been, or is being, skipped. The stream goes on.
    Oversize(Oversize),
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
}

impl SseEvent {
    /// The type of an event that names none.
    pub const DEFAULT_TYPE: &'static str = "message";
}

/// A report that something was over a bound of [`ParserLimits`](super::ParserLimits). It is made once for each event
/// or ignored line concerned, as soon as the bound is passed, since the end may never come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Oversize {
    /// What was over its bound, and so what is lost.
    pub what: Oversized,
    /// The bound, in bytes.
    pub limit: usize,
    /// The last event id before it: that of the newest event that was complete by then. Empty where there is none.
    pub last_event_id: Arc<str>,
}

/// What an [`Oversize`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oversized {
    /// A comment, or a field that is ignored by the rules. Nothing is lost.
    IgnoredLine,
    /// A line with a field that counts. Its whole event is skipped; ids in its other lines still count, so that the
    /// stream is not resumed in front of it for ever.
    Line,
    /// The data of an event. The event is skipped, in the same way.
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
