//! What feeds Herald, and the tweet pipeline.
//!
//! | module | feature | what it has |
//! | --- | --- | --- |
//! | `sse` | `sse` | the SSE client, and the source that publishes what it reads |
//! | `change_stream` | `mongodb` | the change streams of MongoDB as a source |
//! | `mapping` | `sse` or `mongodb` | the rules by which sources make events |
//! | `feed` | `feed` | the simulated tweet feed |
//! | `tweets` | `tweets` | the tweet pipeline: from a feed to documents |
//! | `sink` | `tweets` | where it stores: the trait, and a module for each kind |

#[cfg(feature = "mongodb")]
mod backoff;

#[cfg(feature = "mongodb")]
pub mod change_stream;

#[cfg(feature = "feed")]
pub mod feed;

#[cfg(any(feature = "sse", feature = "mongodb"))]
pub mod mapping;

#[cfg(feature = "mongodb")]
mod mongo;

#[cfg(any(feature = "sse", feature = "mongodb"))]
mod publishing;

#[cfg(any(feature = "sse", feature = "mongodb"))]
pub use publishing::SourceCounters;

#[cfg(feature = "tweets")]
pub mod sink;

#[cfg(feature = "sse")]
pub mod sse;

#[cfg(feature = "tweets")]
pub mod tweets;
