//! Names that are safe to put on the wire.
//!
//! A line protocol is open to injection wherever a blank or a line end slips into a word. So a word is checked once,
//! where it becomes one of these types, and nowhere after.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::error::{Error, excerpt};

/// The longest name or id, in bytes.
const MAX_BYTES: usize = 255;

macro_rules! word {
    ($(#[$doc:meta])* $type:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            /// Checks `text` and takes it.
            ///
            /// # Errors
            /// [`Error::Invalid`]: the text breaks the rule above.
            pub fn new(text: impl AsRef<str>) -> Result<Self, Error> {
                let text = text.as_ref();
                $check(text)?;
                Ok(Self(text.into()))
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                Self::new(text)
            }
        }

        impl TryFrom<&str> for $type {
            type Error = Error;

            fn try_from(text: &str) -> Result<Self, Error> {
                Self::new(text)
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
    };
}

word! {
    /// A topic's name: 1 to 255 bytes of `A-Z a-z 0-9 . _ : -`, not beginning with a dot.
    TopicName, |text| check_name("topic", text)
}
word! {
    /// The name of a durable subscription: 1 to 255 bytes of `A-Z a-z 0-9 . _ : -`, not beginning with a dot.
    SubscriptionName, |text| check_name("subscription", text)
}
word! {
    /// An event's id: 1 to 255 bytes without white space and control characters.
    EventId, check_id
}

impl EventId {
    /// A new UUIDv7: unique everywhere, and growing within this process.
    #[must_use]
    pub fn generate() -> Self {
        let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
        let text: &str = uuid::Uuid::now_v7().hyphenated().encode_lower(&mut text);
        Self(text.into())
    }
}

fn check_name(kind: &str, text: &str) -> Result<(), Error> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
    if text.is_empty() || text.len() > MAX_BYTES || text.starts_with('.') || !text.bytes().all(allowed) {
        return Err(Error::Invalid(format!(
            "invalid {kind} name \"{}\": expected 1 to {MAX_BYTES} bytes of A-Z a-z 0-9 . _ : -, not beginning with a dot",
            excerpt(text)
        )));
    }
    Ok(())
}

fn check_id(text: &str) -> Result<(), Error> {
    if text.is_empty() || text.len() > MAX_BYTES || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(Error::Invalid(format!(
            "invalid event id \"{}\": expected 1 to {MAX_BYTES} bytes without white space and control characters",
            excerpt(text)
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_protocol_to_the_byte() {
        for good in ["a", "Tweets", "a.b_c:d-9", "-", &"x".repeat(255)] {
            assert!(TopicName::new(good).is_ok(), "{good}");
            assert!(SubscriptionName::new(good).is_ok(), "{good}");
        }
        for bad in ["", ".a", "a b", "a\n", "é", "a/b", "*", &"x".repeat(256)] {
            assert!(TopicName::new(bad).is_err(), "{bad}");
            assert!(SubscriptionName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_id_that_could_split_a_line_or_a_word_is_refused() {
        for good in ["042", "é", "{}", "\"", &"x".repeat(255)] {
            assert!(EventId::new(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "a\nunsubscribe t", "a\u{a0}b", "a\u{0}", "a\u{85}", &"x".repeat(256)] {
            assert!(EventId::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn generated_ids_are_valid_distinct_and_growing() {
        let ids: Vec<EventId> = (0..1000).map(|_| EventId::generate()).collect();
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(EventId::new(ids[0].as_str()).is_ok());
    }
}
