//! Hash tables for keys that nobody outside can choose.
//!
//! std's tables hash with SipHash, so that no client can make its names collide; on an event's path that costs more than the look-up. These do with a
//! multiplication, which is right for numbers that this process gives out itself, and for a [`TopicName`], which brings a keyed
//! hash along that is computed once.
//!
//! [`TopicName`]: crate::name::TopicName

/// A table under numbers that this process gives out, or under [`crate::name::TopicName`]s.
pub type Table<K, V> = rustc_hash::FxHashMap<K, V>;
