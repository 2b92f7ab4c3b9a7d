//! Parses the WHATWG event stream format: bytes in, events out.
//!
//! The standard decodes the stream as UTF-8 and then splits it into lines. This parser splits first. The result is the same, because a
//! UTF-8 decoder includes no CR, LF, colon or blank in a sequence, not even in a broken one. It needs no decoder state between chunks,
//! and validates each value once.

use std::borrow::Cow;
use std::sync::Arc;

use memchr::{memchr, memchr2};

use super::config::ParserLimits;
use super::event::{Oversize, Oversized, SseEvent, SseItem};

#[cfg(test)]
mod tests;

/// The byte order mark, which is skipped once at the start of a stream.
const BOM: &[u8] = b"\xEF\xBB\xBF";

/// The length of the longest meaningful field names, `event` and `retry`.
const LONGEST_NAME: usize = 5;

/// The capacity above which the line buffer is freed after a long line.
const KEEP_LINE_CAPACITY: usize = 64 * 1024;

/// An incremental parser of one event stream, and of the streams after each reconnect ([`restart`](Self::restart)).
///
/// [`next`](Self::next) takes from the input only as much as the next item needs, so a chunk with thousands of events needs no queue.
/// The items do not depend on how the stream is split into chunks.
///
/// Memory: at most one line and one event's data, as [`ParserLimits`] bounds them, and one event type and one id, which
/// are bounded as lines are.
#[derive(Debug)]
pub struct Parser {
    limits: ParserLimits,
    /// The number of bytes of a byte order mark seen so far; `None` after the start of the stream.
    bom: Option<usize>,
    /// Whether the last line ended with a CR, so that a following LF belongs to it.
    after_cr: bool,
    /// The start of a line that continues in the next chunk. Empty for a line within one chunk.
    line: Vec<u8>,
    /// Whether the rest of the line is skipped: it exceeds the limit, which has been reported.
    skip_line: bool,
    /// Whether the rest of the event is skipped for the same reason, up to the blank line.
    skip_event: bool,
    data: Vec<u8>,
    /// Whether there was a `data` field. One with an empty value makes an event too.
    has_data: bool,
    event_type: Option<String>,
    /// The id that becomes the last event id at the next blank line.
    pending_id: Option<Arc<str>>,
    last_event_id: Arc<str>,
    retry_ms: Option<u64>,
    /// The number of this stream, from 0.
    stream: u64,
}

impl Parser {
    /// Starts a stream that resumes after `last_event_id` (empty: none). Events without an id of their own carry that one, as in
    /// browsers.
    #[must_use]
    pub fn new(mut limits: ParserLimits, last_event_id: &str) -> Self {
        // With less, field names could not be recognised.
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
            stream: 0,
        }
    }

    /// Ends the stream and prepares for the next one. An incomplete event is discarded with its id; the last event id stays.
    pub fn restart(&mut self) {
        let last_event_id = Arc::clone(&self.last_event_id);
        let stream = self.stream + 1;
        *self = Self { last_event_id, retry_ms: self.retry_ms, stream, ..Self::new(self.limits, "") };
    }

    /// The newest id in a complete event, with or without data. Empty if there is none, or the server reset it.
    #[must_use]
    pub fn last_event_id(&self) -> &Arc<str> {
        &self.last_event_id
    }

    /// Takes the reconnection time that the stream has set since the last call, in milliseconds. Numbers too large for a `u64`
    /// become the largest.
    pub fn take_retry_ms(&mut self) -> Option<u64> {
        self.retry_ms.take()
    }

    /// Reads until an item is complete, and advances `input` past the bytes read. `None`: `input` is used up.
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
                    // A CR ends the line at once. Waiting for a possible LF would delay the event until the next one.
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

    /// Skips a byte order mark, which may come in pieces. Bytes that turn out to be none begin the first line.
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

    /// Takes a piece of a line without its end.
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

    /// Takes the last piece of a line, without its terminator.
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

    /// Whether the line with `piece` exceeds the limit.
    fn is_over(&self, piece: &[u8]) -> bool {
        self.line.len().saturating_add(piece.len()) > self.limits.max_line_bytes
    }

    /// Drops a line that exceeds the limit with `piece`, and its event if the line is a meaningful field.
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

    /// Processes a complete line.
    fn take_line(&mut self, line: &[u8]) -> Option<SseItem> {
        if line.is_empty() {
            return self.dispatch();
        }
        // A comment parses as a field with an empty name, which is ignored.
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

    /// Handles the blank line. It sets the last event id even without data, and thus without an event.
    fn dispatch(&mut self) -> Option<SseItem> {
        let own_id = self.pending_id.take();
        let has_own_id = own_id.is_some();
        let changed = own_id.filter(|id| *id != self.last_event_id);
        let is_id_changed = changed.is_some();
        if let Some(id) = changed {
            self.last_event_id = id;
        }
        self.skip_event = false;
        let data = std::mem::take(&mut self.data);
        let event_type = self.event_type.take();
        if !std::mem::take(&mut self.has_data) {
            return is_id_changed.then(|| SseItem::Id(Arc::clone(&self.last_event_id)));
        }
        Some(SseItem::Event(SseEvent {
            event_type: event_type.map_or(Cow::Borrowed(SseEvent::DEFAULT_TYPE), Cow::Owned),
            data: decode(data),
            last_event_id: Arc::clone(&self.last_event_id),
            has_own_id,
            stream: self.stream,
        }))
    }

    /// Drops the current event. `false`: it was dropped, and reported, before.
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

/// Splits a line into name and value, without the one blank that may follow the colon. Searches for the colon only as far as a known
/// name can reach.
fn split_field(line: &[u8]) -> (&[u8], &[u8]) {
    match memchr(b':', &line[..line.len().min(LONGEST_NAME + 1)]) {
        Some(colon) => {
            let value = &line[colon + 1..];
            (&line[..colon], value.strip_prefix(b" ").unwrap_or(value))
        }
        None => (line, &[]),
    }
}

/// Decodes like the standard's UTF-8 decoder, without a copy if the bytes are valid.
fn decode(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}
