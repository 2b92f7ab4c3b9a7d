//! Events: what is published, how it is kept, and the one encoding of it that storage and all subscribers share.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use crate::name::IdKey;

/// How urgent an event is: the higher, the earlier it is delivered. Ties go to the older event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Priority(pub i32);

/// The order of publication within a topic: assigned by the engine, begins at 1, only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Seq(pub u64);

/// A point in time: milliseconds since the Unix epoch. Always an argument in this crate's pure parts, never read there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Millis(pub u64);

impl Millis {
    /// This point, `ms` milliseconds later; the end of time if that is beyond it.
    #[must_use]
    pub fn plus(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// When a delay of `ms` milliseconds that begins now is over for certain. This point stands for the whole millisecond that
    /// began with it, so it is one more.
    #[must_use]
    pub fn after_delay(self, ms: u64) -> Self {
        self.plus(ms).plus(1)
    }

    /// How long after `earlier` this is, in milliseconds; 0 if it is not after it (a clock may jump back).
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Where an event stands in its topic: its priority and its sequence. Unique within the topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EventKey {
    /// The event's priority.
    pub priority: Priority,
    /// The event's sequence.
    pub seq: Seq,
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

/// An event as it goes over the wire, without the line's ending: encoded once, when it is published, and shared by the
/// storage and by every delivery.
///
/// `{"topic":"tweets","priority":3,"msg":"any JSON value","id":"042"}`; in a dead letter `,"dead":{…}` comes before the
/// closing brace. A redelivery differs by `,"redelivered":n` at [`Payload::insert_at`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// One piece of memory with its count, however many share it.
    bytes: Arc<[u8]>,
    insert_at: u32,
}

impl Payload {
    /// Encodes an event. `msg` must be valid JSON on one line; it is copied as it is. `id` gets the shortest escapes.
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

    /// Puts together what a storage kept: `bytes` and the place where `,"redelivered":n` goes.
    /// `None` if the place is not inside `bytes`.
    #[must_use]
    pub fn from_parts(bytes: impl Into<Arc<[u8]>>, insert_at: u32) -> Option<Self> {
        let bytes = bytes.into();
        ((insert_at as usize) < bytes.len()).then_some(Self { bytes, insert_at })
    }

    /// The whole encoding.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The same, shared.
    #[must_use]
    pub fn shared(&self) -> Bytes {
        Bytes::from_owner(Arc::clone(&self.bytes))
    }

    /// Where `,"redelivered":n` is inserted, in bytes from the start.
    #[must_use]
    pub fn insert_at(&self) -> u32 {
        self.insert_at
    }

    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Never true: an encoding has at least its braces.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The event's id, without escapes. Empty if the bytes are not an event's encoding.
    #[must_use]
    pub fn id(&self) -> Cow<'_, str> {
        let head = &self.bytes[..self.insert_at as usize];
        // The id is what stands between the last quote and the one that opens it: one with an even number of backslashes before.
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

    /// Appends the delivery to `out`, with the count of earlier deliveries if there were any; no line ending.
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

/// A published event on its way into the engine: checked and encoded by whoever received it.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// Stands for the id.
    pub id: IdKey,
    /// How urgent it is.
    pub priority: Priority,
    /// It is not delivered when it has waited longer than this, in milliseconds; 0: for ever.
    pub ttl_ms: u64,
    /// It is not delivered before so many milliseconds have passed.
    pub delay_ms: u64,
    /// Its encoding, which holds the id and the message.
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
/// control characters; all else as it is.
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
    fn a_delivery_has_its_keys_in_order_and_nothing_between() {
        let payload = Payload::encode("tweets", Priority(3), r#""any JSON value""#, "042");
        assert_eq!(line(&payload, 0), r#"{"topic":"tweets","priority":3,"msg":"any JSON value","id":"042"}"#);
        assert_eq!(
            line(&payload, 2),
            r#"{"topic":"tweets","priority":3,"msg":"any JSON value","id":"042","redelivered":2}"#
        );
    }

    #[test]
    fn extremes_are_written_in_full() {
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
    fn the_id_is_found_again() {
        for id in ["042", "a\"b", "\\", "\\\\\"", "\"", "é😀", "x\\"] {
            let payload = Payload::encode("t", Priority(1), r#""a \" ,\"id\":""#, id);
            assert_eq!(payload.id(), id);
        }
        let not_an_event = Payload::from_parts(*b"}", 0).expect("inside");
        assert_eq!(not_an_event.id(), "");
    }

    #[test]
    fn delivery_order_is_urgency_then_age() {
        let key = |p, s| EventKey { priority: Priority(p), seq: Seq(s) };
        let mut keys = [key(0, 1), key(5, 9), key(5, 2), key(-1, 3)];
        keys.sort();
        assert_eq!(keys, [key(5, 2), key(5, 9), key(0, 1), key(-1, 3)]);
    }
}
