//! The tweet pipeline: tweets in as server-sent events, scored documents out to a [`Sink`](crate::sink::Sink).
//!
//! ```text
//! streams -> logger pool -+-> sentiment pool --+-> aggregator -> batcher -> sink
//!                         +-> engagement pool -+
//! ```
//!
//! | module | what it has, in the order in which a tweet travels |
//! | --- | --- |
//! | `stream` | reads one feed |
//! | `progress` | which events of a stream are done with, and so where it may be resumed |
//! | `pool`, `autoscale` | workers: in turn, as many as the load asks for, replaced if they crash |
//! | `tweet` | what is read of a feed's message, and of a retweet inside |
//! | `logger` | the first pool: shows a tweet, measures the time, hands it on |
//! | `sentiment`, `afinn` | the score of the words |
//! | `engagement` | the score of likes and retweets |
//! | `aggregator`, `document` | both scores joined, as documents |
//! | `batcher` | batches, retries, cursors |
//! | `dead_letters` | what no sink will take, to the broker |
//! | `hashtags`, `statistics`, `console` | what a person sees of it |
//! | `pipeline`, `config` | how all of these are put together |
//!
//! # What others may rely on
//!
//! - Between any two of them is a bounded channel: a sink that is slow or down makes the feed's server wait, and nothing grows.
//! - A stream's cursor covers an event only when all tweets of it are safe in the sink, or will never be (a worker crashed on the event,
//!   or it is a dead letter by then). After a kill the stream is resumed there, and what is stored twice by that is stored once.
//! - A panic in a worker loses the item it was at, at the most.

mod afinn;
mod aggregator;
mod autoscale;
mod batcher;
mod config;
mod console;
mod dead_letters;
mod document;
mod engagement;
mod hashtags;
mod logger;
mod pipeline;
mod pool;
mod progress;
mod sentiment;
mod statistics;
mod stream;
mod tweet;

pub use afinn::{WORDS, valence};
pub use config::{MAX_WORKERS, PipelineConfig, PipelineConfigError};
pub use engagement::engagement_score;
pub use pipeline::{PipelineFigures, TweetPipeline};
pub use sentiment::{Sentiment, sentiment};
