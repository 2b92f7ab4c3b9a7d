//! Export of everything a storage holds as JSON lines, and import into another storage. Apart from calls to a [`Storage`] it is
//! pure: the caller reads and writes the files.
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
//! - The order of the lines is: all topics, each followed by its subscriptions, then events by topic and sequence, then cursors.
//!   Equal contents give equal bytes, whatever the storage.
//! - `last_seq` is the highest sequence that the topic has used, `since` its value when the subscription was created.
//! - `holders` are the subscriptions that the event still waits for. A holder has `deliveries` if the event is to be delivered to
//!   it again, and then possibly `due_at`, and `grace_ms`: the time in flight, which its time to live does not count. The event
//!   has its own `due_at` and `expires_at` where they apply. Times are milliseconds since 1970.
//! - `payload` is the delivered encoding, byte for byte. `insert` is the offset at which a redelivery inserts its count, if that
//!   is not before the last byte. A payload that is not an object on one line is a string under `text` instead.
//! - `end` counts the lines before it. `crc32` is their checksum (CRC-32 as in gzip), line endings included.
//! - An export of a single topic has `"topic"` in its first line, and no cursors.
//!
//! # Resuming an import
//!
//! Each batch that an import commits carries its progress: the number of lines stored, and their checksum, as the cursor of a
//! source with a reserved name ([`IMPORT_CURSOR`]). Batches are atomic, so progress and contents never disagree, and an import
//! that was killed continues: it parses the file from the start, checks at the stored line count that the checksum is the stored
//! one (so it is the same file), and stores only what follows. The parsing is needed either way, since the checks of later lines
//! depend on the names in earlier ones.
//!
//! The progress becomes `finished` only after the last line has confirmed counts and checksum. Until then an engine refuses the
//! storage, so a partial import is never served as if it were complete.
//!
//! | to find | look in |
//! | --- | --- |
//! | the contents of a storage, without the payloads | [`Index`] |
//! | contents to lines | [`Exporter`] |
//! | lines to mutations, and the checks of a file | [`Importer`] |
//! | the progress of an import | [`Progress`] |

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

/// The version of the format that this release writes, and the only one that it reads.
pub const VERSION: u64 = 1;

/// The longest line that an import accepts, in bytes: the largest event of any storage, with a long list of holders.
pub const MAX_LINE_BYTES: usize = 160 << 20;
