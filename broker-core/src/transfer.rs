//! Everything that a storage holds as JSON lines, and back into another storage. Pure but for calls to a [`Storage`]: whoever
//! uses it reads and writes the files.
//!
//! ```text
//! {"herald":"export","version":1}
//! {"topic":{"name":"tweets","last_seq":53}}
//! {"subscription":{"topic":"tweets","name":"billing","since":3}}
//! {"event":{"topic":"tweets","priority":3,"seq":49,"published_at":1700000000123,"holders":[{"subscription":"billing","deliveries":2}],"payload":{…}}}
//! {"cursor":{"source":"mongo","value":"…"}}
//! {"end":{"lines":5,"topics":1,"subscriptions":1,"events":1,"cursors":1,"crc32":"5e0c3b1a"}}
//! ```
//!
//! - The lines come in this order: all topics, each followed by its subscriptions, then events by topic and sequence, then
//!   cursors. Equal contents give equal bytes, whatever storage they were in.
//! - `last_seq` is the highest sequence that the topic has used, `since` the topic's when the subscription was made.
//! - `holders` are the subscriptions for which the event still waits. `deliveries` and `due_at` are there if it came back to
//!   that one, and `grace_ms` if it was in flight there, which its time to live does not count. An event's own `due_at` and `expires_at` are there if it has them. Times are milliseconds since 1970.
//! - `payload` is what is delivered, byte for byte; `insert` says where a redelivery inserts its count if that is not before
//!   its last byte. A payload that is not an object on one line is a string under `text` instead.
//! - `end` counts the lines before it; `crc32` is the checksum (that of gzip) of these with their line endings.
//! - An export of one topic has `"topic"` in its first line, and no cursors.
//!
//! An import writes how far it is into each batch that it commits, as the cursor of a source with a reserved name
//! ([`IMPORT_CURSOR`]), so it can be killed at any instant and go on where it was. Until it has seen the end of the file and
//! found count and checksum right, an engine refuses the storage.
//!
//! | to find | look in |
//! | --- | --- |
//! | what a storage holds, without the payloads | [`Index`] |
//! | an index and a storage to lines | [`Exporter`] |
//! | lines to mutations, and all that can be wrong with them | [`Importer`] |
//! | how far an import is | [`Progress`] |

mod export;
mod import;
mod index;
mod line;
mod progress;
mod ranges;

#[cfg(test)]
mod tests;

pub use export::{Exporter, Totals};
pub use import::{ImportError, Importer, Parsed};
pub use index::Index;
pub use progress::{Contents, IMPORT_CURSOR, Progress};

#[cfg(doc)]
use crate::storage::Storage;

/// The version of the format that this release writes, and the newest that it reads.
pub const VERSION: u64 = 1;

/// The longest line that an import takes, in bytes: an event as long as any storage takes it, with a long list of holders.
pub const MAX_LINE_BYTES: usize = 160 << 20;
