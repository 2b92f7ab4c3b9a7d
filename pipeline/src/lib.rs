//! (being written)

#[cfg(feature = "feed")]
pub mod feed;

#[cfg(feature = "sse")]
pub mod sse;
