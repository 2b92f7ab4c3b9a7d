//! The change streams of a MongoDB replica set as a source.
//!
//! # Modules, in the order that a change passes through them
//!
//! | module | responsibility |
//! | --- | --- |
//! | [`ChangeStreamConfig`] | the changes to watch, and the policies; checked by [`ChangeStreamSource::new`] |
//! | `position` | the resume token with its scope: the cursor |
//! | `stream`, `failure` | opens a stream; decides the reaction to an error |
//! | `reader` | reads one stream after another and commits their changes |
//! | `split`, `change` | reassembles split changes; gives access to one change |
//! | `reader::take`, `batch` | turns a change into events and gaps; collects the events of one commit |
//! | [`extended_json`], `number`, `raw` | writes BSON values as JSON; gives equal numbers one text; iterates over raw elements |
//! | `document_id` | derives an event's id from a document's `_id` |
//! | `notice` | builds the events about gaps |
//! | [`ChangeStreamSource`], [`ChangeStreamStats`] | runs the source; reports its lag |
//!
//! # Guarantees
//!
//! - The token is committed in one atomic batch with the events that it covers, so the hand-off is exactly once.
//! - A token is stored with its scope (database, collections, operations) and never used with another scope: the server would
//!   accept it and silently leave out changes.
//! - A change is never decoded into a tree; unselected parts are skipped as bytes.
//! - Neither user name nor password of the connection string appears in a log, an error or a `Debug`.

mod batch;
mod change;
mod config;
mod document_id;
pub mod extended_json;
mod failure;
mod notice;
mod number;
mod plugin;
mod position;
mod raw;
mod reader;
mod source;
mod split;
mod stats;
mod stream;

pub use config::{BeforeChange, ChangeStreamConfig, ChangeStreamConfigError, FullDocument, OnLostHistory};
pub use plugin::PLUGIN;
pub use source::ChangeStreamSource;
pub use stats::ChangeStreamStats;
