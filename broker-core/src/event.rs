//! Events, and the one encoding of an event that the storage and all subscribers share.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use crate::name::IdKey;

/// The urgency of an event: the higher, the earlier it is delivered. Ties go to the older event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Priority(pub i32);

/// The order of publication within a topic: assigned by the engine, begins at 1, only grows.
#[derive(Debug, Clone, Copy, Eq, Default)]
#[cfg_attr(not(test), derive(PartialEq, PartialOrd, Ord, Hash))]
pub struct Seq(pub u64);

#[cfg(test)]
pub(crate) use comparisons::COMPARISONS;

/// Comparisons of sequences, counted so that a test can bound what a search, a look-up or a sort costs without a clock.
#[cfg(test)]
mod comparisons {
    use std::cell::Cell;
    use std::cmp::Ordering;
    use std::hash::{Hash, Hasher};

    use super::Seq;

    thread_local! {
        pub(crate) static COMPARISONS: Cell<u64> = const { Cell::new(0) };
    }

    impl PartialEq for Seq {
        fn eq(&self, other: &Self) -> bool {
            COMPARISONS.set(COMPARISONS.get() + 1);
            self.0 == other.0
        }
    }

    impl PartialOrd for Seq {
        fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
            Some(self.cmp(other))
        }
    }

    impl Ord for Seq {
        fn cmp(&self, other: &Self) -> Ordering {
            COMPARISONS.set(COMPARISONS.get() + 1);
            self.0.cmp(&other.0)
        }
    }

    impl Hash for Seq {
        fn hash<H: Hasher>(&self, state: &mut H) {
            self.0.hash(state);
        }
    }
}

/// A point in time: milliseconds since the Unix epoch. Always an argument in this crate's pure parts, never read there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Millis(pub u64);

impl Millis {
    /// The point `ms` milliseconds later. Saturates at the end of time.
    #[must_use]
    pub fn plus(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// The first point at which a delay of `ms` milliseconds that begins now is certainly over. A point stands for the whole millisecond
    /// that begins with it, so this is one more than [`Millis::plus`].
    #[must_use]
    pub fn after_delay(self, ms: u64) -> Self {
        self.plus(ms).plus(1)
    }

    /// Milliseconds since `earlier`; 0 if this point is not after it, as when a clock jumps back.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// The place of an event in its topic: its priority and its sequence. Unique within the topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EventKey {
    /// The event's priority.
    pub priority: Priority,
    /// The event's sequence.
    pub seq: Seq,
}

impl EventKey {
    /// The position before every event, in delivery order. No event has the sequence 0.
    pub const START: Self = Self { priority: Priority(i32::MAX), seq: Seq(0) };
}

/// Delivery order: the higher priority first, then the lower sequence.
impl Ord for EventKey {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.priority.cmp(&self.priority).then(self.seq.cmp(&other.seq))
    }
}
impl PartialOrd for EventKey {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// The encoding of an event for the wire, without the line ending. It is made once, when the event is published, and shared by the
/// storage and by every delivery.
///
/// `{"topic":"tweets","priority":3,"msg":"any JSON value","id":"042"}`; a dead letter has `,"dead":{…}` before the closing brace. A
/// redelivery is sent with `,"redelivered":n` inserted at [`Payload::insert_at`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// One allocation with its reference count, however many share it.
    bytes: Arc<[u8]>,
    insert_at: u32,
}

impl Payload {
    /// Encodes an event. `msg` must be valid JSON on one line and is copied unchanged. `id` is escaped as briefly as possible.
    #[must_use]
    pub fn encode(topic: &str, priority: Priority, msg: &str, id: &str) -> Self {
        const FRAME: usize = r#"{"topic":"","priority":-2147483648,"msg":,"id":""}"#.len();
        let mut out = Vec::with_capacity(FRAME + topic.len() + msg.len() + id.len());
        out.put_slice(br#"{"topic":""#);
        out.put_slice(topic.as_bytes());
        out.put_slice(br#"","priority":"#);
        write_int(&mut out, i64::from(priority.0));
        out.put_slice(br#","msg":"#);
        out.put_slice(msg.as_bytes());
        out.put_slice(br#","id":"#);
        write_json_string(&mut out, id);
        let insert_at = u32::try_from(out.len()).expect("an event is bounded by the line it came in");
        out.put_u8(b'}');
        Self { bytes: out.into(), insert_at }
    }

    /// Rebuilds a payload from what a storage kept: `bytes`, and the offset at which `,"redelivered":n` is inserted.
    /// `None` if the offset is not inside `bytes`.
    #[must_use]
    pub fn from_parts(bytes: impl Into<Arc<[u8]>>, insert_at: u32) -> Option<Self> {
        let bytes = bytes.into();
        ((insert_at as usize) < bytes.len()).then_some(Self { bytes, insert_at })
    }

    /// The whole encoding.
    #[must_use]
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The whole encoding, sharing its memory.
    #[must_use]
    #[inline]
    pub fn shared(&self) -> Bytes {
        Bytes::from_owner(Arc::clone(&self.bytes))
    }

    /// The offset at which `,"redelivered":n` is inserted, in bytes.
    #[must_use]
    pub fn insert_at(&self) -> u32 {
        self.insert_at
    }

    /// The length in bytes.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Always false: an encoding has at least its braces.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The event's id, without escapes. Empty if the bytes are not an event's encoding.
    #[must_use]
    pub fn id(&self) -> Cow<'_, str> {
        let head = &self.bytes[..self.insert_at as usize];
        // The id ends at the last quote, and begins at the quote before it that has an even number of backslashes before itself.
        let mut end = head.len().saturating_sub(1);
        while let Some(quote) = memchr::memrchr(b'"', &head[..end]) {
            let backslashes = head[..quote].iter().rev().take_while(|byte| **byte == b'\\').count();
            if backslashes % 2 == 0 {
                let literal = &head[quote..];
                let Ok(text) = std::str::from_utf8(literal) else { break };
                if !text.contains('\\') {
                    return Cow::Borrowed(&text[1..text.len() - 1]);
                }
                return serde_json::from_str(text).map(Cow::Owned).unwrap_or_default();
            }
            end = quote;
        }
        Cow::Borrowed("")
    }

    /// Appends a delivery to `out`, with `redelivered`, the number of earlier ones, unless that is 0. Writes no line ending.
    #[inline]
    pub fn write(&self, redelivered: u32, out: &mut BytesMut) {
        if redelivered == 0 {
            out.put_slice(&self.bytes);
            return;
        }
        let (head, tail) = self.bytes.split_at(self.insert_at as usize);
        out.put_slice(head);
        out.put_slice(br#","redelivered":"#);
        write_int(out, i64::from(redelivered));
        out.put_slice(tail);
    }
}

/// A published event on its way into the engine. Its session has checked and encoded it.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// The key of its id.
    pub id: IdKey,
    /// The priority.
    pub priority: Priority,
    /// Milliseconds after which the event expires if it still waits; 0: never.
    pub ttl_ms: u64,
    /// Milliseconds before which the event is not delivered.
    pub delay_ms: u64,
    /// The encoding, with the id and the message.
    pub payload: Payload,
}

/// Writes `n` in decimal.
pub(crate) fn write_int(out: &mut impl BufMut, n: i64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    let mut rest = n.unsigned_abs();
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if n < 0 {
        at -= 1;
        digits[at] = b'-';
    }
    out.put_slice(&digits[at..]);
}

/// Writes `text` as a JSON string with the shortest escapes: `\"`, `\\`, `\b \f \n \r \t`, and `\u00XX` for the other
/// control characters. Everything else is copied.
pub fn write_json_string(out: &mut impl BufMut, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.put_u8(b'"');
    let bytes = text.as_bytes();
    let mut start = 0;
    for (at, byte) in bytes.iter().enumerate() {
        let short = match byte {
            b'"' => b'"',
            b'\\' => b'\\',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0x08 => b'b',
            0x0c => b'f',
            0x00..=0x1f => 0,
            _ => continue,
        };
        out.put_slice(&bytes[start..at]);
        start = at + 1;
        if short == 0 {
            let [high, low] = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
            out.put_slice(&[b'\\', b'u', b'0', b'0', high, low]);
        } else {
            out.put_slice(&[b'\\', short]);
        }
    }
    out.put_slice(&bytes[start..]);
    out.put_u8(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(payload: &Payload, redelivered: u32) -> String {
        let mut out = BytesMut::new();
        payload.write(redelivered, &mut out);
        String::from_utf8(out.to_vec()).expect("made of strings")
    }

    #[test]
    fn a_delivery_has_its_keys_in_order_without_blanks_between() {
        let payload = Payload::encode("tweets", Priority(3), r#""any JSON value""#, "042");
        assert_eq!(line(&payload, 0), r#"{"topic":"tweets","priority":3,"msg":"any JSON value","id":"042"}"#);
        assert_eq!(
            line(&payload, 2),
            r#"{"topic":"tweets","priority":3,"msg":"any JSON value","id":"042","redelivered":2}"#
        );
    }

    #[test]
    fn extreme_priorities_and_control_characters_are_written_in_full() {
        let payload = Payload::encode("t", Priority(i32::MIN), "1e400", "a\"\\/\u{7f}é");
        assert_eq!(
            line(&payload, 0),
            "{\"topic\":\"t\",\"priority\":-2147483648,\"msg\":1e400,\"id\":\"a\\\"\\\\/\u{7f}é\"}"
        );
        let mut out = Vec::new();
        write_json_string(&mut out, "\u{0}\u{8}\t\u{1f}");
        assert_eq!(out, b"\"\\u0000\\b\\t\\u001f\"");
    }

    #[test]
    fn the_id_is_read_back_from_the_encoding() {
        for id in ["042", "a\"b", "\\", "\\\\\"", "\"", "é😀", "x\\"] {
            let payload = Payload::encode("t", Priority(1), r#""a \" ,\"id\":""#, id);
            assert_eq!(payload.id(), id);
        }
        let not_an_event = Payload::from_parts(*b"}", 0).expect("inside");
        assert_eq!(not_an_event.id(), "");
    }

    #[test]
    fn delivery_order_is_by_priority_then_age() {
        let key = |p, s| EventKey { priority: Priority(p), seq: Seq(s) };
        let mut keys = [key(0, 1), key(5, 9), key(5, 2), key(-1, 3)];
        keys.sort();
        assert_eq!(keys, [key(5, 2), key(5, 9), key(0, 1), key(-1, 3)]);
    }
}
