//! Policies: the rules of topics, configured by name pattern.

use std::sync::Arc;

use crate::name::TopicName;

/// The treatment of an event whose id already waits in a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DuplicateId {
    /// The new event replaces the waiting one. That makes a publisher's retry harmless.
    #[default]
    Replace,
    /// The new event is refused. An id in flight counts as present.
    Reject,
    /// Both are kept.
    Keep,
}

/// The treatment of a publish that reaches the limit of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overflow {
    /// The publish is refused, and no subscription gets the event.
    #[default]
    Reject,
    /// The subscription drops the oldest of its least urgent waiting events.
    DropLowest,
    /// That event goes to the dead-letter topic.
    DeadLetter,
}

/// The placeholder for a topic's name in the name of its dead-letter topic.
const PLACEHOLDER: &str = "{topic}";

/// The rules of a topic. The defaults are those of an empty configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicPolicy {
    /// Whether the first `pub` or `sub` creates the topic.
    pub auto_create: bool,
    /// The treatment of an event whose id already waits.
    pub duplicate_id: DuplicateId,
    /// Unsettled events that one subscription may have; 0: no limit.
    pub max_waiting: u64,
    /// Bytes of unsettled events that one subscription may have; 0: no limit.
    pub max_waiting_bytes: u64,
    /// The treatment of a publish beyond these limits.
    pub overflow: Overflow,
    /// Milliseconds after which an unsettled delivery is taken back; 0: never.
    pub ack_timeout_ms: u64,
    /// Milliseconds that an event may wait, unless it says less itself; 0: indefinitely.
    pub ttl_ms: u64,
    /// Deliveries after which an event that comes back goes to the dead-letter topic; 0: no limit.
    pub max_deliveries: u32,
    /// The dead-letter topic; `{topic}` stands for the topic's name.
    pub dead_letter: String,
    /// Whether expired events go to the dead-letter topic.
    pub expired_to_dead_letter: bool,
    /// Whether this is a dead-letter topic itself: events that reach it without a subscription are kept.
    pub keeps: bool,
    /// Whether the configuration names the topic itself, without a `*`.
    pub named: bool,
}

impl TopicPolicy {
    /// The dead-letter topic of `topic`; `None` if its name would not be valid, for instance too long.
    #[must_use]
    pub fn dead_letter_of(&self, topic: &TopicName) -> Option<TopicName> {
        TopicName::new(&self.dead_letter.replace(PLACEHOLDER, topic.as_str())).ok()
    }

    /// The topic whose dead letters go to `name` by this policy's pattern, if there can be one; `Err`: those of any topic do.
    fn origin_of(&self, name: &TopicName) -> Option<Result<TopicName, ()>> {
        let name = name.as_str();
        let Some((before, after)) = self.dead_letter.split_once(PLACEHOLDER) else {
            return (self.dead_letter == name).then_some(Err(()));
        };
        if after.contains(PLACEHOLDER) {
            // With the placeholder twice, the origin cannot be told cheaply, and no configuration is known that needs it.
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
            named: false,
        }
    }
}

/// Policies by pattern. Of several patterns that match a topic, the one with the most literal characters applies.
/// Cheap to clone: every shard has its own, so that it needs no lock to read it.
#[derive(Debug, Clone, Default)]
pub struct Policies {
    patterns: Arc<[(String, TopicPolicy)]>,
}

impl Policies {
    /// Policies for patterns in which `*` matches any characters, dots included.
    #[must_use]
    pub fn new(mut patterns: Vec<(String, TopicPolicy)>) -> Self {
        let literals = |pattern: &str| pattern.chars().filter(|c| *c != '*').count();
        // Equals are ordered by the pattern itself, so that the order in the file does not matter.
        patterns.sort_by(|(a, _), (b, _)| literals(b).cmp(&literals(a)).then_with(|| a.cmp(b)));
        Self { patterns: patterns.into() }
    }

    /// Whether the configuration names `topic` itself, without a `*`.
    #[must_use]
    pub fn names(&self, topic: &TopicName) -> bool {
        self.patterns.iter().any(|(pattern, _)| pattern == topic.as_str())
    }

    /// The policy of `topic`. A dead-letter topic is limited only by a pattern that names it: one with a `*` sets neither its number of
    /// events, nor a time or a count of deliveries after which its letters would move on.
    #[must_use]
    pub fn of(&self, topic: &TopicName) -> TopicPolicy {
        let mut policy = self.find(topic).cloned().unwrap_or_default();
        policy.keeps = self.is_dead_letter(topic);
        policy.named = self.names(topic);
        if policy.keeps && !policy.named {
            (policy.max_waiting, policy.max_waiting_bytes, policy.ttl_ms, policy.max_deliveries) = (0, 0, 0, 0);
        }
        policy
    }

    fn find(&self, topic: &TopicName) -> Option<&TopicPolicy> {
        let found = self.patterns.iter().find(|(pattern, _)| glob(pattern, topic.as_str()));
        found.map(|(_, policy)| policy)
    }

    /// Whether the dead letters of some topic go to `topic`.
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

/// Whether `text` matches `pattern`, in which `*` matches any characters. Linear in the text for each star, because it never goes
/// back further than the last one.
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
    fn a_star_matches_any_characters() {
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
