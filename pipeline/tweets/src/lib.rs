//! The tweet pipeline: tweets in as server-sent events, scored documents out to a [`TweetSink`](crate::sink::TweetSink).
//!
//! ```text
//! streams -> logger pool -+-> sentiment pool --+-> aggregator -> batcher -> sink
//!                         +-> engagement pool -+
//! ```
//!
//! | module | contents, in the order in which a tweet travels |
//! | --- | --- |
//! | `stream` | reads one feed |
//! | `progress` | the finished events of a stream, and so where it can be resumed |
//! | `pool`, `autoscale` | workers: round-robin, scaled with the load, replaced if they crash |
//! | `tweet` | parses a feed's message, and a retweet inside |
//! | `logger` | the first pool: shows a tweet, measures the time, passes it on |
//! | `sentiment`, `afinn` | the sentiment score |
//! | `engagement` | the score from likes and retweets |
//! | `aggregator`, `document` | both scores joined, as documents |
//! | `batcher` | batches, retries, cursors |
//! | `dead_letters` | documents that no sink accepts, published to the broker |
//! | `hashtags`, `statistics`, `console` | output for people |
//! | `pipeline`, `config` | the assembly of all of these |
//! | `settings` | the keys of `[pipeline]`, and the seam for the settings of a sink |
//!
//! # Invariants
//!
//! - Any two stages are connected by a bounded channel: a slow or failed sink makes the feed's server wait, and nothing grows.
//! - A stream's cursor covers an event only once all its tweets are durable in the sink, or never will be (a worker crashed on
//!   the event, or it is a dead letter by then). After a kill the stream resumes there, and a tweet stored again has no effect.
//! - A panic in a worker loses at most the item it was processing.

mod afinn;
mod aggregator;
mod autoscale;
mod batcher;
mod config;
mod console;
mod dead_letters;
mod document;
mod engagement;
mod hashtag_counts;
mod logger;
mod pipeline;
mod pool;
mod progress;
mod sentiment;
mod settings;
pub mod sink;
mod statistics;
mod stream;
mod tweet;

pub use afinn::{WORDS, valence};
pub use config::{PipelineConfig, PipelineConfigError};
pub use engagement::engagement_score;
pub use pipeline::{PipelineStats, TweetPipeline};
pub use sentiment::{Sentiment, sentiment};
pub use settings::{KEYS, TweetSinkConfig};
