//! (being written)

#[cfg(feature = "mongodb")]
mod backoff;

#[cfg(feature = "mongodb")]
pub mod change_stream;

#[cfg(feature = "feed")]
pub mod feed;

#[cfg(any(feature = "sse", feature = "mongodb"))]
pub mod mapping;

#[cfg(any(feature = "sse", feature = "mongodb"))]
mod publishing;

#[cfg(any(feature = "sse", feature = "mongodb"))]
pub use publishing::SourceCounters;

#[cfg(feature = "sse")]
pub mod sse;
