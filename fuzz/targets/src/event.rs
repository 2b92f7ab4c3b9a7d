//! The JSON of a published event, held against a model of the rules that shares no code with what it checks.

mod model;

use broker_core::event::Payload;
use broker_core::name::IdKey;
use broker_core::protocol::event::parse_event;
use bytes::BytesMut;
use model::Event;

const TOPIC: &str = "a:b.c-9_";

/// Runs one input: a line, which ends where a line would end.
pub fn run(data: &[u8]) {
    let line = data.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let Ok(json) = std::str::from_utf8(line) else { return };
    let parsed = parse_event(TOPIC, json);
    match (model::read(json), parsed) {
        (Ok(expected), Ok(event)) => {
            let id = event.payload.id().into_owned();
            match &expected.id {
                Some(expected) => assert_eq!(id, *expected),
                None => {
                    let assigned = uuid::Uuid::parse_str(&id).expect("an id that is assigned is a UUID");
                    assert_eq!(assigned.get_version_num(), 7);
                }
            }
            assert_eq!(event.id, IdKey::of(&id));
            let found = (event.priority.0, event.ttl_ms, event.delay_ms);
            assert_eq!(found, (expected.priority, expected.ttl_ms, expected.delay_ms));
            deliveries(&event.payload, &expected, &id);
        }
        (Err(_), Err(reason)) => {
            assert!(!reason.is_empty() && !reason.chars().any(char::is_control), "{reason:?}");
            assert!(reason.len() < 300, "a reason does not quote without end: {reason}");
        }
        (Ok(_), Err(reason)) => panic!("it is refused ({reason}): {json}"),
        (Err(reason), Ok(_)) => panic!("it is accepted, against the rules ({reason}): {json}"),
    }
}

/// How it is delivered: the first time, and again.
fn deliveries(payload: &Payload, expected: &Event<'_>, id: &str) {
    let quoted = serde_json::to_string(id).expect("a string is JSON");
    let start = format!(r#"{{"topic":"{TOPIC}","priority":{},"msg":{},"id":{quoted}"#, expected.priority, expected.msg);
    for (redelivered, end) in [(0, "}"), (1, r#","redelivered":1}"#), (u32::MAX, r#","redelivered":4294967295}"#)] {
        let mut line = BytesMut::new();
        payload.write(redelivered, &mut line);
        let line = std::str::from_utf8(&line).expect("a delivery is text");
        assert_eq!(line, format!("{start}{end}"));
        assert!(model::is_json(line), "a delivery is JSON: {line}");
    }
    let kept = Payload::from_parts(payload.bytes(), payload.insert_at());
    assert_eq!(kept.as_ref(), Some(payload), "a storage can put it together again");
}
