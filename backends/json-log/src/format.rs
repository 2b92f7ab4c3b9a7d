//! The format of a segment: pure functions between mutations and lines.
//!
//! A segment is a file of lines. Each line is one JSON object whose last key is the CRC-32 (IEEE, 8 hexadecimal digits) of the
//! line's bytes before `,"crc":`. This rule holds for every version of the format. The keys of a line are always in the order
//! shown here, without spaces.
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
//! - Every segment begins with a header and a catalogue (topics, durable subscriptions and cursors at that point), so that reading
//!   can begin at any segment. `oldest` is the oldest segment at that time: those before it were freed.
//! - `left` is the number of lines of the same batch that follow. A batch is whole when its line with `"left":0` exists. It never
//!   spans two segments. Batch numbers have no gaps.
//! - An event has `expires` and `due` (milliseconds since the epoch) if they are set, `insert` (the offset of `,"redelivered"`) if
//!   that is not just before the last byte, `topic` and `priority` if the payload does not begin with them, and `holders` if it is a
//!   moved copy. The payload comes last, byte for byte, under `event`. A payload that is not an object on one line is stored as a
//!   string under `text` instead.
//! - `subscribe` is written twice: in a batch on consecutive lines, in the catalogue once after its topic and once at the end. All
//!   events of a subscription depend on it, so one damaged line must not lose it. Logs with a single copy are readable as well.
//! - `topic` with the sequence 0, outside a catalogue, means that the topic was removed: its next sequence is 1 again.
//! - `settle` and `forget` list sequences by priority; `[51,53]` is the range from 51 to 53.
//! - `requeue` lists `[priority, sequence, deliveries]`. An optional fourth element is the due time. An optional fifth is the
//!   milliseconds in flight, which do not count towards the event's time to live; the fourth may then be `null`.
//! - `freed` records that the segments up to a number are gone. It is durable before the first of them is removed. A repair also
//!   writes it for missing segments.
//! - `repaired` records that lines between its neighbours are gone, and the file that the repair moved them to. In the count of
//!   lines it stands for the last of them.
//!
//! The layout of a segment:
//!
//! ```text
//!   header │ catalogue              │ batch 912                │ batch 913 │ …
//!   left 2 │ left 1   left 0        │ left 1     left 0        │ left 0    │
//!   └ written and synced together   └ written with other batches, never split between segments
//! ```

mod checksum;
mod decode;
mod encode;

use checksum::seal;
pub(crate) use checksum::{check, leading_record};
pub(crate) use decode::{Frame, Header, Names, Record, decode, decode_event, frame};
pub(crate) use encode::{
    CatalogueLine, Encoder, Span, encode_again, encode_catalogue_line, encode_freed, encode_header, encode_repaired,
};

/// The format version that this release writes, and the newest that it reads.
pub(crate) const VERSION: u64 = 1;

/// The value of the header's key `herald`.
pub(crate) const KIND: &str = "json-log";

/// The first bytes of every segment.
pub(crate) const MAGIC: &[u8] = br#"{"herald":"#;

/// The longest delivery of an event in any configuration (`broker.max_output_line_bytes`), and so the longest payload.
const MAX_EVENT_BYTES: usize = 64 << 20;

/// The longest line, line ending included, and so the most that recovery buffers. Every record of an event fits:
/// - a published event adds a head of less than 1 KiB;
/// - an event that a source set aside is a string in a cursor. Escaping at most doubles it, because the longest event has no control
///   characters, which would need more;
/// - a moved event carries the list of its holders, for which as much room is left as for the event.
pub(crate) const MAX_LINE_BYTES: usize = 2 * MAX_EVENT_BYTES + (64 << 10);

/// The most sequences in a written line.
pub(crate) const MAX_KEYS: usize = 4096;

/// The most sequences accepted when reading a line: a range in a crafted line must not exhaust the memory.
const MAX_KEYS_READ: usize = 1 << 16;

#[cfg(test)]
mod tests;
