//! Bytes in, events out: the WHATWG event stream format.
//!
//! The standard decodes the stream as UTF-8 first and splits it into lines second. Doing it the other way round gives
//! the same result, since a UTF-8 decoder takes no CR, LF, colon or blank into a sequence, broken ones included; it
//! needs no decoder state between chunks and validates each value once.

use std::borrow::Cow;
use std::sync::Arc;

use memchr::{memchr, memchr2};

use super::config::ParserLimits;
use super::event::{Oversize, Oversized, SseEvent, SseItem};

#[cfg(test)]
mod tests;

/// The byte order mark, of which one is skipped at the start of a stream.
const BOM: &[u8] = b"\xEF\xBB\xBF";

/// The longest field name that means anything is `event` or `retry`.
const LONGEST_NAME: usize = 5;

/// A line buffer that grew beyond this many bytes for one long line is given back after it.
const KEEP_LINE_CAPACITY: usize = 64 * 1024;

/// An incremental parser of one event stream, and of those that follow it after a reconnect ([`restart`](Self::restart)).
///
/// It is pulled: [`next`](Self::next) takes from the input only what the next item needs, so a chunk with thousands of
/// events costs no queue. How a stream is cut into chunks makes no difference to what comes out.
///
/// Memory: at most one line and one event's data, as [`ParserLimits`] bounds them, and one event type and one id, which
/// are bounded as lines are.
#[derive(Debug)]
pub struct Parser {
    limits: ParserLimits,
    /// How many bytes of a byte order mark have been seen; `None` once the stream's start is behind.
    bom: Option<usize>,
    /// The last line ended with a CR: an LF that follows belongs to it.
    after_cr: bool,
    /// The beginning of a line that goes on in the next chunk. Empty for a line that is whole within its chunk.
    line: Vec<u8>,
    /// The rest of the line is of no interest: it is over the bound, and that has been reported.
    skip_line: bool,
    /// The same of the rest of the event, up to the blank line.
    skip_event: bool,
    data: Vec<u8>,
    /// Whether there was a `data` field; one with an empty value is an event too.
    has_data: bool,
    event_type: Option<String>,
    /// The id the next blank line makes the last one, where it differs.
    pending_id: Option<Arc<str>>,
    last_event_id: Arc<str>,
    retry_ms: Option<u64>,
}

impl Parser {
    /// A parser at the start of a stream that resumes after `last_event_id` (empty: none). Events without an id of their
    /// own carry that one, as they do in browsers.
    #[must_use]
    pub fn new(mut limits: ParserLimits, last_event_id: &str) -> Self {
        // Below it, not even a field's name could be told.
        limits.max_line_bytes = limits.max_line_bytes.max(ParserLimits::MIN_LINE_BYTES);
        Self {
            limits,
            bom: Some(0),
            after_cr: false,
            line: Vec::new(),
            skip_line: false,
            skip_event: false,
            data: Vec::new(),
            has_data: false,
            event_type: None,
            pending_id: None,
            last_event_id: Arc::from(last_event_id),
            retry_ms: None,
        }
    }

    /// Ends the stream and gets ready for the next one. An event that is not complete is discarded, with its id; the
    /// last event id stays.
    pub fn restart(&mut self) {
        let last_event_id = Arc::clone(&self.last_event_id);
        *self = Self { last_event_id, retry_ms: self.retry_ms, ..Self::new(self.limits, "") };
    }

    /// The id of the newest complete event that had one, with data or without. Empty: none, or reset by the server.
    #[must_use]
    pub fn last_event_id(&self) -> &Arc<str> {
        &self.last_event_id
    }

    /// Takes the reconnection time that the stream has set since the last call, in milliseconds. A number too large for
    /// a `u64` is given as the largest.
    pub fn take_retry_ms(&mut self) -> Option<u64> {
        self.retry_ms.take()
    }

    /// Reads on until an item is complete, and moves the start of `input` behind what was read. `None` means that
    /// `input` is used up.
    pub fn next(&mut self, input: &mut &[u8]) -> Option<SseItem> {
        self.skip_bom(input);
        while let Some(&first) = input.first() {
            if std::mem::take(&mut self.after_cr) && first == b'\n' {
                *input = &input[1..];
                continue;
            }
            let item = match memchr2(b'\r', b'\n', input) {
                Some(end) => {
                    let line = &input[..end];
                    // A CR ends the line here and now: waiting for a possible LF would hold the event back until the
                    // next one.
                    self.after_cr = input[end] == b'\r';
                    *input = &input[end + 1..];
                    self.end_line(line)
                }
                None => self.continue_line(std::mem::take(input)),
            };
            if item.is_some() {
                return item;
            }
        }
        None
    }

    /// Skips a byte order mark, which may come in pieces. What turns out to be none begins the first line.
    fn skip_bom(&mut self, input: &mut &[u8]) {
        while let (Some(seen), Some(&byte)) = (self.bom, input.first()) {
            if byte == BOM[seen] {
                *input = &input[1..];
                self.bom = (seen + 1 < BOM.len()).then_some(seen + 1);
            } else {
                self.line.extend_from_slice(&BOM[..seen]);
                self.bom = None;
            }
        }
    }

    /// Takes a piece of a line whose end is not in sight.
    fn continue_line(&mut self, piece: &[u8]) -> Option<SseItem> {
        if self.skip_line {
            return None;
        }
        if self.is_over(piece) {
            self.skip_line = true;
            return self.drop_line(piece);
        }
        self.line.extend_from_slice(piece);
        None
    }

    /// Takes the last piece of a line, without its end.
    fn end_line(&mut self, piece: &[u8]) -> Option<SseItem> {
        if std::mem::take(&mut self.skip_line) {
            return None;
        }
        if self.is_over(piece) {
            return self.drop_line(piece);
        }
        if self.line.is_empty() {
            return self.take_line(piece);
        }
        let mut line = std::mem::take(&mut self.line);
        line.extend_from_slice(piece);
        let item = self.take_line(&line);
        if line.capacity() <= KEEP_LINE_CAPACITY {
            line.clear();
            self.line = line;
        }
        item
    }

    /// Whether `piece` takes the line over its bound.
    fn is_over(&self, piece: &[u8]) -> bool {
        self.line.len().saturating_add(piece.len()) > self.limits.max_line_bytes
    }

    /// Gives up a line that is over its bound with `piece`, and its event if it was a part of it.
    fn drop_line(&mut self, piece: &[u8]) -> Option<SseItem> {
        let mut start = std::mem::take(&mut self.line);
        start.truncate(LONGEST_NAME + 1);
        let missing = (LONGEST_NAME + 1).saturating_sub(start.len());
        start.extend_from_slice(&piece[..missing.min(piece.len())]);
        let (name, _) = split_field(&start);
        if !matches!(name, b"data" | b"event" | b"id") {
            return Some(self.oversize(Oversized::IgnoredLine));
        }
        self.drop_event().then(|| self.oversize(Oversized::Line))
    }

    /// Takes a whole line.
    fn take_line(&mut self, line: &[u8]) -> Option<SseItem> {
        if line.is_empty() {
            return self.dispatch();
        }
        // A comment is a field with an empty name here, and ignored as such.
        let (name, value) = split_field(line);
        match name {
            b"data" => return self.append_data(value),
            b"event" => self.event_type = (!value.is_empty()).then(|| decode(value.to_vec())),
            b"id" if memchr(0, value).is_none() => {
                self.pending_id = Some(String::from_utf8_lossy(value).into());
            }
            b"retry" if !value.is_empty() && value.iter().all(u8::is_ascii_digit) => {
                self.retry_ms = Some(
                    value.iter().fold(0_u64, |ms, digit| ms.saturating_mul(10).saturating_add(u64::from(digit - b'0'))),
                );
            }
            _ => {}
        }
        None
    }

    fn append_data(&mut self, value: &[u8]) -> Option<SseItem> {
        if self.skip_event {
            return None;
        }
        let separator = usize::from(self.has_data);
        if self.data.len() + separator + value.len() > self.limits.max_event_bytes {
            return self.drop_event().then(|| self.oversize(Oversized::Event));
        }
        if self.has_data {
            self.data.push(b'\n');
        }
        self.has_data = true;
        self.data.extend_from_slice(value);
        None
    }

    /// The blank line: sets the last event id even where there is no data, and hence no event.
    fn dispatch(&mut self) -> Option<SseItem> {
        if let Some(id) = self.pending_id.take() {
            self.last_event_id = id;
        }
        self.skip_event = false;
        let data = std::mem::take(&mut self.data);
        let event_type = self.event_type.take();
        std::mem::take(&mut self.has_data).then(|| {
            SseItem::Event(SseEvent {
                event_type: event_type.map_or(Cow::Borrowed(SseEvent::DEFAULT_TYPE), Cow::Owned),
                data: decode(data),
                last_event_id: Arc::clone(&self.last_event_id),
            })
        })
    }

    /// Gives up the event under way. `false`: it had been given up, and reported, before.
    fn drop_event(&mut self) -> bool {
        self.data = Vec::new();
        self.has_data = false;
        !std::mem::replace(&mut self.skip_event, true)
    }

    fn oversize(&self, what: Oversized) -> SseItem {
        SseItem::Oversize(Oversize {
            what,
            limit: match what {
                Oversized::Event => self.limits.max_event_bytes,
                Oversized::Line | Oversized::IgnoredLine => self.limits.max_line_bytes,
            },
            last_event_id: Arc::clone(&self.last_event_id),
        })
    }
}

/// Splits a line into name and value, without the one blank that may follow the colon. Looks for the colon no further
/// than it can matter: a longer name is none that we know.
fn split_field(line: &[u8]) -> (&[u8], &[u8]) {
    match memchr(b':', &line[..line.len().min(LONGEST_NAME + 1)]) {
        Some(colon) => {
            let value = &line[colon + 1..];
            (&line[..colon], value.strip_prefix(b" ").unwrap_or(value))
        }
        None => (line, &[]),
    }
}

/// Decodes as the standard's UTF-8 decoder does, without a copy where the bytes are valid.
fn decode(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}
