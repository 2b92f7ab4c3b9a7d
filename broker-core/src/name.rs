//! Names: what topics, subscriptions and events are called, and what such a name may hold.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::{Arc, OnceLock};

use siphasher::sip128::{Hasher128, SipHasher13};

/// The longest name of a topic or subscription, and the longest event id, in bytes.
pub const MAX_NAME_BYTES: usize = 255;

/// Why a name was refused; its text completes `invalid topic name "…": `.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No bytes at all.
    #[error("a name has 1 to 255 characters")]
    Empty,
    /// More than [`MAX_NAME_BYTES`].
    #[error("a name has at most 255 bytes")]
    TooLong,
    /// A topic or subscription name that begins with a dot.
    #[error("a name does not begin with a dot")]
    LeadingDot,
    /// A character outside `A-Z a-z 0-9 . _ : -`.
    #[error("a name is made of A-Z a-z 0-9 . _ : -")]
    Character,
}

fn check(name: &str) -> Result<(), NameError> {
    let bytes = name.as_bytes();
    match bytes.first() {
        None => return Err(NameError::Empty),
        Some(b'.') => return Err(NameError::LeadingDot),
        Some(_) => {}
    }
    if bytes.len() > MAX_NAME_BYTES {
        return Err(NameError::TooLong);
    }
    let allowed = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-');
    if bytes.iter().all(allowed) { Ok(()) } else { Err(NameError::Character) }
}

/// The name of a topic: 1 to 255 bytes of `A-Z a-z 0-9 . _ : -`, not beginning with a dot.
///
/// Cheap to clone, and carries the hash that decides which shard owns the topic: the same in every process, because it
/// depends on nothing but the name.
#[derive(Clone)]
pub struct TopicName {
    name: Arc<str>,
    /// Decides the shard.
    hash: u64,
    /// For hash tables: keyed, so that nobody can choose names that collide.
    keyed: u64,
}

impl TopicName {
    /// Checks `name` and keeps a copy of it.
    ///
    /// # Errors
    /// [`NameError`] says which rule the name breaks.
    pub fn new(name: &str) -> Result<Self, NameError> {
        check(name)?;
        Ok(Self { name: Arc::from(name), hash: fnv1a(name.as_bytes()), keyed: keyed_hash(name).0 })
    }

    /// The name as it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// Which of `shards` owns the topic.
    #[must_use]
    pub fn shard(&self, shards: usize) -> usize {
        // The high half is the better mixed one in FNV.
        ((self.hash >> 32) as usize) % shards.max(1)
    }
}

/// FNV-1a: a stable hash that needs no key; only the choice of a shard depends on it.
fn fnv1a(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash ^ (hash >> 29)
}

/// The name of a subscription; the same rules as for a topic.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubscriptionName(Arc<str>);

impl SubscriptionName {
    /// Checks `name` and keeps a copy of it.
    ///
    /// # Errors
    /// [`NameError`] says which rule the name breaks.
    pub fn new(name: &str) -> Result<Self, NameError> {
        check(name)?;
        Ok(Self(Arc::from(name)))
    }

    /// The name as it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl PartialEq for TopicName {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && (Arc::ptr_eq(&self.name, &other.name) || self.name == other.name)
    }
}
impl Eq for TopicName {}
impl Hash for TopicName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.keyed);
    }
}
impl PartialOrd for TopicName {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for TopicName {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.name.cmp(&other.name)
    }
}
impl Borrow<str> for SubscriptionName {
    fn borrow(&self) -> &str {
        &self.0
    }
}
impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
impl fmt::Debug for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.name)
    }
}
impl fmt::Display for SubscriptionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for SubscriptionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// Why an event id was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EventIdError {
    /// No bytes at all.
    #[error("an id is not empty")]
    Empty,
    /// More than [`MAX_NAME_BYTES`].
    #[error("an id has at most 255 bytes")]
    TooLong,
    /// White space or a control character.
    #[error("an id holds no blanks and no control characters")]
    Character,
}

/// Checks an event id: 1 to 255 bytes, no Unicode white space, no control characters.
///
/// # Errors
/// [`EventIdError`] says which rule the id breaks.
pub fn check_event_id(id: &str) -> Result<(), EventIdError> {
    if id.is_empty() {
        return Err(EventIdError::Empty);
    }
    if id.len() > MAX_NAME_BYTES {
        return Err(EventIdError::TooLong);
    }
    // The common id is ASCII: one pass over its bytes decides.
    if id.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(());
    }
    if id.chars().any(|c| c.is_whitespace() || c.is_control()) { Err(EventIdError::Character) } else { Ok(()) }
}

/// What stands for an event's id in memory: its 128-bit SipHash under a key that this process drew at random.
///
/// 16 bytes instead of up to 255 for every waiting event. Two ids of ten million share a key with a probability of 10^-25,
/// and a publisher cannot aim at it, since the process's key is secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdKey(u128);

impl IdKey {
    /// The key of `id` in this process.
    #[must_use]
    pub fn of(id: &str) -> Self {
        let (low, high) = keyed_hash(id);
        Self(u128::from(high) << 64 | u128::from(low))
    }

    /// 64 of its bits, for a hash table.
    #[must_use]
    pub fn short(self) -> u64 {
        self.0 as u64
    }
}

/// The 128-bit SipHash of a text under a key that this process drew at random.
fn keyed_hash(text: &str) -> (u64, u64) {
    static HASHER: OnceLock<SipHasher13> = OnceLock::new();
    let hasher = HASHER.get_or_init(|| {
        // std's RandomState is seeded from the operating system; two of its hashes make a 128-bit key.
        let draw = || std::hash::RandomState::new().hash_one(0_u8);
        SipHasher13::new_with_keys(draw(), draw())
    });
    let mut hasher = *hasher;
    hasher.write(text.as_bytes());
    let hash = hasher.finish128();
    (hash.h1, hash.h2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rules() {
        let long = "x".repeat(255);
        for good in ["a", "tweets", "A.b_c:d-9", "x.", long.as_str()] {
            assert!(TopicName::new(good).is_ok(), "{good}");
            assert!(SubscriptionName::new(good).is_ok(), "{good}");
        }
        let too_long = "x".repeat(256);
        for (bad, why) in [
            ("", NameError::Empty),
            (".a", NameError::LeadingDot),
            ("..", NameError::LeadingDot),
            ("a/b", NameError::Character),
            ("a b", NameError::Character),
            ("ä", NameError::Character),
            ("a\0", NameError::Character),
            (too_long.as_str(), NameError::TooLong),
        ] {
            assert_eq!(TopicName::new(bad).err(), Some(why), "{bad}");
        }
    }

    #[test]
    fn event_ids_follow_the_rules() {
        assert_eq!(check_event_id("a/ä😀\"\\"), Ok(()));
        assert_eq!(check_event_id(""), Err(EventIdError::Empty));
        assert_eq!(check_event_id(&"x".repeat(255)), Ok(()));
        assert_eq!(check_event_id(&"x".repeat(256)), Err(EventIdError::TooLong));
        for bad in ["a b", "a\tb", "\u{a0}", "\u{2003}", "a\u{7f}", "\u{85}", "\u{1}"] {
            assert_eq!(check_event_id(bad), Err(EventIdError::Character), "{bad:?}");
        }
    }

    #[test]
    fn the_shard_of_a_topic_depends_on_its_name_alone() {
        let a = TopicName::new("tweets").expect("a good name");
        let b = TopicName::new("tweets").expect("a good name");
        assert_eq!(a.shard(7), b.shard(7));
        let mut used = [0_u32; 4];
        for n in 0..1000 {
            used[TopicName::new(&format!("topic-{n}")).expect("a good name").shard(4)] += 1;
        }
        assert!(used.iter().all(|n| *n > 150), "{used:?}");
    }
}
