//! Herald's storage in [sled](https://docs.rs/sled/0.34), an embedded key-value store written in Rust.
//!
//! It keeps the state, not its history: topics, subscriptions, the events that somebody needs and what was done with them, in
//! one tree. Everything that waits is applied as one sled batch, which is atomic because it touches one tree only, then
//! flushed, then synced. It moves no events and needs no [`Janitor`](broker_core::storage::Janitor).
//!
//! | to find | look in |
//! | --- | --- |
//! | settings | [`SledConfig`] |
//! | what the engine calls | [`SledStorage`] |
//! | keys, and what is stored under them | `keys`, `record` |
//! | names and the numbers that stand for them in keys | `names` |
//! | a batch of mutations as one change of the tree | `changes` |
//! | writing; the queue into it, the loop, and who has the directory are [`backend_embedded`] | `writer` |
//! | reading payloads | `reads` |
//! | what a data directory holds, what opening refuses | `directory` |
//! | handing everything back | `recovery` |
//! | noticing that sled went back to an earlier state | `mark` |
//! | waking a flush that sled has forgotten | `watch` |
//! | giving space back | `rebuild` |
//! | `herald fsck`: what is wrong, and the repair | [`SledCheck`], `check`, `verdict`, `repair` |
//!
//! # Invariants
//!
//! - Nothing is in the tree about an event that is not there, save settlements of subscriptions that have gone; those go with
//!   their event. So releasing an event is removing what begins with its key.
//! - Numbers that stand for names are never used again, so what is left of a removed subscription means nobody.
//! - No value is so long that sled would put it into a file of its own: sled does not sync those. Long records are cut into parts.
//! - sled's flush leaves the file's length and the disk's cache to chance on Linux (`sync_file_range`). So the writer syncs the
//!   file itself before a batch counts as synced.
//! - After a write, flush or sync has failed nothing is written any more until the directory is opened again.
//!
//! # Threads
//!
//! `sled-write` applies, flushes and syncs; `sled-watch` looks after flushes that take long. Reads run on the runtime's blocking threads, so
//! [`broker_core::storage::Storage::read`] needs a tokio runtime.

mod changes;
mod check;
mod config;
mod database;
mod directory;
mod error;
mod keys;
mod mark;
mod names;
mod reads;
mod rebuild;
mod record;
mod recovery;
mod repair;
mod shared;
mod storage;
mod verdict;
mod watch;
mod writer;

pub use backend_embedded::{Durability, FileError, OnDamage};
pub use check::SledCheck;
pub use config::SledConfig;
pub use error::SledError;
pub use storage::SledStorage;
