//! The tweet pipeline in a broker that is killed at random moments, and as seen through telnet.

#![allow(clippy::unwrap_used, reason = "a step that fails must fail the test")]

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use herald_tests::{PATIENCE, Telnet, TestBroker};
use pipeline_feed::{Feed, FeedConfig, FeedStream, tweet};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

/// A feed that runs until it is dropped.
struct TestFeed {
    addr: SocketAddr,
    runtime: Option<tokio::runtime::Runtime>,
}

impl TestFeed {
    fn start(config: FeedConfig) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let addr = listener.local_addr().unwrap();
        runtime.spawn(Feed::new(config).unwrap().serve(listener, CancellationToken::new()));
        Self { addr, runtime: Some(runtime) }
    }

    fn pipeline(&self, more: &str) -> String {
        let addr = self.addr;
        format!(
            "[pipeline]\nstreams = [\"http://{addr}/tweets/1\", \"http://{addr}/tweets/2\"]\nconsole = \"127.0.0.1:0\"\n{more}\n"
        )
    }
}

impl Drop for TestFeed {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn reader(dir: &Path) -> Connection {
    Connection::open_with_flags(dir.join("tweets.db"), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap()
}

fn strings(connection: &Connection, sql: &str) -> Vec<String> {
    let mut select = connection.prepare(sql).unwrap();
    select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

#[test]
fn every_tweet_is_stored_once_whenever_the_broker_is_killed() {
    const SEED: u64 = 7;
    const TWEETS: u64 = 6_000;
    let mut rng = StdRng::seed_from_u64(SEED);
    let feed = TestFeed::start(FeedConfig { rate: 3_000.0, seed: SEED, limit: Some(TWEETS), ..FeedConfig::default() });
    let mut broker = TestBroker::start(&feed.pipeline("autostart = true\nflush_ms = 50"));
    let began = Instant::now();
    let mut kills = 0;
    loop {
        let rest = if kills < 12 { Duration::from_millis(rng.random_range(30..600)) } else { Duration::from_secs(2) };
        std::thread::sleep(rest);
        let last = format!("-{TWEETS}");
        let cursors = strings(&reader(broker.dir()), "SELECT last_event_id FROM pipeline_cursors");
        if kills >= 5 && cursors.len() == 2 && cursors.iter().all(|cursor| cursor.ends_with(&last)) {
            break;
        }
        assert!(began.elapsed() < 5 * PATIENCE, "{cursors:?} after {kills} kills\n{}", broker.log());
        if kills < 12 {
            broker.kill();
            kills += 1;
            broker.run();
        }
    }
    assert!(broker.terminate().success(), "{}", broker.log());

    let mut expected = BTreeSet::new();
    let mut hashtags: HashMap<String, u64> = HashMap::new();
    for stream in [FeedStream::One, FeedStream::Two] {
        for n in 0..TWEETS {
            let message: Value = serde_json::from_str(&tweet(SEED, stream, n)).unwrap();
            let outer = &message["message"]["tweet"];
            expected.insert(outer["id_str"].as_str().unwrap().to_owned());
            if let Some(inner) = outer["retweeted_status"]["id_str"].as_str() {
                expected.insert(inner.to_owned());
            }
            let tags = outer["entities"]["hashtags"].as_array().unwrap();
            for tag in tags.iter().map(|tag| tag["text"].as_str().unwrap()).collect::<BTreeSet<_>>() {
                *hashtags.entry(tag.to_owned()).or_default() += 1;
            }
        }
    }
    let db = reader(broker.dir());
    let stored: BTreeSet<String> = strings(&db, "SELECT tw_id FROM tweets").into_iter().collect();
    assert_eq!(stored.len(), expected.len(), "after {kills} kills");
    assert_eq!(stored, expected);
    let merged: i64 =
        db.query_row("SELECT sum(json_extract(doc, '$.count')) FROM users_engagements", [], |row| row.get(0)).unwrap();
    assert_eq!(merged, expected.len() as i64, "each tweet's score is merged once");
    let written = std::fs::read_to_string(broker.dir().join("hashtag_stats.json")).unwrap();
    assert_eq!(serde_json::from_str::<HashMap<String, u64>>(&written).unwrap(), hashtags);
}

#[test]
fn the_pipeline_is_started_by_telnet_and_publishes_statistics_and_dead_letters() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("feed.jsonl");
    let good = tweet(1, FeedStream::One, 1);
    let text = serde_json::from_str::<Value>(&good).unwrap()["message"]["tweet"]["text"].as_str().unwrap().to_owned();
    std::fs::write(&file, format!("{good}\n{{\"message\": panic}}\n{{\"message\":{{\"delete\":1}}}}\n")).unwrap();
    let feed = TestFeed::start(FeedConfig { rate: 100.0, files: vec![file], ..FeedConfig::default() });
    let mut broker = TestBroker::start(&feed.pipeline("stats_ms = 300\nflush_ms = 100"));
    let mut stats = broker.telnet();
    stats.asks("sub logger_stats", "successfully subscribed to topic logger_stats");
    let mut console = Telnet::connect_raw(broker.addr_of("console"));
    console.expect("Type `twitter` to start processing SSE (from Twitter API)");
    console.asks("observer", "[Command] run :other");
    console.asks("twitter", "[Command] run :twitter");
    let line = console.line();
    let shown = line.strip_prefix("tweet: worker-").unwrap().split_once(' ').unwrap();
    assert!(shown.0.parse::<u64>().is_ok(), "{line}");
    assert_eq!(shown.1, text.replace(['\n', '\r'], " "));
    let event: Value = serde_json::from_str(&stats.line()).unwrap();
    let said = event["msg"].as_str().unwrap();
    assert!(said.starts_with("[StatisticWorker - LoggerWorker execution time] Percentile stats 75%="), "{said}");
    assert!(said.ends_with("CRASHES/0.3sec]"), "{said}");
    let id = event["id"].as_str().unwrap();
    stats.asks(&format!("ack logger_stats {id}"), &format!("acknowledged from logs ev_id={id}"));
    // The dead letters wait for an operator.
    let mut dead = broker.telnet();
    dead.asks("sub pipeline.dead dead", "successfully subscribed to topic pipeline.dead");
    let letter: Value = serde_json::from_str(&dead.line()).unwrap();
    assert_eq!(letter["msg"]["document"], "{\"message\":{\"delete\":1}}");
    assert!(letter["msg"]["reason"].as_str().unwrap().contains("missing field `tweet`"), "{letter}");
    let crashes = broker.wait_for_log("a worker crashed and is replaced");
    assert!(crashes.contains("not JSON") && !broker.log().contains("stack backtrace"), "{crashes}");
    // It resumes where it stopped, on the same ports.
    assert!(broker.terminate().success(), "{}", broker.log());
    broker.run();
    let mut console = Telnet::connect_raw(broker.addr_of("console"));
    console.expect("Type `twitter` to start processing SSE (from Twitter API)");
    console.asks("twitter", "[Command] run :twitter");
    assert!(console.line().starts_with("tweet: worker-"));
    assert!(broker.wait_for_log("a stream of the pipeline starts").contains("last_event_id=1-"));
    let count: i64 = reader(broker.dir()).query_row("SELECT count(*) FROM tweets", [], |row| row.get(0)).unwrap();
    assert!((1..=2).contains(&count), "a repeated tweet is stored once: {count}");
}
