//! What the configuration decides for a topic: policies by name pattern.

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

/// The rules of a topic. The default is that of an empty configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicPolicy {
    /// Whether the first `pub` or `sub` makes the topic.
    pub auto_create: bool,
    /// What happens to a waiting event whose id is published again.
    pub duplicate_id: DuplicateId,
    /// Events not yet settled that one subscription may have; 0: no limit. A publish beyond it is refused.
    pub max_waiting: u64,
    /// Their bytes; 0: no limit.
    pub max_waiting_bytes: u64,
    /// Milliseconds after which an unsettled delivery is taken back; 0: never.
    pub ack_timeout_ms: u64,
    /// Milliseconds that an event may wait if it does not say less itself; 0: for ever.
    pub ttl_ms: u64,
}

impl Default for TopicPolicy {
    fn default() -> Self {
        Self {
            auto_create: true,
            duplicate_id: DuplicateId::Replace,
            max_waiting: 0,
            max_waiting_bytes: 0,
            ack_timeout_ms: 0,
            ttl_ms: 0,
        }
    }
}

/// Policies by pattern; of several patterns that match a topic the one with the most literal characters counts.
#[derive(Debug, Clone, Default)]
pub struct Policies {
    patterns: Vec<(String, TopicPolicy)>,
}

impl Policies {
    /// Takes patterns in which `*` stands for any characters, dots included.
    #[must_use]
    pub fn new(mut patterns: Vec<(String, TopicPolicy)>) -> Self {
        let literals = |pattern: &str| pattern.chars().filter(|c| *c != '*').count();
        // The name decides between equals, so that the order in the file does not.
        patterns.sort_by(|(a, _), (b, _)| literals(b).cmp(&literals(a)).then_with(|| a.cmp(b)));
        Self { patterns }
    }

    /// Whether the configuration names `topic` itself, without a `*`.
    #[must_use]
    pub fn names(&self, topic: &TopicName) -> bool {
        self.patterns.iter().any(|(pattern, _)| pattern == topic.as_str())
    }

    /// The policy of `topic`.
    #[must_use]
    pub fn of(&self, topic: &TopicName) -> TopicPolicy {
        let found = self.patterns.iter().find(|(pattern, _)| glob(pattern, topic.as_str()));
        found.map(|(_, policy)| policy.clone()).unwrap_or_default()
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
    fn the_most_literal_pattern_wins() {
        let with = |max_waiting| TopicPolicy { max_waiting, ..TopicPolicy::default() };
        let policies =
            Policies::new(vec![("*".into(), with(1)), ("tweets.*".into(), with(2)), ("tweets.hot".into(), with(3))]);
        let of = |name| policies.of(&TopicName::new(name).expect("a good name")).max_waiting;
        assert_eq!((of("users"), of("tweets.cold"), of("tweets.hot")), (1, 2, 3));
    }
}
