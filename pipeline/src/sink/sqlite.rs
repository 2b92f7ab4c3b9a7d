//! The embedded sink.
