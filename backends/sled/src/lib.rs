//! Herald's storage in [sled](https://docs.rs/sled/0.34), an embedded key-value store written in Rust.
//!
//! It keeps the current state, not the history: topics, subscriptions, the events that a subscription still needs, and their
//! settlements and redeliveries, all in one tree. Waiting batches are applied as one sled batch (atomic, because it touches only
//! one tree), then flushed, then synced. Events are never moved, so the storage needs no [`Janitor`](broker_core::storage::Janitor).
//!
//! | to find | look in |
//! | --- | --- |
//! | settings | [`SledConfig`] |
//! | the storage as the engine calls it | [`SledStorage`], which is [`backend_embedded::EmbeddedStorage`] over [`SledDatabase`] |
//! | keys, and the records under them with their checksums | `keys`, `record` |
//! | names, and their numbers in keys | `names` |
//! | a group of batches as one change of the tree | `changes` |
//! | applying, flushing and syncing it; the queue and the loop are [`backend_embedded`]'s | `writer` |
//! | reading payloads | `reads` |
//! | the files of the directory, and what opening refuses | `directory` |
//! | opening sled's database, and syncing what sled does not | `database` |
//! | recovery: replaying everything to the engine | `recovery` |
//! | noticing that sled went back to an earlier state | `sync_mark` |
//! | waking a flush that sled has left waiting | `flush_watch` |
//! | freeing space | `compaction` |
//! | `herald fsck`: the check, and the repair | [`SledCheck`], `check`, `record_check`, `repair` |
//!
//! # Invariants
//!
//! - Every record about an event has the event's topic and sequence in its key, and is removed with the event. So releasing an event
//!   also removes the settlements of removed subscriptions.
//! - The number of a name is never reused, so records of a removed subscription cannot be mistaken for another's.
//! - No value is long enough for sled to put it into a file of its own, because sled does not sync those files. Long records are cut
//!   into parts.
//! - On Linux, sled's flush syncs neither the file's length nor the disk's cache (`sync_file_range`). So the writer syncs the file
//!   itself before a batch counts as synced.
//! - After a failed write, flush or sync, nothing more is written until the directory is reopened.
//!
//! # Threads
//!
//! `sled-write` applies, flushes and syncs; `sled-watch` wakes flushes that hang. Reads run on the runtime's blocking threads, so
//! [`broker_core::storage::Storage::read`] needs a tokio runtime.

mod changes;
mod check;
mod compaction;
mod config;
mod database;
mod directory;
mod error;
mod flush_watch;
mod keys;
mod names;
mod reads;
mod record;
mod record_check;
mod recovery;
mod repair;
mod storage;
mod sync_mark;
mod writer;

pub use broker_core::settings::{Durability, OnDamage};
pub use check::SledCheck;
pub use config::{CACHE_MB, PLUGIN, SledConfig};
pub use durable_files::FileError;
pub use error::SledError;
pub use storage::{SledDatabase, SledStorage};
