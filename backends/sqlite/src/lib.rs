//! Herald's storage in an SQLite file that any SQLite tool can query.
//!
//! It keeps the current state rather than the history: topics, subscriptions, the events that a subscription still needs, and their
//! settlements and redeliveries. One transaction commits all waiting batches. Events are never moved, so this storage needs no
//! [`Janitor`](broker_core::storage::Janitor).
//!
//! | to find | look in |
//! | --- | --- |
//! | settings | [`SqliteConfig`] |
//! | the storage as the engine calls it | [`SqliteStorage`], which is [`backend_embedded::EmbeddedStorage`] over [`SqliteDatabase`] |
//! | tables, the view `waiting`, versions and their upgrade | `schema` |
//! | setting up connections and verifying their settings | `connection` |
//! | rows and their checksums | `row` |
//! | a group of batches as statements | `changes` |
//! | the transaction around them (its queue and loop are in [`backend_embedded`]) | `writer` |
//! | reading payloads, and the connections for it | `reads`, `read_pool` |
//! | the files of the directory, and what opening refuses | `directory` |
//! | recovery | `recovery` |
//! | freeing space | `vacuum` |
//! | keeping SQLite's log short despite readers | `log`, `readers` |
//! | damage in SQLite's log, and what is torn | `wal` |
//! | `herald fsck`: the check, and the repair | [`SqliteCheck`], `check`, `row_check`, `repair` |
//! | reading tables with pages that SQLite cannot read | `damaged_table`, `raw_pages` |
//!
//! # Invariants
//!
//! - A settlement or redelivery exists only while its event does. Those of a removed subscription are deleted with their events; a
//!   subscription's number is never reused.
//! - `synchronous` is set for the durability and read back. The storage does not start if SQLite reports another value.
//! - While a connection is open, nothing else in this process opens the database file. POSIX locks belong to the process rather than
//!   to the handle, so closing another handle would release SQLite's locks.
//! - After a failed transaction, nothing is written until the directory is reopened.
//!
//! # Threads
//!
//! `sqlite-write` owns the writing connection. `sqlite-log` moves a long log into the database. Reads use other connections on the
//! runtime's blocking threads, so [`broker_core::storage::Storage::read`] needs a tokio runtime.

mod changes;
mod check;
mod config;
mod connection;
mod damaged_table;
mod directory;
mod error;
mod log;
mod raw_pages;
mod read_pool;
mod readers;
mod reads;
mod recovery;
mod repair;
mod row;
mod row_check;
mod schema;
mod storage;
mod vacuum;
mod wal;
mod writer;

pub use broker_core::settings::{Durability, OnDamage};
pub use check::SqliteCheck;
pub use config::{CACHE_MB, PLUGIN, SqliteConfig};
pub use durable_files::FileError;
pub use error::SqliteError;
pub use storage::{SqliteDatabase, SqliteStorage};
