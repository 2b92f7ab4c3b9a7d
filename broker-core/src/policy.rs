//! What the configuration decides for a topic: policies by name pattern.

use std::sync::Arc;

use crate::name::TopicName;

/// What happens when an id is published that already waits in a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DuplicateId {
    /// The new event replaces the waiting one, so a publisher's retry is harmless.
    #[default]
    Replace,
    /// The new event is refused. An id in flight counts as present.
    Reject,
    /// Both are kept.
    Keep,
}

/// What happens to a publish that finds a subscription's limit reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overflow {
    /// It is refused; no subscription gets it.
    #[default]
    Reject,
    /// The least urgent, oldest waiting event of that subscription goes.
    DropLowest,
    /// The same goes to the dead-letter topic.
    DeadLetter,
}

/// Stands for a topic's name in that of its dead-letter topic.
const PLACEHOLDER: &str = "{topic}";

/// The rules of a topic. The default is that of an empty configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicPolicy {
    /// Whether the first `pub` or `sub` makes the topic.
    pub auto_create: bool,
    /// What happens to a waiting event whose id is published again.
    pub duplicate_id: DuplicateId,
    /// Events not yet settled that one subscription may have; 0: no limit.
    pub max_waiting: u64,
    /// Their bytes; 0: no limit.
    pub max_waiting_bytes: u64,
    /// What happens to a publish beyond these limits.
    pub overflow: Overflow,
    /// Milliseconds after which an unsettled delivery is taken back; 0: never.
    pub ack_timeout_ms: u64,
    /// Milliseconds that an event may wait if it does not say less itself; 0: for ever.
    pub ttl_ms: u64,
    /// Deliveries after which an event that comes back goes to the dead-letter topic; 0: no limit.
    pub max_deliveries: u32,
    /// The dead-letter topic; `{topic}` stands for the topic's name.
    pub dead_letter: String,
    /// Whether events that waited for too long go to the dead-letter topic.
    pub expired_to_dead_letter: bool,
    /// Whether this is a dead-letter topic itself: what reaches it without a subscription is kept.
    pub keeps: bool,
}

impl TopicPolicy {
    /// The dead-letter topic of `topic`; `None` if it would have no valid name, such as one that is too long.
    #[must_use]
    pub fn dead_letter_of(&self, topic: &TopicName) -> Option<TopicName> {
        TopicName::new(&self.dead_letter.replace(PLACEHOLDER, topic.as_str())).ok()
    }

    /// The topic whose dead letters go to `name` by this policy's pattern for them, if there can be one; `Err`: any topic's.
    fn origin_of(&self, name: &TopicName) -> Option<Result<TopicName, ()>> {
        let name = name.as_str();
        let Some((before, after)) = self.dead_letter.split_once(PLACEHOLDER) else {
            return (self.dead_letter == name).then_some(Err(()));
        };
        if after.contains(PLACEHOLDER) {
            // The name twice in one: no telling it apart cheaply, and nobody wants it.
            return None;
        }
        let topic = name.strip_prefix(before)?.strip_suffix(after)?;
        TopicName::new(topic).ok().map(Ok)
    }
}

impl Default for TopicPolicy {
    fn default() -> Self {
        Self {
            auto_create: true,
            duplicate_id: DuplicateId::Replace,
            max_waiting: 0,
            max_waiting_bytes: 0,
            ack_timeout_ms: 0,
            overflow: Overflow::Reject,
            ttl_ms: 0,
            max_deliveries: 0,
            dead_letter: "{topic}.dead".to_owned(),
            expired_to_dead_letter: false,
            keeps: false,
        }
    }
}

/// Policies by pattern; of several patterns that match a topic the one with the most literal characters counts.
/// Cheap to clone: every shard has its own, so that none needs a lock to look into it.
#[derive(Debug, Clone, Default)]
pub struct Policies {
    patterns: Arc<[(String, TopicPolicy)]>,
}

impl Policies {
    /// Takes patterns in which `*` stands for any characters, dots included.
    #[must_use]
    pub fn new(mut patterns: Vec<(String, TopicPolicy)>) -> Self {
        let literals = |pattern: &str| pattern.chars().filter(|c| *c != '*').count();
        // The name decides between equals, so that the order in the file does not.
        patterns.sort_by(|(a, _), (b, _)| literals(b).cmp(&literals(a)).then_with(|| a.cmp(b)));
        Self { patterns: patterns.into() }
    }

    /// Whether the configuration names `topic` itself, without a `*`.
    #[must_use]
    pub fn names(&self, topic: &TopicName) -> bool {
        self.patterns.iter().any(|(pattern, _)| pattern == topic.as_str())
    }

    /// The policy of `topic`. A pattern with a `*` does not limit a dead-letter topic, only its own name does: neither by a
    /// number of events, nor by a time or a count of deliveries after which its letters would go on.
    #[must_use]
    pub fn of(&self, topic: &TopicName) -> TopicPolicy {
        let mut policy = self.find(topic).cloned().unwrap_or_default();
        policy.keeps = self.is_dead_letter(topic);
        if policy.keeps && !self.names(topic) {
            (policy.max_waiting, policy.max_waiting_bytes, policy.ttl_ms, policy.max_deliveries) = (0, 0, 0, 0);
        }
        policy
    }

    fn find(&self, topic: &TopicName) -> Option<&TopicPolicy> {
        let found = self.patterns.iter().find(|(pattern, _)| glob(pattern, topic.as_str()));
        found.map(|(_, policy)| policy)
    }

    /// Whether `topic` is where some topic's dead letters go.
    #[must_use]
    pub fn is_dead_letter(&self, topic: &TopicName) -> bool {
        let usual = TopicPolicy::default();
        let policies = self.patterns.iter().map(|(_, policy)| policy).chain([&usual]);
        policies.filter_map(|policy| policy.origin_of(topic)).any(|origin| match origin {
            Err(()) => true,
            Ok(origin) => self.find(&origin).unwrap_or(&usual).dead_letter_of(&origin).as_ref() == Some(topic),
        })
    }
}

/// Whether `text` matches `pattern`, in which `*` stands for any characters. Linear in the text for each star: it never
/// goes back further than the last star.
#[must_use]
pub fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut retry = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p + 1, t));
                p += 1;
            }
            Some(byte) if *byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match retry {
                Some((after_star, from)) => {
                    p = after_star;
                    t = from + 1;
                    retry = Some((after_star, t));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("*", "a.b", true),
            ("a.*", "a.b.c", true),
            ("a.*", "a", false),
            ("*.dead", "x.dead", true),
            ("*.dead", "x.dead.y", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("", "", true),
            ("", "a", false),
            ("abc", "abc", true),
            ("**", "abc", true),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_dead_letter_topic_is_limited_by_its_own_name_only() {
        let limited = TopicPolicy { max_waiting: 5, ttl_ms: 9, max_deliveries: 2, ..TopicPolicy::default() };
        let grave = TopicPolicy { dead_letter: "grave".into(), ..limited };
        let other = TopicPolicy { dead_letter: "x-{topic}-y".into(), ..limited };
        let policies = Policies::new(vec![
            ("*".into(), limited.clone()),
            ("jobs".into(), grave),
            ("odd.*".into(), other),
            ("small.dead".into(), limited),
        ]);
        let name = |name: &str| TopicName::new(name).expect("a good name");
        for (topic, keeps, max_waiting) in [
            ("t", false, 5),
            ("t.dead", true, 0),
            ("t.dead.dead", true, 0),
            ("small.dead", true, 5),
            ("grave", true, 0),
            // Its letters go elsewhere.
            ("jobs.dead", false, 5),
            ("x-odd.a-y", true, 0),
            ("x-a-y", false, 5),
            (".dead".trim_start_matches('.'), false, 5),
        ] {
            let policy = policies.of(&name(topic));
            let limits = (policy.max_waiting, policy.ttl_ms, policy.max_deliveries);
            let expected = if max_waiting == 0 { (0, 0, 0) } else { (5, 9, 2) };
            assert_eq!((policy.keeps, limits), (keeps, expected), "{topic}");
        }
        let long = name(&"x".repeat(251));
        assert_eq!(TopicPolicy::default().dead_letter_of(&long), None);
        assert_eq!(policies.of(&name("jobs")).dead_letter_of(&name("jobs")), Some(name("grave")));
    }

    #[test]
    fn the_most_literal_pattern_wins() {
        let with = |max_waiting| TopicPolicy { max_waiting, ..TopicPolicy::default() };
        let policies =
            Policies::new(vec![("*".into(), with(1)), ("tweets.*".into(), with(2)), ("tweets.hot".into(), with(3))]);
        let of = |name| policies.of(&TopicName::new(name).expect("a good name")).max_waiting;
        assert_eq!((of("users"), of("tweets.cold"), of("tweets.hot")), (1, 2, 3));
    }
}
