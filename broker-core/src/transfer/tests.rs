//! Round trips over a storage in memory, and files that are not what they should be.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use proptest::prelude::*;

use super::*;
use crate::event::{EventKey, Millis, Payload, Priority, Seq};
use crate::name::{SubscriptionName, TopicName};
use crate::storage::{
    Batch, Commit, Janitor, Level, Mutation, Place, ReadKey, Recovery, RecoveryReport, Redelivery, Storage,
    StorageError, StorageStats, StoredEvent, stage,
};

/// A log of mutations in memory: what was submitted is handed back.
#[derive(Default)]
struct Log(Mutex<Vec<Mutation>>);

#[async_trait]
impl Storage for Log {
    fn kind(&self) -> &'static str {
        "memory"
    }
    fn level(&self) -> Level {
        Level::Memory
    }
    fn recover(&self, recovery: &mut dyn Recovery) -> Result<RecoveryReport, StorageError> {
        for (at, mutation) in self.0.lock().expect("unpoisoned").iter().enumerate() {
            recovery.replay(mutation.clone(), Place(at as u64))?;
        }
        Ok(RecoveryReport::default())
    }
    fn start(&self, _janitor: Arc<dyn Janitor>) {}
    fn submit(&self, batch: Batch) -> Commit {
        // A stage that is not completed fails.
        self.0.lock().expect("unpoisoned").extend(batch.mutations);
        Commit { written: stage().1, durable: stage().1 }
    }
    async fn read(&self, keys: Vec<ReadKey>) -> Result<Vec<Option<Payload>>, StorageError> {
        let log = self.0.lock().expect("unpoisoned");
        Ok(keys
            .iter()
            .map(|key| match &log[usize::try_from(key.place.0).expect("small")] {
                Mutation::Publish(event) | Mutation::Rewrite { event, .. } => {
                    assert_eq!((&event.topic, event.key), (&key.topic, key.key));
                    Some(event.payload.clone())
                }
                _ => None,
            })
            .collect())
    }
    fn stats(&self) -> StorageStats {
        StorageStats::default()
    }
    async fn close(&self) -> Result<(), StorageError> {
        Ok(())
    }
}

async fn export(log: &Log, only: Option<&str>) -> String {
    let mut index = Index::new(only.map(topic));
    log.recover(&mut index).expect("it is in memory");
    let mut exporter = Exporter::new(index);
    let mut out = Vec::new();
    while let Some(lines) = exporter.next(log).await.expect("it is in memory") {
        out.extend(lines);
    }
    assert_eq!(exporter.left_out(), 0);
    String::from_utf8(out).expect("it is JSON")
}

fn import(text: &str) -> Result<Log, ImportError> {
    let mut importer = Importer::default();
    let mut mutations = Vec::new();
    for line in text.lines() {
        if let Parsed::Mutations(more) = importer.line(line.as_bytes())? {
            mutations.extend(more);
        }
    }
    importer.end()?;
    Ok(Log(Mutex::new(mutations)))
}

fn topic(name: &str) -> TopicName {
    TopicName::new(name).expect("a good name")
}

fn subscription(name: &str) -> SubscriptionName {
    SubscriptionName::new(name).expect("a good name")
}

fn key(seq: u64) -> EventKey {
    EventKey { priority: Priority((seq % 3) as i32), seq: Seq(seq) }
}

fn event(seq: u64) -> StoredEvent {
    let payload = Payload::encode("t", key(seq).priority, &format!("\"m \\u00e9 {seq}\""), &format!("id\n{seq}"));
    StoredEvent {
        topic: topic("t"),
        key: key(seq),
        published_at: Millis(seq * 10),
        expires_at: None,
        due_at: None,
        payload,
    }
}

fn subscribe(name: &str, since: u64) -> Mutation {
    Mutation::Subscribe { topic: topic("t"), subscription: subscription(name), since: Seq(since) }
}

fn settle(name: &str, seq: u64) -> Mutation {
    Mutation::Settle { topic: topic("t"), subscription: subscription(name), events: vec![key(seq)] }
}

fn redeliver(name: &str, seq: u64, deliveries: u32, due_at: Option<Millis>) -> Mutation {
    let events = vec![Redelivery { key: key(seq), deliveries, due_at, grace_ms: u64::from(deliveries) / 4 * 7 }];
    Mutation::Redeliver { topic: topic("t"), subscription: subscription(name), events }
}

fn log(mutations: Vec<Mutation>) -> Log {
    Log(Mutex::new(mutations))
}

/// One of everything.
fn everything() -> Log {
    let mut timed = event(3);
    (timed.due_at, timed.expires_at) = (Some(Millis(77)), Some(Millis(u64::MAX)));
    log(vec![
        subscribe("a", 0),
        subscribe("b", 0),
        Mutation::Publish(event(1)),
        Mutation::Publish(event(2)),
        Mutation::Publish(timed),
        subscribe("late", 3),
        settle("a", 1),
        settle("a", 2),
        settle("b", 2),
        redeliver("b", 1, 4, Some(Millis(99))),
        redeliver("a", 3, 0, None),
        Mutation::Topic { topic: topic("empty"), last_seq: Seq(8) },
        Mutation::Cursor { source: "feed \"x\"".into(), value: "é\n".into() },
        Mutation::Cursor { source: IMPORT_CURSOR.into(), value: "{\"lines\":3,\"crc32\":1,\"finished\":true}".into() },
    ])
}

#[tokio::test]
async fn one_of_everything_looks_as_documented() {
    let text = export(&everything(), None).await;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[..lines.len() - 1],
        [
            r#"{"herald":"export","version":1}"#,
            r#"{"topic":{"name":"empty","last_seq":8}}"#,
            r#"{"topic":{"name":"t","last_seq":3}}"#,
            r#"{"subscription":{"topic":"t","name":"a","since":0}}"#,
            r#"{"subscription":{"topic":"t","name":"b","since":0}}"#,
            r#"{"subscription":{"topic":"t","name":"late","since":3}}"#,
            r#"{"event":{"topic":"t","priority":1,"seq":1,"published_at":10,"holders":[{"subscription":"b","deliveries":4,"due_at":99,"grace_ms":7}],"payload":{"topic":"t","priority":1,"msg":"m \u00e9 1","id":"id\n1"}}}"#,
            r#"{"event":{"topic":"t","priority":0,"seq":3,"published_at":30,"due_at":77,"expires_at":18446744073709551615,"holders":[{"subscription":"a","deliveries":0},{"subscription":"b"}],"payload":{"topic":"t","priority":0,"msg":"m \u00e9 3","id":"id\n3"}}}"#,
            r#"{"cursor":{"source":"feed \"x\"","value":"é\n"}}"#,
        ]
    );
    let crc = crc32fast::hash(format!("{}\n", lines[..lines.len() - 1].join("\n")).as_bytes());
    let end =
        format!(r#"{{"end":{{"lines":9,"topics":2,"subscriptions":3,"events":2,"cursors":1,"crc32":"{crc:08x}"}}}}"#);
    assert_eq!(*lines.last().expect("it has an end"), end);
    let again = import(&text).expect("it is whole");
    assert_eq!(export(&again, None).await, text, "nothing is lost on the way");
}

#[tokio::test]
async fn an_export_of_one_topic_has_nothing_else() {
    let text = export(&everything(), Some("empty")).await;
    assert!(text.starts_with("{\"herald\":\"export\",\"version\":1,\"topic\":\"empty\"}\n"), "{text}");
    assert_eq!(text.lines().count(), 3, "{text}");
    let again = import(&text).expect("it is whole");
    assert_eq!(export(&again, Some("empty")).await, text);
}

#[tokio::test]
async fn a_payload_that_is_no_object_on_a_line_survives() {
    let mut odd = event(1);
    odd.payload = Payload::from_parts(*b"{\n\"x\":1} ", 2).expect("inside");
    let text = export(&log(vec![subscribe("a", 0), Mutation::Publish(odd)]), None).await;
    assert!(text.contains(r#""insert":2,"#) && text.contains(r#""text":"{\n\"x\":1} ""#), "{text}");
    assert_eq!(export(&import(&text).expect("it is whole"), None).await, text);
}

#[tokio::test]
async fn what_is_wrong_is_said_with_its_line_and_what_was_expected() {
    let text = export(&everything(), None).await;
    let wrong = |line: u64, from: &str, to: &str, says: &str| {
        assert!(text.contains(from), "{from}");
        let error = import(&text.replacen(from, to, 1)).err().unwrap_or_else(|| panic!("{to} is taken"));
        assert!(error.line == line && error.what.contains(says), "{to}: {error}");
    };
    wrong(1, "export", "json-log", "a file of the kind \"json-log\": expected the first line of an export");
    wrong(1, "\"version\":1", "\"version\":2", "format version 2: this release reads version 1");
    wrong(2, "{\"topic\":{", "{\"tropic\":{", "expected one of");
    wrong(2, "\"last_seq\":8", "\"last_seq\":-8", "expected an integer from 0");
    wrong(2, "\"name\":\"empty\"", "\"name\":\"\"", "invalid topic name");
    wrong(3, "\"name\":\"t\"", "\"name\":\"empty\"", "for the second time");
    wrong(4, "\"topic\":\"t\",\"name\":\"a\"", "\"topic\":\"x\",\"name\":\"a\"", "topic x is unknown");
    wrong(6, "\"since\":3", "\"since\":4", "expected at most 3, the last_seq of topic t");
    wrong(7, "\"seq\":1", "\"seq\":4", "expected one above 0 and up to 3");
    wrong(7, "\"subscription\":\"b\"", "\"subscription\":\"zz\"", "is no subscription of topic t");
    wrong(7, "\"payload\":{\"topic\":\"t\"", "\"payload\":{\"topic\":\"u\"", "the payload is of topic u");
    wrong(7, "\"id\":\"id\\n1\"}", "\"id\":\"id\\n1\"", "expected a line of an export");
    wrong(8, "\"seq\":3", "\"seq\":1", "expected one above 1");
    wrong(10, "m \\u00e9 3", "m \\u00e9 4", "checksum");
    let cursor_first = "{\"cursor\":{\"source\":\"s\",\"value\":\"\"}}\n{\"event\":{\"topic\":\"t\"";
    wrong(8, "{\"event\":{\"topic\":\"t\"", cursor_first, "an event after cursors");
    let twice = format!("{text}{text}");
    assert!(
        import(&twice).err().is_some_and(|error| error.line == 11 && error.what.contains("more after the last line"))
    );
    for lines in 0..10 {
        let cut: String = text.lines().take(lines).map(|line| format!("{line}\n")).collect();
        let error = import(&cut).err().unwrap_or_else(|| panic!("{lines} lines are taken"));
        assert_eq!(error.line, lines as u64 + 1, "{error}");
    }
    wrong(10, "\"events\":2", "\"events\":3", "expected 9 lines with 2 topics, 3 subscriptions, 3 events, 1 cursors");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever happened, what is exported, imported and exported again is the same.
    #[test]
    fn any_history_survives(steps in proptest::collection::vec((0_u8..7, 0_usize..3, 1_u64..12), 1..60)) {
        let names = ["a", "b", "c"];
        let (mut mutations, mut seq) = (vec![subscribe("a", 0)], 0);
        let mut published: HashMap<u64, ()> = HashMap::new();
        for (step, name, at) in steps {
            mutations.push(match step {
                0 | 1 => {
                    seq += 1;
                    published.insert(seq, ());
                    Mutation::Publish(event(seq))
                }
                2 => subscribe(names[name], seq),
                3 => Mutation::Unsubscribe { topic: topic("t"), subscription: subscription(names[name]) },
                4 => settle(names[name], at),
                5 => redeliver(names[name], at, at as u32, at.is_multiple_of(2).then_some(Millis(at))),
                _ => Mutation::Forget { topic: topic("t"), events: vec![key(at)] },
            });
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("it starts");
        runtime.block_on(async {
            let text = export(&log(mutations), None).await;
            let again = import(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
            assert_eq!(export(&again, None).await, text);
        });
    }
}
