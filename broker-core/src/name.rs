//! Names of topics and subscriptions, ids of events, and the rules for both.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::{Arc, OnceLock};

use siphasher::sip128::{Hasher128, SipHasher13};

/// The longest name of a topic or subscription, and the longest event id, in bytes.
pub const MAX_NAME_BYTES: usize = 255;

/// Why a name is invalid. The text completes `invalid topic name "…": `.
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
/// Cheap to clone. It carries the hash that decides which shard owns the topic, which depends on the name alone and so is the same in
/// every process.
#[derive(Clone)]
pub struct TopicName {
    name: Arc<str>,
    /// Decides the shard.
    hash: u64,
    /// For hash tables. It is keyed, so that no client can choose names that collide.
    keyed: u64,
}

impl TopicName {
    /// Checks `name` and keeps a copy of it.
    ///
    /// # Errors
    /// [`NameError`] says which rule the name breaks.
    pub fn new(name: &str) -> Result<Self, NameError> {
        check(name)?;
        Ok(Self { name: Arc::from(name), hash: shard_hash(name), keyed: keyed_hash(name).0 })
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// The number of the shard, of `shards`, that owns the topic.
    #[must_use]
    pub fn shard(&self, shards: usize) -> usize {
        ((self.hash >> 32) as usize) % shards.max(1)
    }
}

/// What the dead-letter topic of a topic adds to its name by default.
const DEAD_SUFFIX: &str = ".dead";

/// A stable hash without a key, on which only the choice of a shard depends: FNV-1a, whose state the finalizer of SplitMix64 mixes so
/// that every bit of the result depends on every bit of the name. FNV alone lets the last characters of a name reach few bits.
///
/// A dead-letter topic has the hash of its root, so that letters stay in the shard of their topic.
fn shard_hash(name: &str) -> u64 {
    let mut root = name;
    while let Some(shorter) = root.strip_suffix(DEAD_SUFFIX).filter(|shorter| !shorter.is_empty()) {
        root = shorter;
    }
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in root.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// The name of a subscription, by the same rules as that of a topic.
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

    /// The name as text.
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

/// Why an event id is invalid.
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

/// An event's id as it is kept in memory: its 128-bit SipHash under a random key of this process.
///
/// That is 16 bytes instead of up to 255 for every waiting event. The probability that any two of ten million ids share a hash is
/// 10^-25, and a publisher cannot aim at it because the key is secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdKey(u128);

impl IdKey {
    /// The key of `id` in this process.
    #[must_use]
    pub fn of(id: &str) -> Self {
        let (low, high) = keyed_hash(id);
        Self(u128::from(high) << 64 | u128::from(low))
    }

    /// 64 bits of it, for a hash table.
    #[must_use]
    pub fn short(self) -> u64 {
        self.0 as u64
    }
}

/// The 128-bit SipHash of a text under a random key of this process.
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
    fn names_that_break_a_rule_are_refused_with_that_rule() {
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
    fn event_ids_that_break_a_rule_are_refused_with_that_rule() {
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

    #[test]
    fn the_hash_of_a_name_is_that_of_these_vectors() {
        let vectors: [(&str, u64); 4] = [
            ("a", 0x02c0_bdbf_4814_20f8),
            ("t0", 0x30ff_23dc_e78c_f08c),
            ("orders.0", 0xeed5_e40c_8be4_0c5c),
            ("tweets", 0x2a98_4260_dbf8_0ba4),
        ];
        for (name, hash) in vectors {
            assert_eq!(TopicName::new(name).expect("a good name").hash, hash, "{name}");
        }
    }

    #[test]
    fn numbered_and_one_letter_topics_are_spread_over_the_shards() {
        let families: [Vec<String>; 3] = [
            (0..10).map(|n| format!("orders.{n}")).collect(),
            (0..100).map(|n| format!("t{n}")).collect(),
            ('a'..='z').map(String::from).collect(),
        ];
        for names in families {
            for shards in [2, 3, 4, 8] {
                let mut used = vec![0; shards];
                for name in &names {
                    used[TopicName::new(name).expect("a good name").shard(shards)] += 1;
                }
                let most = used.iter().max().copied().unwrap_or_default();
                assert!(most <= 2 * names.len() / shards + 2, "{} names of {}: {used:?}", names.len(), names[0]);
            }
        }
    }

    #[test]
    fn every_bit_of_the_hash_depends_on_every_bit_of_the_name() {
        let names: Vec<String> = (0..256).map(|n| format!("topic-{n:03}-x")).collect();
        for byte in 0..names[0].len() {
            for bit in 0..5 {
                let mut flips = [0_u32; 64];
                for name in &names {
                    let mut other = name.clone().into_bytes();
                    other[byte] ^= 1 << bit;
                    let other = String::from_utf8(other).expect("still ASCII");
                    let changed = shard_hash(name) ^ shard_hash(&other);
                    (0..64).for_each(|at| flips[at] += u32::from(changed >> at & 1 == 1));
                }
                assert!(flips.iter().all(|n| (64..192).contains(n)), "byte {byte}, bit {bit}: {flips:?}");
            }
        }
    }

    #[test]
    fn dead_letters_stay_in_the_shard_of_their_topic() {
        for n in 0..100 {
            let shard = |name: String| TopicName::new(&name).expect("a good name").shard(7);
            assert_eq!(shard(format!("t{n}.dead")), shard(format!("t{n}")));
            assert_eq!(shard(format!("t{n}.dead.dead")), shard(format!("t{n}")));
        }
    }
}
