use broker_core::event::{EventKey, Millis, Payload, Priority, Seq};
use broker_core::name::{SubscriptionName, TopicName};
use broker_core::storage::{Holder, Mutation, Place, Redelivery, StoredEvent};
use proptest::prelude::*;

use super::checksum::SEAL_BYTES;
use super::decode::decode_event;
use super::*;

fn topic(name: &str) -> TopicName {
    TopicName::new(name).unwrap()
}

fn subscription(name: &str) -> SubscriptionName {
    SubscriptionName::new(name).unwrap()
}

fn key(priority: i32, seq: u64) -> EventKey {
    EventKey { priority: Priority(priority), seq: Seq(seq) }
}

fn stored(payload: Payload) -> StoredEvent {
    StoredEvent {
        topic: topic("tweets"),
        key: key(3, 53),
        published_at: Millis(1_700_000_000_123),
        expires_at: None,
        due_at: None,
        payload,
    }
}

fn encode(mutations: &[Mutation]) -> String {
    let mut out = Vec::new();
    Encoder::default().batch(&mut out, 912, mutations, &mut Vec::new()).unwrap();
    String::from_utf8(out).unwrap()
}

/// Lines without their checksums.
fn bodies(text: &str) -> Vec<&str> {
    text.lines().map(|line| &line[..line.len() - SEAL_BYTES]).collect()
}

fn decode_all(text: &str) -> Vec<Mutation> {
    let mut names = Names::default();
    let record = |line: &str| match decode(check(line.as_bytes()).unwrap(), &mut names) {
        Some((_, Record::Mutation(mutation))) => mutation,
        other => panic!("{line}: {other:?}"),
    };
    text.lines().map(record).collect()
}

#[test]
fn lines_have_the_documented_form() {
    let settle = |events: Vec<EventKey>| Mutation::Settle {
        topic: topic("tweets"),
        subscription: subscription("billing"),
        events,
    };
    let text = encode(&[
        Mutation::Publish(stored(Payload::encode("tweets", Priority(3), r#""hi""#, "1"))),
        settle(vec![key(3, 53), key(3, 49), key(-1, 7)]),
        Mutation::Cursor { source: "mongo".into(), value: "a\"b".into() },
        settle(vec![key(3, 52), key(3, 51), key(-1, 8)]),
        Mutation::Release { topic: topic("tweets"), key: key(3, 49), place: Place(1) },
        Mutation::Unsubscribe { topic: topic("tweets"), subscription: subscription("billing") },
    ]);
    assert_eq!(
        bodies(&text),
        [
            r#"{"batch":912,"left":3,"seq":53,"at":1700000000123,"event":{"topic":"tweets","priority":3,"msg":"hi","id":"1"}"#,
            r#"{"batch":912,"left":2,"cursor":{"source":"mongo","value":"a\"b"}"#,
            r#"{"batch":912,"left":1,"settle":{"topic":"tweets","subscription":"billing","events":{"-1":[7,8],"3":[49,[51,53]]}}"#,
            r#"{"batch":912,"left":0,"unsubscribe":{"topic":"tweets","subscription":"billing"}"#,
        ]
    );
    let seal = &text.lines().next().unwrap()[text.lines().next().unwrap().len() - SEAL_BYTES..];
    assert!(seal.starts_with(r#","crc":""#) && seal.ends_with("\"}"), "{seal}");
}

#[test]
fn the_checksum_is_the_crc_32_of_the_line_before_it() {
    let mut out = Vec::new();
    encode_freed(&mut out, 1, 2);
    // `printf '%s' '{"batch":1,"left":0,"freed":{"through":2}' | gzip -c | tail -c8 | head -c4 | xxd -e`
    let crc = crc32fast::hash(br#"{"batch":1,"left":0,"freed":{"through":2}"#);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        format!("{{\"batch\":1,\"left\":0,\"freed\":{{\"through\":2}},\"crc\":\"{crc:08x}\"}}\n")
    );
    // The check value of CRC-32 (IEEE), so that another tool can verify a log.
    assert_eq!(crc32fast::hash(b"123456789"), 0xcbf4_3926);
}

#[test]
fn a_header_is_read_back_and_another_kind_is_recognized() {
    let header = Header { segment: 7, created: Millis(5), oldest: 5, next_batch: 912 };
    let mut out = Vec::new();
    encode_header(&mut out, &header, 2);
    let body = check(&out[..out.len() - 1]).unwrap();
    assert_eq!(
        std::str::from_utf8(body).unwrap(),
        r#"{"herald":"json-log","version":1,"segment":7,"created":5,"oldest":5,"next_batch":912,"left":2"#
    );
    assert_eq!(frame(body), Some(Frame { batch: 0, left: 2 }));
    assert_eq!(decode(body, &mut Names::default()), Some((Frame { batch: 0, left: 2 }, Record::Header(header))));
    let alien = decode(br#"{"herald":"json-log","version":9,"new":true"#, &mut Names::default());
    assert_eq!(alien.unwrap().1, Record::Alien { kind: "json-log".into(), version: 9 });
}

#[test]
fn settlements_move_behind_other_mutations_unless_their_meaning_would_change() {
    let settle =
        |seq| Mutation::Settle { topic: topic("t"), subscription: subscription("s"), events: vec![key(0, seq)] };
    let redeliver = Mutation::Redeliver {
        topic: topic("t"),
        subscription: subscription("s"),
        events: vec![Redelivery { key: key(0, 2), deliveries: 1, due_at: None, grace_ms: 0 }],
    };
    let text = encode(&[settle(1), redeliver.clone(), settle(2), settle(3)]);
    let both =
        Mutation::Settle { topic: topic("t"), subscription: subscription("s"), events: vec![key(0, 2), key(0, 3)] };
    assert_eq!(decode_all(&text), [settle(1), redeliver, both]);
}

#[test]
fn long_lists_are_split_and_empty_ones_are_omitted() {
    let events: Vec<_> = (0..3 * MAX_KEYS as u64).map(|seq| key(0, seq * 2)).collect();
    let settle = |events| Mutation::Settle { topic: topic("t"), subscription: subscription("s"), events };
    let decoded = decode_all(&encode(&[settle(events.clone())]));
    assert_eq!(decoded.len(), 3);
    let all: Vec<_> = decoded
        .into_iter()
        .flat_map(|mutation| match mutation {
            Mutation::Settle { events, .. } => events,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(all, events);
    let release = Mutation::Release { topic: topic("t"), key: key(0, 1), place: Place(0) };
    assert_eq!(encode(&[settle(vec![]), release]), "");
}

#[test]
fn the_longest_event_fits_in_a_line_even_when_set_aside_as_a_string() {
    let quotes = "\\\"".repeat((MAX_EVENT_BYTES - (14 << 10)) / 2);
    let payload = Payload::encode("tweets", Priority(3), &format!("\"{quotes}\""), "1");
    let value = format!("1 1 0 0 3 {} tweets\n{}", payload.insert_at(), String::from_utf8_lossy(payload.bytes()));
    for mutation in [Mutation::Publish(stored(payload)), Mutation::Cursor { source: "feed\n1".into(), value }] {
        let mut out = Vec::new();
        Encoder::default().batch(&mut out, u64::MAX, &[mutation], &mut Vec::new()).unwrap();
        assert!(out.len() <= MAX_LINE_BYTES, "{}", out.len());
    }
}

#[test]
fn an_event_that_is_too_long_or_not_text_is_refused() {
    let mut out = Vec::new();
    let mut refuse = |bytes: Vec<u8>| {
        let payload = Payload::from_parts(bytes, 0).unwrap();
        Encoder::default().batch(&mut out, 1, &[Mutation::Publish(stored(payload))], &mut Vec::new()).unwrap_err()
    };
    let long = [b"{".to_vec(), vec![b' '; MAX_LINE_BYTES], b"}".to_vec()].concat();
    assert!(matches!(refuse(long), crate::JsonLogError::TooLarge { .. }));
    assert!(matches!(refuse(vec![0xff, 0xfe]), crate::JsonLogError::NotText { .. }));
}

#[test]
fn two_records_with_a_damaged_line_ending_between_them_are_separated() {
    let text = encode(&[
        Mutation::Publish(stored(Payload::encode("tweets", Priority(3), r#"{"a":1,"crc":"00000000"}"#, "1"))),
        Mutation::Cursor { source: "a".into(), value: "b".into() },
    ]);
    let joined = text.replacen('\n', "\u{b}", 1);
    let first = text.find('\n').unwrap();
    assert_eq!(leading_record(joined.as_bytes()), Some(first));
    assert_eq!(leading_record(&joined.as_bytes()[1..]), None);
}

fn names() -> impl Strategy<Value = (TopicName, SubscriptionName)> {
    ("[a-c.]{1,3}x", "[a-c:-]{1,3}").prop_filter_map("a good name", |(topic, subscription)| {
        Some((TopicName::new(&topic).ok()?, SubscriptionName::new(&subscription).ok()?))
    })
}

fn keys() -> impl Strategy<Value = Vec<EventKey>> {
    let priority = prop_oneof![Just(i32::MIN), Just(i32::MAX), -2..3_i32];
    let seq = prop_oneof![Just(u64::MAX), Just(u64::MAX - 1), 0..12_u64];
    prop::collection::vec((priority, seq).prop_map(|(priority, seq)| key(priority, seq)), 1..12)
}

fn events() -> impl Strategy<Value = StoredEvent> {
    let payload = (names(), any::<i32>(), "\\PC{0,20}", "[^\\s\\p{C}]{1,9}", any::<bool>(), any::<u16>());
    let times = (any::<u64>(), any::<Option<u64>>(), any::<Option<u64>>());
    (payload, times, any::<u64>(), any::<bool>()).prop_map(|(payload, times, seq, foreign)| {
        let ((topic, _), priority, msg, id, shift, at) = payload;
        let msg = serde_json::to_string(&msg).unwrap();
        let encoded = Payload::encode(topic.as_str(), Priority(priority), &msg, &id);
        let payload = match (foreign, shift) {
            // A payload that no broker encoded.
            (true, _) => Payload::from_parts(format!("{msg}\n").into_bytes(), 0).unwrap(),
            (_, true) => {
                let at = u32::from(at) % u32::try_from(encoded.len()).unwrap();
                Payload::from_parts(encoded.bytes(), at).unwrap()
            }
            _ => encoded,
        };
        StoredEvent {
            topic,
            key: key(priority, seq),
            published_at: Millis(times.0),
            expires_at: times.1.map(Millis),
            due_at: times.2.map(Millis),
            payload,
        }
    })
}

fn mutations() -> impl Strategy<Value = Mutation> {
    let holders = prop::collection::vec((names(), any::<u32>(), any::<Option<u64>>(), any::<u64>()), 0..4);
    let redelivery = (keys(), any::<u32>(), any::<Option<u64>>(), prop_oneof![Just(0), any::<u64>()]);
    prop_oneof![
        4 => events().prop_map(Mutation::Publish),
        2 => (events(), holders).prop_map(|(event, holders)| {
            let holder = |((_, subscription), deliveries, due, grace_ms): ((_, _), u32, Option<u64>, u64)| Holder {
                subscription, deliveries, due_at: due.map(Millis), grace_ms,
            };
            Mutation::Rewrite { event, holders: holders.into_iter().map(holder).collect() }
        }),
        4 => (names(), keys()).prop_map(|((topic, subscription), events)| Mutation::Settle { topic, subscription, events }),
        1 => (names(), keys()).prop_map(|((topic, _), events)| Mutation::Forget { topic, events }),
        2 => (names(), redelivery).prop_map(|((topic, subscription), (keys, deliveries, due, grace_ms))| {
            let redelivery = |key| Redelivery { key, deliveries, due_at: due.map(Millis), grace_ms };
            let events = keys.into_iter().map(redelivery).collect();
            Mutation::Redeliver { topic, subscription, events }
        }),
        1 => (names(), any::<u64>()).prop_map(|((topic, subscription), since)| {
            Mutation::Subscribe { topic, subscription, since: Seq(since) }
        }),
        1 => names().prop_map(|(topic, subscription)| Mutation::Unsubscribe { topic, subscription }),
        1 => (names(), any::<u64>()).prop_map(|((topic, _), last)| Mutation::Topic { topic, last_seq: Seq(last) }),
        1 => ("\\PC{0,9}", "(?s).{0,9}").prop_map(|(source, value)| Mutation::Cursor { source, value }),
    ]
}

/// The meaning of a sequence of mutations, regardless of how settlements are grouped or listed.
fn meaning(mutations: &[Mutation]) -> (Vec<Mutation>, Vec<(String, String, EventKey)>) {
    let mut settled = Vec::new();
    let mut others = Vec::new();
    for mutation in mutations {
        match mutation.clone() {
            Mutation::Settle { topic, subscription, events } => {
                settled.extend(events.into_iter().map(|key| (topic.to_string(), subscription.to_string(), key)));
            }
            Mutation::Forget { topic, mut events } => {
                events.sort_unstable_by_key(|key| (key.priority, key.seq));
                others.push(Mutation::Forget { topic, events });
            }
            other => others.push(other),
        }
    }
    settled.sort_unstable_by(|a, b| (&a.0, &a.1, a.2.priority, a.2.seq).cmp(&(&b.0, &b.1, b.2.priority, b.2.seq)));
    (others, settled)
}

proptest! {
    #[test]
    fn a_batch_is_read_back(batch in prop::collection::vec(mutations(), 0..12)) {
        let mut out = Vec::new();
        let mut spans = Vec::new();
        let lines = Encoder::default().batch(&mut out, 42, &batch, &mut spans).unwrap();
        let text = String::from_utf8(out).unwrap();
        prop_assert_eq!(text.lines().count() as u64, lines);
        // A subscription is written twice.
        let copies = |mutation: &Mutation| 1 + usize::from(matches!(mutation, Mutation::Subscribe { .. }));
        let written: Vec<_> = batch.iter().flat_map(|m| std::iter::repeat_n(m.clone(), copies(m))).collect();
        prop_assert_eq!(meaning(&decode_all(&text)), meaning(&written));
        for (n, line) in text.lines().enumerate() {
            let body = check(line.as_bytes()).unwrap();
            prop_assert_eq!(frame(body), Some(Frame { batch: 42, left: lines - 1 - n as u64 }));
            prop_assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "{}", line);
        }
        let is_event = |m: &&Mutation| matches!(m, Mutation::Publish(_) | Mutation::Rewrite { .. });
        let events: Vec<_> = batch.iter().filter(is_event).collect();
        prop_assert_eq!(spans.len(), events.len());
        for (span, mutation) in spans.into_iter().zip(events) {
            let line = &text[span.start..span.start + span.len];
            prop_assert_eq!(&decode_all(line)[0], mutation);
        }
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _body = check(&bytes);
        let _record = leading_record(&bytes);
        let _frame = frame(&bytes);
        let _line = decode(&bytes, &mut Names::default());
    }

    #[test]
    fn a_changed_line_is_read_without_panic(mutation in mutations(), at in any::<usize>(), byte in any::<u8>(), cut in any::<bool>()) {
        let text = encode(&[mutation]);
        let mut bytes = text.into_bytes();
        if !bytes.is_empty() {
            let at = at % bytes.len();
            bytes[at] = byte;
            if cut {
                bytes.truncate(at);
            }
        }
        let _frame = frame(&bytes);
        let _line = decode(&bytes, &mut Names::default());
        if let Some(event) = decode_event(&bytes) {
            let _payload = event.payload();
        }
    }
}

#[test]
fn a_repairs_note_is_read_back() {
    let mut line = Vec::new();
    let frame_of_it = Frame { batch: 9, left: 3 };
    encode_repaired(&mut line, frame_of_it, 2, "damaged/000001.ndjson");
    let text = "{\"batch\":9,\"left\":3,\"repaired\":{\"lines\":2,\"moved_to\":\"damaged/000001.ndjson\"},\"crc\":";
    assert!(line.starts_with(text.as_bytes()), "{}", String::from_utf8_lossy(&line));
    let body = check(&line[..line.len() - 1]).unwrap();
    assert_eq!(decode(body, &mut Names::default()), Some((frame_of_it, Record::Repaired)));
    let mut again = Vec::new();
    encode_again(&mut again, body);
    assert_eq!(again, line);
}
