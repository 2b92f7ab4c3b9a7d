//! The examples for public feeds, against servers that imitate those feeds; only the address in the file differs. Also checks every
//! configuration in `examples/` and `deploy/`.

#![allow(clippy::unwrap_used, reason = "a step that fails must fail the test")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, sync_channel};

use herald_tests::{PATIENCE, Telnet, TestBroker, herald};
use serde_json::{Value, json};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

/// A request's path, and its headers with lower-case names.
type Request = (String, BTreeMap<String, String>);

/// Serves the nth stream to the nth connection. Every stream except the last ends once it is sent.
fn serve(streams: Vec<String>) -> (SocketAddr, Receiver<Request>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let (tell, told) = sync_channel(16);
    std::thread::spawn(move || {
        let mut open = Vec::new();
        let last = streams.len() - 1;
        for (n, text) in streams.into_iter().enumerate() {
            let mut stream = listener.accept().unwrap().0;
            let mut lines = BufReader::new(&stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
            let path = lines.next().unwrap().split(' ').nth(1).unwrap().to_owned();
            let headers = lines.map(|line| {
                let (name, value) = line.split_once(": ").unwrap();
                (name.to_ascii_lowercase(), value.to_owned())
            });
            tell.send((path, headers.collect())).unwrap();
            let head =
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-store\r\n\r\n";
            stream.write_all(format!("{head}{text}").as_bytes()).unwrap();
            if n == last {
                open.push(stream);
            }
        }
        // The last stream stays open as long as the test runs.
        std::thread::park();
    });
    (addr, told)
}

/// A broker with durable subscriptions called `mine` of these topics, which then runs the example with `host` replaced by `addr`.
fn run_example(name: &str, host: &str, addr: SocketAddr, topics: &[&str]) -> TestBroker {
    let example = std::fs::read_to_string(folder("examples").join(name)).unwrap();
    assert_eq!(example.matches(&format!("url = \"{host}/")).count(), 1, "the example has one such source");
    let mut broker = TestBroker::start("");
    for topic in topics {
        broker.telnet().asks(&format!("sub {topic} mine"), &format!("successfully subscribed to topic {topic}"));
    }
    assert!(broker.terminate().success());
    let example = example.replace(&format!("url = \"{host}/"), &format!("url = \"http://{addr}/"));
    std::fs::write(broker.dir().join("herald.toml"), example).unwrap();
    broker.run();
    broker
}

/// Attaches to the subscription `mine` of a topic.
fn attach(broker: &TestBroker, topic: &str) -> Telnet {
    let mut client = broker.telnet();
    assert!(client.ask("hello {\"replies\":\"quiet\"}").starts_with("hello "));
    client.asks(&format!("sub {topic} mine"), &format!("successfully subscribed to topic {topic}"));
    client
}

/// Takes and acknowledges the next event; returns its id and its message.
fn take(client: &mut Telnet, topic: &str) -> (String, Value) {
    let mut event: Value = serde_json::from_str(&client.line()).unwrap();
    let id = event["id"].as_str().unwrap().to_owned();
    assert_eq!(event["topic"], topic);
    client.send(&format!("ack {topic} {id}"));
    (id, event["msg"].take())
}

/// An event of Wikimedia's recentchange stream (schema mediawiki/recentchange 1.0.1), with its SSE id.
fn change(n: u64, domain: &str) -> (String, Value, String) {
    let timestamp = 1_764_000_000_000 + n * 31;
    let id = format!(
        "[{{\"topic\":\"eqiad.mediawiki.recentchange\",\"partition\":0,\"timestamp\":{timestamp}}},\
         {{\"topic\":\"codfw.mediawiki.recentchange\",\"partition\":0,\"offset\":-1}}]"
    );
    let data = json!({
        "$schema": "/mediawiki/recentchange/1.0.1",
        "meta": {
            "uri": format!("https://{domain}/wiki/Ber%C3%B1a_{n}"),
            "request_id": "5c1fe8a0-0d5c-4b63-a5a1-2f6f6d2a7c11",
            "id": format!("0b5bd3e4-1f1c-4c7e-9d65-{n:012}"),
            "domain": domain,
            "stream": "mediawiki.recentchange",
            "dt": "2025-11-24T16:00:00.031Z",
            "topic": "eqiad.mediawiki.recentchange",
            "partition": 0,
            "offset": 5_700_000_000_u64 + n,
        },
        "id": 1_900_000_000_u64 + n,
        "type": "edit",
        "namespace": 0,
        "title": format!("Berña {n}"),
        "title_url": format!("https://{domain}/wiki/Ber%C3%B1a_{n}"),
        "comment": "/* History */ \"a\" & <b>",
        "parsedcomment": "<span dir=\"auto\">History</span>",
        "timestamp": timestamp / 1000,
        "user": "Example",
        "bot": false,
        "minor": true,
        "length": { "old": 6716, "new": 6290 },
        "revision": { "old": 1_247_000_000_u64 + n, "new": 1_247_000_001_u64 + n },
        "server_url": format!("https://{domain}"),
        "server_name": domain,
        "server_script_path": "/w",
        "wiki": "enwiki",
        "notify_url": format!("https://{domain}/w/index.php?diff={n}"),
    });
    let text = format!("event: message\nid: {id}\ndata: {data}\n\n");
    (id, data, text)
}

#[test]
fn the_wikimedia_example_resumes_with_their_json_array_and_skips_canaries() {
    let (_, first, first_text) = change(1, "en.wikipedia.org");
    let (canary_id, _, canary_text) = change(2, "canary");
    let (_, second, second_text) = change(3, "de.wikipedia.org");
    let (third_id, third, third_text) = change(4, "commons.wikimedia.org");
    // Wikimedia's streams begin with a comment and end every 15 minutes, here in the middle of an event.
    let streams = vec![
        format!(":ok\n\n{first_text}{canary_text}{}", &second_text[..second_text.len() / 2]),
        format!(":ok\n\n{second_text}{third_text}"),
        ":ok\n\n".to_owned(),
    ];
    let (addr, requests) = serve(streams);
    let mut broker = run_example("wikimedia.toml", "https://stream.wikimedia.org", addr, &["wiki.changes"]);

    let (path, headers) = requests.recv_timeout(PATIENCE).unwrap();
    assert_eq!(path, "/v2/stream/recentchange");
    assert_eq!(headers.get("last-event-id"), None);
    assert_eq!(headers["accept"], "text/event-stream");
    let agent = &headers["user-agent"];
    assert!(
        agent.starts_with("herald-example/") && agent.contains('@'),
        "Wikimedia's policy requires a name and a contact: {agent}"
    );
    let (_, headers) = requests.recv_timeout(PATIENCE).unwrap();
    assert_eq!(headers["last-event-id"], canary_id, "byte for byte, and past the skipped canary");

    let mut client = attach(&broker, "wiki.changes");
    for whole in [first, second, third] {
        let (id, msg) = take(&mut client, "wiki.changes");
        assert_eq!(id, whole["meta"]["id"].as_str().unwrap());
        assert_eq!(msg, whole);
    }
    client.nothing();
    broker.kill();
    broker.run();
    let (_, headers) = requests.recv_timeout(PATIENCE).unwrap();
    assert_eq!(headers["last-event-id"], third_id, "the position was stored with the events");
    broker.wait_for_figures("wiki.changes", &[("waiting", 0), ("in_flight", 0)]);
}

/// A post in Mastodon's schema (entities/Status), reduced to the fields that matter to clients.
fn status(id: &str, content: &str, edited_at: Option<&str>) -> Value {
    json!({
        "id": id,
        "created_at": "2025-11-24T16:06:48.410Z",
        "in_reply_to_id": null,
        "sensitive": false,
        "spoiler_text": "",
        "visibility": "public",
        "language": "en",
        "uri": format!("https://mastodon.example/users/admin/statuses/{id}"),
        "url": format!("https://mastodon.example/@admin/{id}"),
        "replies_count": 0,
        "reblogs_count": 0,
        "favourites_count": 0,
        "edited_at": edited_at,
        "content": content,
        "reblog": null,
        "account": { "id": "109334860508022726", "username": "admin", "acct": "admin", "bot": false, "fields": [] },
        "media_attachments": [],
        "mentions": [],
        "tags": [{ "name": "rust", "url": "https://mastodon.example/tags/rust" }],
        "emojis": [],
        "card": null,
        "poll": null,
    })
}

#[test]
fn the_mastodon_example_has_a_topic_for_each_type_and_skips_the_rest() {
    const ID: &str = "115604800001234567";
    let post = status(ID, "<p>Hello, <b>\"world\"</b>!</p>", None);
    let edit = status(ID, "<p>edited</p>", Some("2025-11-24T16:07:29.023Z"));
    let better = status(ID, "<p>edited again</p>", Some("2025-11-24T16:08:00.000Z"));
    let streams = vec![
        format!(
            ":)\nevent: update\ndata: {post}\n\n:thump\n\
             event: announcement\ndata: {{\"id\":\"8\"}}\n\nevent: notification\ndata: {{\"id\":\"9\"}}\n\n\
             event: status.update\ndata: {edit}\n\n:thump\nevent: status.update\ndata: {better}\n\n"
        ),
        format!(":)\n:thump\nevent: filters_changed\ndata: undefined\n\nevent: delete\ndata: {ID}\n\n"),
    ];
    let topics = ["mastodon.update", "mastodon.status.update", "mastodon.delete"];
    let (addr, requests) = serve(streams);
    let broker = run_example("mastodon.toml", "https://mastodon.social", addr, &topics);
    for _ in 0..2 {
        let (path, headers) = requests.recv_timeout(PATIENCE).unwrap();
        assert_eq!(path, "/api/v1/streaming/public");
        assert!(headers["authorization"].starts_with("Bearer "), "{headers:?}");
        assert_eq!(headers.get("last-event-id"), None, "the feed has no ids");
    }
    // The last event first, so that all of them have arrived.
    let (_, deleted) = take(&mut attach(&broker, "mastodon.delete"), "mastodon.delete");
    assert_eq!(deleted.to_string(), ID, "the digits unchanged");
    assert_eq!(take(&mut attach(&broker, "mastodon.update"), "mastodon.update"), (ID.to_owned(), post));
    assert_eq!(
        take(&mut attach(&broker, "mastodon.status.update"), "mastodon.status.update"),
        (ID.to_owned(), better),
        "the later edit replaced the first"
    );
    let listed: Value = serde_json::from_str(&broker.telnet().ask("topics")).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), topics.len(), "{listed}");
    assert!(!broker.log().contains("YOUR_ACCESS_TOKEN"), "{}", broker.log());
}

#[test]
fn every_configuration_in_the_repository_is_valid() {
    let mut checked = 0;
    for folder in [folder("examples"), folder("deploy")] {
        let dir = tempfile::tempdir().unwrap();
        for file in std::fs::read_dir(&folder).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_none_or(|end| end != "toml") {
                continue;
            }
            let mut command = Command::new(herald());
            command.current_dir(&dir).args(["config", "check", "--config"]).arg(&path);
            for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HERALD_")) {
                command.env_remove(name);
            }
            // The secrets that the files in deploy/ take from the environment.
            for secret in ["BROKER_PUBLISHER_TOKEN", "BROKER_READER_TOKEN", "BROKER_ADMIN_TOKEN"] {
                command.env(secret, secret.to_lowercase());
            }
            let output = command.output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{}:\n{said}", path.display());
            checked += 1;
        }
    }
    assert!(checked >= 6, "{checked} files");
}
