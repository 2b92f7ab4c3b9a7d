//! The format of a segment: pure functions between mutations and lines.
//!
//! A segment is a file of lines; each is one JSON object whose last key is the CRC-32 (IEEE, 8 hexadecimal digits) of all the
//! line's bytes before `,"crc":`. That rule holds for every version of the format. The keys of a line are always in the order
//! shown here, without blanks.
//!
//! ```text
//! {"herald":"json-log","version":1,"segment":7,"created":1700000000000,"oldest":5,"next_batch":912,"left":2,"crc":"…"}
//! {"left":1,"topic":{"name":"tweets","last_seq":52},"crc":"…"}
//! {"left":0,"subscribe":{"topic":"tweets","subscription":"billing","since":3},"crc":"…"}
//! {"batch":912,"left":1,"seq":53,"at":1700000000123,"event":{"topic":"tweets","priority":3,"msg":"hi","id":"1"},"crc":"…"}
//! {"batch":912,"left":0,"cursor":{"source":"mongo","value":"…"},"crc":"…"}
//! {"batch":913,"left":0,"settle":{"topic":"tweets","subscription":"billing","events":{"3":[49,[51,53]]}},"crc":"…"}
//! ```
//!
//! - The header and the catalogue after it (topics, durable subscriptions, cursors as of that point) begin every segment, so
//!   that reading can begin at any of them. `oldest` is the oldest segment that there was: those before it are gone on purpose.
//! - `left` is how many lines of the same batch follow. A batch is whole when its line with `"left":0` is there; a batch is
//!   never split between segments. Batch numbers have no gaps.
//! - An event has `expires`, `due` (milliseconds since the epoch), `insert` (where `,"redelivered"` goes, if not before the last
//!   byte), `topic` and `priority` (if the payload does not begin with them) only where they say something, and `holders` if it
//!   is a copy that was moved. The payload comes last, byte for byte; one that is not an object on one line is
//!   kept as a string under `text` instead.
//! - `settle` and `forget` list sequences by priority; `[51,53]` are all from 51 to 53.
//! - `requeue` lists `[priority, sequence, deliveries]`, with a fourth element the time when it is due, and with a fifth the
//!   milliseconds that it was in flight if it has a time to live to say so (then the fourth may be `null`).
//! - `freed` says that the segments up to a number are gone; it is durable before the first of them is removed. Repairing
//!   writes it too, about segments that were missing.
//! - `repaired` says that lines between the one before it and the one after it are gone, and where the repair has put them. It takes
//!   the place in the count of the last of them.

mod decode;
mod encode;

pub(crate) use decode::{Frame, Header, Names, Record, decode, decode_event, frame};
pub(crate) use encode::{
    CatalogueLine, Encoder, Span, encode_again, encode_catalogue_line, encode_freed, encode_header, encode_repaired,
};

/// The version of the format that this release writes, and the newest that it reads.
pub(crate) const VERSION: u64 = 1;

/// What the header's key `herald` says.
pub(crate) const KIND: &str = "json-log";

/// How every segment begins.
pub(crate) const MAGIC: &[u8] = br#"{"herald":"#;

/// The longest line, with its ending: what recovery holds in memory at most. An event is far shorter (the broker's
/// `max_line_bytes`); one of a topic with ten thousand subscriptions has a list of them when it is moved.
pub(crate) const MAX_LINE_BYTES: usize = 64 << 20;

/// The most sequences that one line lists when it is written.
pub(crate) const MAX_KEYS: usize = 4096;

/// The most sequences that one line may name when it is read: a range of a crafted line must not fill the memory.
const MAX_KEYS_READ: usize = 1 << 16;

const CRC_KEY: &[u8] = br#","crc":""#;

/// The length of `,"crc":"01234567"}`.
pub(crate) const SEAL_BYTES: usize = CRC_KEY.len() + 8 + 2;

/// Ends the line that begins at `start`: its checksum, its brace, its line ending.
fn seal(out: &mut Vec<u8>, start: usize) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let crc = crc32fast::hash(&out[start..]);
    out.extend_from_slice(CRC_KEY);
    let mut digits = [0_u8; 8];
    for (n, digit) in digits.iter_mut().enumerate() {
        *digit = HEX[(crc >> (28 - 4 * n) & 15) as usize];
    }
    out.extend_from_slice(&digits);
    out.extend_from_slice(b"\"}\n");
}

/// The checksum at the start of `seal`, if it is one.
fn parse_seal(seal: &[u8]) -> Option<u32> {
    let digits = seal.strip_prefix(CRC_KEY)?.get(..10)?.strip_suffix(b"\"}")?;
    let mut crc = 0_u32;
    for digit in digits {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        crc = crc << 4 | u32::from(value);
    }
    Some(crc)
}

/// The part of a line (without its ending) that its checksum covers, if it checks.
pub(crate) fn check(line: &[u8]) -> Option<&[u8]> {
    let (body, seal) = line.split_at_checked(line.len().checked_sub(SEAL_BYTES)?)?;
    (crc32fast::hash(body) == parse_seal(seal)?).then_some(body)
}

/// The length of the record that `bytes` begin with, if they do: for two lines with a damaged line ending between them.
pub(crate) fn leading_record(bytes: &[u8]) -> Option<usize> {
    let mut hasher = crc32fast::Hasher::new();
    let mut hashed = 0;
    for at in memchr::memmem::find_iter(bytes, CRC_KEY) {
        hasher.update(&bytes[hashed..at]);
        hashed = at;
        if let Some(seal) = bytes.get(at..at + SEAL_BYTES)
            && parse_seal(seal) == Some(hasher.clone().finalize())
        {
            return Some(at + SEAL_BYTES);
        }
    }
    None
}

#[cfg(test)]
mod tests;
