//! Herald's default storage: an append-only log of JSON lines that `jq` and `tail -f` can read.
//!
//! It appends every batch of the engine to the newest segment, syncs many batches at once, reads events back by their place, and
//! frees whole segments, strictly oldest first. In memory it keeps only the names of topics, subscriptions and sources, and a few
//! numbers per segment. It does not index, search or edit.
//!
//! | to find | look in |
//! | --- | --- |
//! | settings | [`JsonLogConfig`] |
//! | the storage as the engine calls it | [`JsonLogStorage`] |
//! | the files of the directory, and what opening refuses | `directory` |
//! | the format of a line, and its checksum | `format`, `format::checksum` |
//! | the header and catalogue at the start of every segment | `catalogue`, `active_segment` |
//! | writing: the queue, the writer, and when a submitter writes directly | `write_queue`, `writer`, `writer_slot` |
//! | group commit: syncing in parallel with writing | `sync` |
//! | reading payloads, and the places of records | `reads`, `place` |
//! | recovery: reading the log, cutting a torn tail, reporting damage | `recovery`, `replay`, `torn_tail`, `line_reader` |
//! | freeing segments | `cleaner`, `wakeup`, `segment` |
//! | `herald fsck`: the check, and the repair | [`JsonLogCheck`], `check`, `repair`, `side_file`, `observer` |
//! | the disk, and where tests put faults | [`durable_files`] |
//!
//! # Invariants
//!
//! - A batch is whole when its line with `"left":0` exists. It lies within one segment.
//! - Every segment is synced before the next one is created, and a new segment's header, catalogue and name are synced before its
//!   first record is written. So only the last segment can have a torn tail.
//! - A segment is removed only when it is the oldest, nothing in it is needed, and the `freed` record about it is synced. Its removal
//!   is durable before the next segment is removed. So the existing segments are always a suffix of the log, and every suffix can be
//!   read on its own.
//! - After a failed write or sync, nothing more is written until the directory is reopened.
//!
//! # Threads
//!
//! `json-log-write` encodes and writes; while it is idle, the submitting thread writes a small batch itself. `json-log-sync`
//! syncs, and `json-log-clean` frees space. Reads run on the runtime's blocking threads, so
//! [`broker_core::storage::Storage::read`] needs a tokio runtime.

mod active_segment;
mod catalogue;
mod check;
mod cleaner;
mod config;
mod directory;
mod error;
mod format;
mod line_reader;
mod observer;
mod place;
mod reads;
mod recovery;
mod repair;
mod replay;
mod segment;
mod shared;
mod side_file;
mod storage;
mod sync;
mod torn_tail;
mod wakeup;
mod write_queue;
mod writer;
mod writer_slot;

pub use broker_core::settings::{Durability, OnDamage};
pub use check::JsonLogCheck;
pub use config::{JsonLogConfig, PLUGIN, SEGMENT_MB};
pub use error::JsonLogError;
pub use storage::JsonLogStorage;
