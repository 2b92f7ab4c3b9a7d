//! Herald's storage in an SQLite file that a person can query.
//!
//! It keeps the state, not its history: topics, subscriptions, the events that somebody needs and what was done with them.
//! Everything that waits is written in one transaction. It moves no events and needs no
//! [`Janitor`](broker_core::storage::Janitor).
//!
//! | to find | look in |
//! | --- | --- |
//! | settings | [`SqliteConfig`] |
//! | what the engine calls | [`SqliteStorage`] |
//! | tables, the view `waiting`, versions and their upgrade | `schema` |
//! | how connections are set up, and that it is so | `connection` |
//! | rows and their checksums | `row` |
//! | names and the numbers that stand for them in rows | `names` |
//! | mutations as statements | `changes` |
//! | writing; the queue into it, the loop, and who has the directory are [`backend_embedded`] | `writer` |
//! | reading payloads, and the connections for it | `reads`, `readers` |
//! | what a data directory holds, what opening refuses | `directory` |
//! | handing everything back | `recovery` |
//! | giving space back | `space` |
//! | `herald fsck`: what is wrong, and the repair | [`SqliteCheck`], `check`, `verdict`, `repair`, `salvage`, `pages` |
//!
//! # Invariants
//!
//! - A row about what was done with an event is there only while the event is. Rows of removed subscriptions go with their
//!   events; a subscription's number is never used again.
//! - `synchronous` is set for the durability and read back; the storage does not start if SQLite says something else.
//! - While a connection is open nothing else in this process opens the database file: closing it again would let go of
//!   SQLite's locks (they are the process's, not the handle's).
//! - After a transaction has failed nothing is written any more until the directory is opened again.
//!
//! # Threads
//!
//! `sqlite-write` owns the writing connection. Reads run on the runtime's blocking threads with connections of their own, so
//! [`broker_core::storage::Storage::read`] needs a tokio runtime.

mod changes;
mod check;
mod config;
mod connection;
mod directory;
mod error;
mod names;
mod pages;
mod readers;
mod reads;
mod recovery;
mod repair;
mod row;
mod salvage;
mod schema;
mod shared;
mod space;
mod storage;
mod verdict;
mod writer;

pub use backend_embedded::{Durability, FileError, OnDamage};
pub use check::SqliteCheck;
pub use config::SqliteConfig;
pub use error::SqliteError;
pub use storage::SqliteStorage;
