//! Hash tables for keys that no client can choose.
//!
//! The tables of std hash with SipHash, so that no client can make its names collide. On an event's path that costs more than the lookup
//! itself. These tables hash with a multiplication, which is enough for numbers that this process gives out, and for a [`TopicName`],
//! which carries a keyed hash that is computed once.
//!
//! [`TopicName`]: crate::name::TopicName

/// A table whose keys are numbers that this process gives out, or [`crate::name::TopicName`]s.
pub type Table<K, V> = rustc_hash::FxHashMap<K, V>;
