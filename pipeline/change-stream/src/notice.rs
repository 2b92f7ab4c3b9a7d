//! Events that tell consumers of a gap in the changes.

use broker_core::event::NewEvent;
use broker_core::name::TopicName;
use bson::DateTime;
use serde::Serialize;

use super::change::Change;
use super::position::Position;
use pipeline_source::mapping::{Mapping, digest};

#[derive(Serialize)]
struct Message<'a> {
    gap: Gap<'a>,
}

#[derive(Serialize)]
struct Gap<'a> {
    source: &'a str,
    from: Option<Place>,
    to: Place,
    reason: &'a str,
}

/// A place in the stream: the token to resume from in MongoDB, and its time.
#[derive(Serialize)]
struct Place {
    token: String,
    time: String,
}

impl Place {
    fn of(position: &Position) -> Self {
        let time = DateTime::from_millis(i64::from(position.time) * 1000);
        Self { token: position.token.text(), time: time.try_to_rfc3339_string().unwrap_or_default() }
    }
}

/// The event `{"gap": {"source", "from", "to", "reason"}}`, in the topic of the change `about`, or else in the source's. `None` if
/// the topic depends on the change and cannot be determined.
pub(super) fn gap(
    source: &str,
    mapping: &Mapping,
    from: Option<&Position>,
    to: &Position,
    reason: &str,
    about: Option<&Change>,
) -> Option<(TopicName, NewEvent)> {
    let message = Message { gap: Gap { source, from: from.map(Place::of), to: Place::of(to), reason } };
    let json = serde_json::to_string(&message).ok()?;
    let id = format!("{:032x}", digest(&["gap", source, &to.token.text()]));
    match about {
        Some(change) => mapping.notice_about(&change.data(false), &id, &json),
        None => mapping.notice(&id, &json),
    }
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::super::position::Token;
    use super::*;
    use pipeline_source::mapping::{OnMissing, Pointer, PriorityRule, TopicRule};

    #[test]
    fn a_gap_event_names_source_places_and_reason() {
        let mapping = Mapping {
            topic: TopicRule::Fixed(TopicName::new("tweets").unwrap()),
            id: None,
            msg: Pointer::new("/x").unwrap(),
            priority: PriorityRule::Fixed(4),
            on_missing: OnMissing::Skip,
        };
        let at = |data: &str, time| Position { token: Token::new(rawdoc! { "_data": data }), time };
        let (topic, event) = gap("s", &mapping, Some(&at("81", 0)), &at("82", 60), "why", None).unwrap();
        assert_eq!(topic.as_str(), "tweets");
        let line: serde_json::Value = serde_json::from_slice(event.payload.bytes()).unwrap();
        let expected = serde_json::json!({"gap": {"source": "s", "reason": "why",
            "from": {"token": "81", "time": "1970-01-01T00:00:00Z"}, "to": {"token": "82", "time": "1970-01-01T00:01:00Z"}}});
        assert_eq!((&line["msg"], &line["priority"]), (&expected, &serde_json::json!(4)));
        let pointed = Mapping { topic: TopicRule::Pointer(Pointer::new("/t").unwrap()), ..mapping };
        assert!(gap("s", &pointed, None, &at("82", 60), "why", None).is_none());
        let drop = Change::new(rawdoc! { "operationType": "drop", "t": "orders" });
        let (topic, _) = gap("s", &pointed, None, &at("82", 60), "why", Some(&drop)).unwrap();
        assert_eq!(topic.as_str(), "orders");
    }
}
