//! The format of a value. Pure.
//!
//! ```text
//!   ┌───────┬─────────┬──────────────────────────────┬──────────┐
//!   │ magic │ version │ CRC-32 over key and body     │ body     │
//!   └───────┴─────────┴──────────────────────────────┴──────────┘
//! ```
//!
//! [`seal`] writes the checksum and [`unseal`] verifies it. It covers the key, so a value under a wrong key is damage as well.

use broker_core::event::{EventKey, Millis, Payload, Priority, Seq};
use broker_core::name::TopicName;
use broker_core::storage::StoredEvent;

/// The first byte of every value.
const MAGIC: u8 = b'H';

/// The format version that this release writes.
pub(crate) const VERSION: u8 = 1;

/// The length of magic, version and checksum.
const HEAD: usize = 6;

/// The most bytes of a record in one value. 16 values share a tree page, and sled puts a page longer than a quarter of a segment
/// (512 KiB here) into a file of its own, which it does not sync. sled's cache may also exceed its limit by 16,384 pages: see
/// [`crate::database::Pace`].
pub(crate) const PART_BYTES: usize = 4 << 10;

/// The reason why a value is not a record.
pub(crate) type Bad = &'static str;

/// The value for `body` under `key`.
pub(crate) fn seal(key: &[u8], body: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(HEAD + body.len());
    value.extend_from_slice(&[MAGIC, VERSION]);
    value.extend_from_slice(&checksum(key, body).to_le_bytes());
    value.extend_from_slice(body);
    value
}

/// The body of the value under `key`.
pub(crate) fn unseal<'v>(key: &[u8], value: &'v [u8]) -> Result<&'v [u8], Bad> {
    let (head, body) = value.split_at_checked(HEAD).ok_or("it is too short")?;
    if head[0] != MAGIC {
        return Err("it does not begin like a record");
    }
    if head[1] != VERSION {
        return Err("its version is unknown");
    }
    if head[2..] != checksum(key, body).to_le_bytes() {
        return Err("its checksum does not match");
    }
    Ok(body)
}

fn checksum(key: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[VERSION]);
    hasher.update(key);
    hasher.update(body);
    hasher.finalize()
}

/// Reads fields from the front.
struct Fields<'b>(&'b [u8]);

impl<'b> Fields<'b> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn bytes(&mut self) -> Option<&'b [u8]> {
        let len = self.u32()? as usize;
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    fn text(&mut self) -> Option<&'b str> {
        std::str::from_utf8(self.bytes()?).ok()
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    // Names and payloads are shorter than the line they arrived on, so their lengths fit.
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// A single number.
pub(crate) fn encode_number(number: u64) -> Vec<u8> {
    number.to_le_bytes().to_vec()
}

pub(crate) fn decode_number(body: &[u8]) -> Option<u64> {
    Fields(body).u64()
}

/// The next free numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Numbers {
    pub(crate) topic: u32,
    pub(crate) subscription: u32,
    pub(crate) source: u32,
}

pub(crate) fn encode_numbers(numbers: Numbers) -> Vec<u8> {
    [numbers.topic, numbers.subscription, numbers.source].iter().flat_map(|number| number.to_le_bytes()).collect()
}

pub(crate) fn decode_numbers(body: &[u8]) -> Option<Numbers> {
    let mut fields = Fields(body);
    Some(Numbers { topic: fields.u32()?, subscription: fields.u32()?, source: fields.u32()? })
}

/// A name with a number.
pub(crate) fn encode_named(name: &str, number: u64) -> Vec<u8> {
    let mut out = encode_number(number);
    put_bytes(&mut out, name.as_bytes());
    out
}

pub(crate) fn decode_named(body: &[u8]) -> Option<(&str, u64)> {
    let mut fields = Fields(body);
    let number = fields.u64()?;
    Some((fields.text()?, number))
}

/// A source's name and its cursor.
pub(crate) fn encode_cursor(source: &str, value: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(source.len() + value.len() + 8);
    put_bytes(&mut out, source.as_bytes());
    put_bytes(&mut out, value.as_bytes());
    out
}

pub(crate) fn decode_cursor(body: &[u8]) -> Option<(&str, &str)> {
    let mut fields = Fields(body);
    Some((fields.text()?, fields.text()?))
}

/// The state of an event in a subscription, if it is not simply waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exception {
    Settled { priority: Priority },
    Redelivery { priority: Priority, deliveries: u32, due_at: Option<Millis>, grace_ms: u64 },
}

const EXPIRES: u8 = 1;
const DUE: u8 = 2;
const REQUEUED: u8 = 4;
const GRACE: u8 = 8;

pub(crate) fn encode_exception(exception: Exception) -> Vec<u8> {
    match exception {
        Exception::Settled { priority } => {
            let mut out = vec![0];
            out.extend_from_slice(&priority.0.to_le_bytes());
            out
        }
        Exception::Redelivery { priority, deliveries, due_at, grace_ms } => {
            let grace = if grace_ms > 0 { GRACE } else { 0 };
            let mut out = vec![REQUEUED | due_at.map_or(0, |_| DUE) | grace];
            out.extend_from_slice(&priority.0.to_le_bytes());
            out.extend_from_slice(&deliveries.to_le_bytes());
            due_at.iter().for_each(|due| out.extend_from_slice(&due.0.to_le_bytes()));
            if grace_ms > 0 {
                out.extend_from_slice(&grace_ms.to_le_bytes());
            }
            out
        }
    }
}

pub(crate) fn decode_exception(body: &[u8]) -> Option<Exception> {
    let mut fields = Fields(body);
    let flags = fields.u8()?;
    let priority = Priority(i32::from_le_bytes(fields.take()?));
    if flags & REQUEUED == 0 {
        return Some(Exception::Settled { priority });
    }
    let deliveries = fields.u32()?;
    let due_at = if flags & DUE == 0 { None } else { Some(Millis(fields.u64()?)) };
    let grace_ms = if flags & GRACE == 0 { 0 } else { fields.u64()? };
    Some(Exception::Redelivery { priority, deliveries, due_at, grace_ms })
}

pub(crate) fn encode_event(event: &StoredEvent) -> Vec<u8> {
    let payload = &event.payload;
    let mut out = Vec::with_capacity(payload.len() + 40);
    out.push(event.expires_at.map_or(0, |_| EXPIRES) | event.due_at.map_or(0, |_| DUE));
    out.extend_from_slice(&event.key.priority.0.to_le_bytes());
    out.extend_from_slice(&event.published_at.0.to_le_bytes());
    for time in event.expires_at.iter().chain(&event.due_at) {
        out.extend_from_slice(&time.0.to_le_bytes());
    }
    out.extend_from_slice(&payload.insert_at().to_le_bytes());
    put_bytes(&mut out, payload.bytes());
    out
}

/// Decodes an event; its topic and sequence come from the key.
pub(crate) fn decode_event(body: &[u8], topic: &TopicName, seq: u64) -> Option<StoredEvent> {
    let mut fields = Fields(body);
    let flags = fields.u8()?;
    let priority = Priority(i32::from_le_bytes(fields.take()?));
    let published_at = Millis(fields.u64()?);
    let expires_at = if flags & EXPIRES == 0 { None } else { Some(Millis(fields.u64()?)) };
    let due_at = if flags & DUE == 0 { None } else { Some(Millis(fields.u64()?)) };
    let insert_at = fields.u32()?;
    let payload = Payload::from_parts(fields.bytes()?, insert_at)?;
    let key = EventKey { priority, seq: Seq(seq) };
    Some(StoredEvent { topic: topic.clone(), key, published_at, expires_at, due_at, payload })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_changed_bit_is_noticed_wherever_it_is() {
        let value = seal(b"key", b"a body");
        assert_eq!(unseal(b"key", &value), Ok(&b"a body"[..]));
        assert!(unseal(b"kez", &value).is_err(), "the checksum covers the key");
        for bit in 0..value.len() * 8 {
            let mut changed = value.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(unseal(b"key", &changed).is_err(), "bit {bit}");
        }
        for len in 0..value.len() {
            assert!(unseal(b"key", &value[..len]).is_err(), "cut to {len}");
        }
    }

    fn time() -> impl Strategy<Value = Option<Millis>> {
        proptest::option::of(any::<u64>().prop_map(Millis))
    }

    proptest! {
        #[test]
        fn an_event_is_read_back(
            priority: i32, seq: u64, at: u64, expires_at in time(), due_at in time(),
            bytes in proptest::collection::vec(any::<u8>(), 1..300), cut in 0.0..1.0,
        ) {
            let insert_at = (bytes.len() as f64 * cut) as u32;
            let event = StoredEvent {
                topic: TopicName::new("t").unwrap(),
                key: EventKey { priority: Priority(priority), seq: Seq(seq) },
                published_at: Millis(at),
                expires_at,
                due_at,
                payload: Payload::from_parts(bytes, insert_at).unwrap(),
            };
            prop_assert_eq!(decode_event(&encode_event(&event), &event.topic, seq), Some(event));
        }

        #[test]
        fn an_exception_is_read_back(priority: i32, deliveries: u32, due_at in time(), grace_ms in 0..3_u64) {
            let priority = Priority(priority);
            let redelivery = Exception::Redelivery { priority, deliveries, due_at, grace_ms };
            for exception in [Exception::Settled { priority }, redelivery] {
                prop_assert_eq!(decode_exception(&encode_exception(exception)), Some(exception));
            }
        }

        #[test]
        fn any_bytes_are_decoded_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let topic = TopicName::new("t").unwrap();
            let _anything = (
                unseal(b"k", &bytes), decode_event(&bytes, &topic, 1), decode_exception(&bytes),
                decode_cursor(&bytes), decode_named(&bytes), decode_numbers(&bytes), decode_number(&bytes),
            );
        }
    }
}
