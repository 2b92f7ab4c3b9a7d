//! The change streams of a MongoDB replica set as a source.
//!
//! # The modules, in the order a change travels
//!
//! - [`ChangeStreamConfig`] says what to watch and by which policies, and is checked by [`ChangeStreamSource::new`];
//! - `position` is where reading goes on: the resume token, and the scope that it belongs to;
//! - `stream` opens a stream there, `failure` judges what went wrong and says it shortly;
//! - `change` is one change as the server sent it, `split` puts large ones together again;
//! - [`extended_json`] writes what a pointer selects, `notice` makes the events about gaps;
//! - [`ChangeStreamSource`] publishes all of it, and [`ChangeStreamFigures`] says how far behind it is.
//!
//! # What others may rely on
//!
//! - The token is committed in one atomic batch with the events that it covers, so the hand-off is exactly once.
//! - A token is stored with its scope and never used for another one.
//! - A change is never decoded into a tree: what is not selected is skipped over as bytes.
//! - Neither user name nor password of the connection string gets into a log, an error or a `Debug`.

mod change;
mod config;
pub mod extended_json;
mod failure;
mod figures;
mod notice;
mod position;
mod source;
mod split;
mod stream;

pub use config::{
    BeforeChange, ChangeStreamConfig, ChangeStreamConfigError, DEFAULT_OPERATIONS, FullDocument, OnLostHistory,
};
pub use figures::ChangeStreamFigures;
pub use source::ChangeStreamSource;
