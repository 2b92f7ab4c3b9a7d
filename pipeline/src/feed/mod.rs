//! The simulated tweet feed behind `herald feed`: server-sent events at `/tweets/1` and `/tweets/2`, as the reference
//! system's container served them, without any network or data of others.
//!
//! | module | what it has |
//! | --- | --- |
//! | `tweets` | tweet number `n` of a stream as JSON, a pure function; `users`, `text` and `words` are what it is made of |
//! | `files` | messages from files instead |
//! | `script` | which event is what: a tweet, a line of a file, a panic; where `Last-Event-ID` resumes |
//! | `event` | events and their ids as bytes |
//! | `pacer` | when events are due, without drift |
//! | `stream` | one client's stream, made as the client takes it |
//! | `server`, `listener` | HTTP, the limit on connections, the end |
//! | `config`, `counters`, `error` | settings, running totals, what can go wrong |
//! | `random`, `json`, `time` | repeatable dice, JSON written by hand, times as Twitter writes them |
//!
//! What others rely on: the same seed gives the same tweets on every machine, and where a version of this crate changes
//! them, event ids change too; an event's id is enough to continue after it; nothing is buffered for a client beyond one
//! chunk and the HTTP layer's write buffer; every event's data is one JSON text, but for the literal `{"message": panic}`.

mod config;
mod counters;
mod error;
mod event;
mod files;
mod json;
mod listener;
mod pacer;
mod random;
mod script;
mod server;
mod stream;
mod text;
mod time;
mod tweets;
mod users;
mod words;

pub use config::{FeedConfig, MAX_RATE};
pub use counters::FeedCounters;
pub use error::FeedError;
pub use event::FeedStream;
pub use files::{MAX_FEED_LINE_BYTES, MAX_FILE_BYTES};
pub use server::{Feed, serve};
pub use tweets::{Generator, TWEETS_PER_STREAM, tweet};
