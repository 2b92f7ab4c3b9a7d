//! An export and import keeps everything, between any two storages.

use std::fs;

use herald_tests::{TestBroker, publish};

use super::{KINDS, Ran, broker_over, done, run, sample};

/// A stopped broker with a varied history: events of several priorities, acknowledged, requeued, delayed and expiring; two
/// subscriptions at different positions, one of them drained; and a topic whose events are all consumed.
fn lived_in(kind: &str) -> TestBroker {
    let mut broker = TestBroker::start(&format!("[storage]\nkind = \"{kind}\""));
    let mut client = broker.telnet();
    client.asks("sub t s", "successfully subscribed to topic t");
    client.asks("detach t", "detached from topic t");
    client.asks("sub u s", "successfully subscribed to topic u");
    client.asks("detach u", "detached from topic u");
    assert!(client.ask("hello {\"confirm\":true}").starts_with("hello"));
    for n in 0..20 {
        let _confirmed = client.ask(&publish("t", &format!("t{n}"), n % 4));
    }
    let _confirmed = client
        .ask("pub t {\"id\":\"delayed\",\"priority\":9,\"msg\":{\"a\" : [1.50,\"\\u00e9\"]},\"delay_ms\":86400000}");
    let _confirmed = client.ask("pub t {\"id\":\"mortal\",\"priority\":-9,\"msg\":null,\"ttl_ms\":86400000}");
    client.asks("sub t late", "successfully subscribed to topic t");
    client.asks("detach t", "detached from topic t");
    let _confirmed = client.ask(&publish("u", "gone", 0));
    client.asks("sub u s", "successfully subscribed to topic u");
    let _delivery = client.line();
    client.send("ack u gone");
    assert!(client.line().starts_with("acknowledged"));
    assert_eq!(client.line(), "no available message");
    client.asks("sub t s", "successfully subscribed to topic t");
    let first = herald_tests::id_of(&client.line());
    client.send(&format!("ack t {first}"));
    assert!(client.line().starts_with("acknowledged"));
    let second = herald_tests::id_of(&client.line());
    client.asks(&format!("nack t {second} 86400000"), &format!("requeued ev_id={second}"));
    let _in_flight = client.line();
    drop(client);
    assert!(broker.terminate().success());
    broker
}

#[test]
fn a_brokers_content_survives_every_pair_of_storages() {
    for from in KINDS {
        let broker = lived_in(from);
        let dir = broker.dir();
        let exported = done(dir, from, "data", &["export"]);
        assert_eq!(exported.lines().filter(|line| line.starts_with("{\"event\"")).count(), 21, "{exported}");
        assert!(exported.contains(r#""msg":{"a" : [1.50,"\u00e9"]}"#), "byte for byte: {exported}");
        assert!(exported.contains("{\"topic\":{\"name\":\"u\",\"last_seq\":1}}"), "{exported}");
        assert!(exported.contains("\"deliveries\":1,\"due_at\":"), "{exported}");
        fs::write(dir.join("export.jsonl"), &exported).unwrap();
        for to in KINDS {
            let data = format!("to-{to}");
            done(dir, to, &data, &["import", "export.jsonl"]);
            assert_eq!(done(dir, to, &data, &["export"]), exported, "{from} to {to}");
            assert!(done(dir, to, &data, &["fsck"]).contains("clean"));
            // A broker can use it: the order continues, and no sequence is reused.
            let mut broker = broker_over(dir, to, &data);
            let mut client = broker.telnet();
            assert!(client.ask("hello {\"prefetch\":100,\"confirm\":true}").starts_with("hello"));
            client.asks("pub u {\"id\":\"new\",\"msg\":1}", "published u new synced");
            client.asks("sub t s", "successfully subscribed to topic t");
            let ids: Vec<String> = (0..18).map(|_| herald_tests::id_of(&client.line())).collect();
            let wanted = "t11 t15 t19 t2 t6 t10 t14 t18 t1 t5 t9 t13 t17 t0 t4 t8 t12 t16";
            assert_eq!(ids.join(" "), wanted, "{from} to {to}");
            assert_eq!(herald_tests::id_of(&client.line()), "mortal");
            drop(client);
            assert!(broker.terminate().success());
            let after = done(dir, to, &data, &["export", "u"]);
            assert!(after.contains("\"seq\":2,") && after.contains("\"id\":\"new\""), "{after}");
        }
    }
}

#[test]
fn one_topic_alone_is_exported_and_a_missing_topic_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("in"), sample(30)).unwrap();
    done(dir.path(), "json-log", "data", &["import", "in"]);
    let one = done(dir.path(), "json-log", "data", &["export", "empty"]);
    assert!(one.starts_with("{\"herald\":\"export\",\"version\":1,\"topic\":\"empty\"}\n"), "{one}");
    assert_eq!(one.lines().count(), 3, "{one}");
    let Ran { status, err, out } = run(dir.path(), "json-log", "data", &["export", "nobody"]);
    assert_eq!((status, out.as_str()), (1, ""));
    assert!(err.contains("there is no topic nobody"), "{err}");
    let Ran { status, err, .. } = run(dir.path(), "json-log", "data", &["export", ".x"]);
    assert_eq!(status, 2, "{err}");
    let Ran { status, err, .. } = run(dir.path(), "json-log", "nowhere", &["export"]);
    assert_eq!(status, 1);
    assert!(err.contains("there is no data directory nowhere") && !dir.path().join("nowhere").exists(), "{err}");
}

/// `clean_on_start` applies only to brokers: an export must not delete the data.
#[test]
fn an_export_ignores_clean_on_start() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("in"), sample(3)).unwrap();
    for kind in KINDS {
        done(dir.path(), kind, kind, &["import", "in", "--set", "storage.clean_on_start=true"]);
        for _ in 0..2 {
            let out = done(dir.path(), kind, kind, &["export", "--set", "storage.clean_on_start=true"]);
            assert_eq!(out, sample(3), "{kind}");
        }
        done(dir.path(), kind, kind, &["fsck", "--repair", "--set", "storage.clean_on_start=true"]);
        assert_eq!(done(dir.path(), kind, kind, &["export"]), sample(3), "{kind}");
    }
}
