//! The simulated tweet feed behind `herald feed`: server-sent events at `/tweets/1` and `/tweets/2`, in the format of the reference
//! system's container. It needs no network and uses no real tweets.
//!
//! | module | contents |
//! | --- | --- |
//! | `tweets` | generates tweet number `n` of a stream as JSON, a pure function, from `users`, `text` and `words` |
//! | `files` | loads messages from files instead |
//! | `script` | maps an event number to a tweet, a line of a file or a panic, and `Last-Event-ID` to a number |
//! | `event` | encodes events and their ids |
//! | `pacer` | schedules events without drift |
//! | `stream` | generates one client's stream as the client reads it |
//! | `server`, `listener` | HTTP, the connection limit, shutdown |
//! | `config`, `counters`, `error` | settings, running totals, errors |
//! | `random`, `json`, `time` | reproducible random numbers, hand-written JSON, Twitter's time format |
//!
//! # Invariants
//!
//! - The same seed yields the same tweets on every machine. If a version of this crate changes them, it changes the event ids too.
//! - An event's id alone is enough to continue after it; the server remembers nothing about its clients.
//! - At most one chunk and the HTTP layer's write buffer are held for a client.
//! - Every event's data is one JSON text, except the literal `{"message": panic}`.

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
