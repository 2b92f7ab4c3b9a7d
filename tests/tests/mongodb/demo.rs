//! `herald demo --mongodb`: the pipeline stores in MongoDB, and the changes in MongoDB become events.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use bson::doc;
use herald_tests::{PATIENCE, Telnet, herald};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::{collection, shared};

fn command(dir: &Path, uri: &str) -> Command {
    let mut command = Command::new(herald());
    command.current_dir(dir).stdin(Stdio::null()).args(["demo", "--mongodb", uri, "--data", "kept", "--rate", "50"]);
    command.args(["--port", "0", "--feed-port", "0", "--console-port", "0"]);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HERALD_")) {
        command.env_remove(name);
    }
    command
}

/// A running demo, and its output.
struct Demo {
    dir: TempDir,
    child: Child,
    introduction: String,
}

impl Demo {
    fn start(uri: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = File::create(dir.path().join("log")).unwrap();
        let mut child = command(dir.path(), uri).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut introduction = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        while !introduction.contains("Ctrl-C") {
            let count = stdout.read_line(&mut introduction).unwrap();
            assert!(count > 0, "the demo has ended: {}", std::fs::read_to_string(dir.path().join("log")).unwrap());
        }
        std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
        Self { dir, child, introduction }
    }

    fn client(&self) -> Telnet {
        let line = self.introduction.lines().find_map(|line| line.trim().strip_prefix("broker ")).unwrap();
        Telnet::connect(line.split_whitespace().next().unwrap().parse().unwrap())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    fn stop(mut self) -> ExitStatus {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        self.child.wait().unwrap()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _it_may_have_ended = self.child.kill();
        let _status = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(mongod), ignore = "there is no mongod: .ci/mongod gets it")]
async fn the_demo_publishes_what_its_pipeline_stores() {
    let set = shared().await;
    let client = set.client().await;
    let demo = Demo::start(&set.uri("demo"));
    assert!(demo.introduction.contains("database \"demo\""), "{}", demo.introduction);
    for (topic, field) in [("tweets", "original_tweet.message.tweet.text"), ("users", "screen_name")] {
        let mut telnet = demo.client();
        assert!(telnet.ask("hello {\"replies\":\"quiet\"}").starts_with("hello"));
        telnet.asks(&format!("sub {topic} inbox"), &format!("successfully subscribed to topic {topic}"));
        for _ in 0..20 {
            let event: Value = serde_json::from_str(&telnet.line()).unwrap();
            assert!((0..=6).contains(&event["priority"].as_i64().unwrap()), "{event}");
            let msg = event["msg"].as_str().unwrap();
            let found = collection(&client, "demo", topic).find_one(doc! { field: msg }).await.unwrap();
            assert!(found.is_some() && event["topic"] == topic, "{event}");
            telnet.send(&format!("ack {topic} {}", event["id"].as_str().unwrap()));
        }
        // The demo's own subscriber receives events as well.
        let began = Instant::now();
        let acknowledged = || {
            let stats: Value = serde_json::from_str(&demo.client().ask(&format!("stats {topic}"))).unwrap();
            let mut subscriptions = stats["topics"][0]["subscriptions"].as_array().unwrap().iter();
            subscriptions.any(|one| one["name"] == "subscriber" && one["acknowledged"].as_u64().unwrap() >= 20)
        };
        while !acknowledged() {
            assert!(began.elapsed() < PATIENCE, "{}", demo.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    assert!(!demo.dir.path().join("kept/tweets.db").exists(), "the tweets are in MongoDB");
    let log = demo.log();
    assert!(demo.stop().success(), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(mongod), ignore = "there is no mongod: .ci/mongod gets it")]
async fn the_demo_never_shows_the_credentials_of_its_mongodb() {
    let set = shared().await;
    let uri = set.uri("denied").replace("mongodb://", "mongodb://ada-lovelace:s3cret@");
    let demo = Demo::start(&uri);
    let began = Instant::now();
    // The user does not exist.
    while !demo.log().contains("uthentication") {
        assert!(began.elapsed() < PATIENCE, "{}", demo.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for text in [&demo.introduction, &demo.log()] {
        assert!(!text.contains("s3cret") && !text.contains("ada-lovelace"), "{text}");
    }
    drop(demo);
    let dir = tempfile::tempdir().unwrap();
    let refused = command(dir.path(), "mongodb://ada-lovelace:s3cret@/?x").output().unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("--mongodb: not a MongoDB connection string") && !said.contains("s3cret"), "{said}");
}
