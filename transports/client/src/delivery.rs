//! One event, as delivered.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::error::{Error, excerpt};
use crate::name::{EventId, TopicName};

/// One event, as delivered. Cheap to clone: the line is shared.
#[derive(Debug, Clone)]
pub struct Delivery {
    line: Arc<str>,
    topic: TopicName,
    id: EventId,
    priority: i32,
    redelivered: u64,
    msg: Range<usize>,
    dead: Option<Range<usize>>,
    pub(crate) connection: u64,
    /// Counts what this subscription has handed out.
    pub(crate) serial: u64,
}

impl Delivery {
    /// Reads a delivery line of the subscription to `topic`.
    ///
    /// The id is checked, though it comes from the broker: it goes into command lines again, and one with a line break
    /// in it would be a command of the peer's choosing.
    pub(crate) fn parse(line: &str, topic: &TopicName, connection: u64) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Line<'a> {
            #[serde(borrow)]
            topic: Cow<'a, str>,
            priority: i32,
            #[serde(borrow)]
            msg: &'a RawValue,
            #[serde(borrow)]
            id: Cow<'a, str>,
            #[serde(default)]
            redelivered: u64,
            #[serde(borrow, default)]
            dead: Option<&'a RawValue>,
        }
        let wrong = || Error::Protocol(format!("not a delivery: \"{}\"", excerpt(line)));
        let parsed: Line<'_> = serde_json::from_str(line).map_err(|_| wrong())?;
        if parsed.topic != topic.as_str() {
            return Err(wrong());
        }
        Ok(Self {
            topic: topic.clone(),
            id: EventId::new(&parsed.id).map_err(|_| wrong())?,
            priority: parsed.priority,
            redelivered: parsed.redelivered,
            msg: position(line, parsed.msg),
            dead: parsed.dead.map(|dead| position(line, dead)),
            line: line.into(),
            connection,
            serial: 0,
        })
    }

    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &TopicName {
        &self.topic
    }

    /// The event's id.
    #[must_use]
    pub fn id(&self) -> &EventId {
        &self.id
    }

    /// Its priority; the higher was delivered first.
    #[must_use]
    pub fn priority(&self) -> i32 {
        self.priority
    }

    /// The message: JSON, byte for byte as it was published.
    #[must_use]
    pub fn msg(&self) -> &str {
        &self.line[self.msg.clone()]
    }

    /// The message as a value.
    ///
    /// # Errors
    /// [`Error::Invalid`]: the message is not of that shape.
    pub fn msg_as<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_str(self.msg())
            .map_err(|error| Error::Invalid(format!("the message of event {} is of another shape: {error}", self.id)))
    }

    /// How often it has been delivered before.
    #[must_use]
    pub fn redelivered(&self) -> u64 {
        self.redelivered
    }

    /// In a dead-letter topic: where the event comes from and why it is dead, as JSON.
    #[must_use]
    pub fn dead(&self) -> Option<&str> {
        self.dead.clone().map(|dead| &self.line[dead])
    }

    /// The whole line as received, without its ending.
    #[must_use]
    pub fn line(&self) -> &str {
        &self.line
    }

    /// Which connection of the subscription it came over: 1 for the first, 2 after the first reconnect, and so on. For
    /// a subscription without a name, events may have been missed wherever this grows.
    #[must_use]
    pub fn connection(&self) -> u64 {
        self.connection
    }
}

/// Where in `line` a value that was borrowed from it lies.
fn position(line: &str, value: &RawValue) -> Range<usize> {
    let start = (value.get().as_ptr() as usize).saturating_sub(line.as_ptr() as usize);
    start..start + value.get().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Delivery, Error> {
        Delivery::parse(line, &TopicName::new("t").unwrap(), 1)
    }

    #[test]
    fn everything_is_taken_from_the_line_and_the_line_is_kept() {
        let line = r#"{"topic":"t","priority":-3,"msg":{"a" : 1.00e3,"é":"\u00e9"},"id":"0\"42","redelivered":2,"dead":{"note":"x"}}"#;
        let delivery = parse(line).unwrap();
        assert_eq!(delivery.line(), line);
        assert_eq!(delivery.msg(), r#"{"a" : 1.00e3,"é":"\u00e9"}"#);
        assert_eq!(delivery.dead(), Some(r#"{"note":"x"}"#));
        assert_eq!((delivery.id().as_str(), delivery.priority(), delivery.redelivered()), ("0\"42", -3, 2));

        let delivery = parse(r#"{"topic":"t","priority":0,"msg":null,"id":"1"}"#).unwrap();
        assert_eq!((delivery.msg(), delivery.dead(), delivery.redelivered()), ("null", None, 0));
        assert_eq!(delivery.msg_as::<Option<u8>>().unwrap(), None);
        assert!(matches!(delivery.msg_as::<u8>(), Err(Error::Invalid(_))));
    }

    #[test]
    fn what_is_no_delivery_of_this_topic_is_refused() {
        for line in [
            "{",
            "{}",
            r#"{"topic":"other","priority":0,"msg":1,"id":"1"}"#,
            r#"{"topic":"t","priority":0,"msg":1,"id":"a\nunsubscribe t"}"#,
            r#"{"topic":"t","priority":0,"msg":1,"id":"a b"}"#,
            r#"{"topic":"t","priority":0,"msg":1,"id":""}"#,
            r#"{"topic":"t","priority":0,"msg":1,"id":"1"} x"#,
            &format!(r#"{{"topic":"t","priority":0,"msg":{},"id":"1"}}"#, "[".repeat(100_000)),
        ] {
            assert!(matches!(parse(line), Err(Error::Protocol(_))), "{line:.80}");
        }
    }
}
