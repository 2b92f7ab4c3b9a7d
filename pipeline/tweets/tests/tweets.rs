//! 20,000 tweets of the feed through the whole pipeline into SQLite, compared with an independent computation: the feed's
//! text parsed into trees, scored by a few naive lines.
#![cfg(feature = "sqlite")]
#![expect(clippy::unwrap_used, reason = "a failed step of a test's helper fails the test")]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use broker_core::engine::{Handover, Outcome, Standing, Unavailable};
use broker_core::event::NewEvent;
use broker_core::name::TopicName;
use broker_core::settings::SecretString;
use broker_core::source::Publisher;
use pipeline_feed::{Feed, FeedConfig, FeedStream, tweet};
use pipeline_tweets::sink::TweetSink;
use pipeline_tweets::sink::sqlite::SqliteSink;
use pipeline_tweets::{PipelineConfig, TweetPipeline};
use rusqlite::Connection;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const SEED: u64 = 42;
/// Tweets of each of the two streams.
const TWEETS: u64 = 10_000;
/// The number of events from one panic to the next.
const PANIC_EVERY: u64 = 1_000;

/// Accepts everything and keeps the topics.
#[derive(Default)]
struct Topics(Mutex<BTreeMap<String, Vec<Value>>>);

#[async_trait]
impl Publisher for Topics {
    async fn publish(&self, events: Vec<(TopicName, NewEvent)>) -> Result<Vec<Outcome>, Unavailable> {
        let mut topics = self.0.lock().unwrap();
        for (topic, event) in &events {
            let event = serde_json::from_slice(event.payload.bytes()).unwrap();
            topics.entry(topic.to_string()).or_default().push(event);
        }
        Ok(events.iter().map(|_| Outcome::Published { replaced: false }).collect())
    }

    async fn hand_over(&self, handover: Handover) -> Result<Vec<Outcome>, Unavailable> {
        self.publish(handover.events.into_iter().map(|offer| (offer.topic, offer.event)).collect()).await
    }

    async fn standing(&self, _source: &str) -> Result<Standing, Unavailable> {
        Ok(Standing::default())
    }
}

/// Equal, except for the last binary digit of a fraction, which serde_json may read wrongly.
fn alike(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| alike(a, b)))
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| alike(a, b)),
        (Value::Number(a), Value::Number(b)) if a.is_f64() && b.is_f64() => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            (a - b).abs() <= 1e-12 * a.abs()
        }
        (a, b) => a == b,
    }
}

/// The expected outcome of the feed.
#[derive(Default)]
struct Expected {
    tweets: BTreeMap<String, Value>,
    users: BTreeMap<String, BTreeSet<String>>,
    scores: BTreeMap<String, Vec<f64>>,
    hashtags: HashMap<String, u64>,
    tagged: BTreeSet<String>,
}

impl Expected {
    fn add(&mut self, tweet: &Value, original: Value, valences: &HashMap<&str, i64>) {
        let text = tweet["text"].as_str().unwrap();
        let plain: String = text.chars().filter(|c| !".,?/:;!|".contains(*c)).collect();
        let words: Vec<&str> = plain.split(char::is_whitespace).filter(|word| !word.is_empty()).collect();
        let values: Vec<i64> =
            words.iter().map(|word| valences.get(word.to_lowercase().as_str()).copied().unwrap_or(0)).collect();
        let sentiment = values.iter().sum::<i64>() as f64 / (values.len().max(1)) as f64;
        let count = |value: &Value| value.as_u64().unwrap();
        let (favorites, retweets) = (count(&tweet["favorite_count"]), count(&tweet["retweet_count"]));
        let followers = count(&tweet["user"]["followers_count"]);
        let engagement = (favorites + retweets) as f64 / (followers.max(1)) as f64;
        let id = tweet["id_str"].as_str().unwrap().to_owned();
        let user = tweet["user"]["id_str"].as_str().unwrap().to_owned();
        let document = json!({
            "_id": id, "tw_id": id, "original_tweet": original,
            "sentiments_data": {"tweet_text": text, "tweet_words": words, "words_emotion_values": values, "score": sentiment},
            "sentiments_score": sentiment,
            "engagement_data": {"favorite_count": favorites, "retweet_count": retweets, "followers_count": followers, "score": engagement},
            "engagement_score": engagement,
        });
        if self.tweets.insert(id, document).is_none() {
            self.scores.entry(user.clone()).or_default().push(engagement);
        }
        let mut with_id = tweet["user"].clone();
        with_id["_id"] = json!(user);
        self.users.entry(user).or_default().insert(with_id.to_string());
    }

    fn of_the_feed() -> Self {
        let afinn = include_str!("../src/afinn/AFINN-111.txt");
        let valences = afinn.lines().map(|line| line.split_once('\t').unwrap());
        let valences = valences.map(|(word, value)| (word, value.parse().unwrap())).collect();
        let mut expected = Self::default();
        for stream in [FeedStream::One, FeedStream::Two] {
            for n in 0..TWEETS {
                let message: Value = serde_json::from_str(&tweet(SEED, stream, n)).unwrap();
                let outer = &message["message"]["tweet"];
                expected.add(outer, message.clone(), &valences);
                if expected.tagged.insert(outer["id_str"].to_string()) {
                    let tags = outer["entities"]["hashtags"].as_array().unwrap();
                    for tag in tags.iter().map(|tag| tag["text"].as_str().unwrap()).collect::<BTreeSet<_>>() {
                        *expected.hashtags.entry(tag.to_owned()).or_default() += 1;
                    }
                }
                if outer["retweeted_status"].is_object() {
                    let inner = &outer["retweeted_status"];
                    expected.add(inner, json!({"message": {"tweet": inner}}), &valences);
                }
            }
        }
        expected
    }

    fn check(&self, db: &Path, hashtags_file: &Path) {
        let connection = Connection::open(db).unwrap();
        let table = |table: &str, key: &str| -> BTreeMap<String, Value> {
            let mut select = connection.prepare(&format!("SELECT {key}, doc FROM {table}")).unwrap();
            let rows = select.query_map([], |row| Ok((row.get(0)?, row.get::<_, String>(1)?))).unwrap();
            rows.map(|row| row.unwrap()).map(|(id, doc)| (id, serde_json::from_str(&doc).unwrap())).collect()
        };
        let tweets = table("tweets", "tw_id");
        assert_eq!(tweets.len(), self.tweets.len());
        for (id, document) in &self.tweets {
            assert!(alike(document, &tweets[id]), "{id}: expected\n{document}\nfound\n{}", tweets[id]);
        }
        let users = table("users", "id_str");
        assert_eq!(users.len(), self.users.len());
        for (id, versions) in &self.users {
            // The last of several versions depends on the workers.
            assert!(versions.contains(&users[id].to_string()), "{id}: {}", users[id]);
        }
        let engagements = table("users_engagements", "id_str");
        assert_eq!(engagements.len(), self.scores.len());
        for (id, scores) in &self.scores {
            let doc = &engagements[id];
            assert_eq!((doc["id_str"].as_str(), doc["count"].as_u64()), (Some(&**id), Some(scores.len() as u64)));
            let avg = scores.iter().sum::<f64>() / scores.len() as f64;
            assert!(
                (doc["avg"].as_f64().unwrap() - avg).abs() <= 1e-9 * avg.abs(),
                "{id}: {} is not {avg}",
                doc["avg"]
            );
            let kept: Vec<f64> =
                doc["scores"].as_array().unwrap().iter().map(|score| score.as_f64().unwrap()).collect();
            let meta = doc["meta"].as_array().unwrap();
            assert_eq!((kept.len(), meta.len()), (scores.len().min(100), scores.len().min(100)), "{id}");
            let score_of = |tweet: &str| self.tweets[tweet]["engagement_score"].clone();
            // The order is that of storing; each entry matches its tweet.
            let mut seen = BTreeSet::new();
            for (score, meta) in kept.iter().zip(meta) {
                let tweet = meta["tweet"].as_str().unwrap();
                assert!(seen.insert(tweet), "{tweet} twice");
                assert!(alike(&score_of(tweet), &json!(score)), "{tweet}");
                assert_eq!(self.tweets[tweet]["engagement_data"]["favorite_count"], meta["favorite_count"]);
            }
        }
        let text = std::fs::read_to_string(hashtags_file).unwrap();
        let written: HashMap<String, u64> = serde_json::from_str(&text).unwrap();
        assert_eq!(written, self.hashtags);
        let in_order: Vec<u64> = text
            .lines()
            .filter_map(|line| line.rsplit_once(':'))
            .map(|(_, n)| n.trim_end_matches(',').parse().unwrap())
            .collect();
        assert!(in_order.windows(2).all(|pair| pair[0] >= pair[1]), "the highest count comes first");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_tweet_is_stored_as_an_independent_computation_says() {
    let dir = tempfile::tempdir().unwrap();
    let (db, hashtags_file) = (dir.path().join("tweets.db"), dir.path().join("hashtag_stats.json"));
    // A panic after every PANIC_EVERY - 1 tweets; those at the end do not count.
    let events = TWEETS + (TWEETS - 1) / (PANIC_EVERY - 1);
    let feed = FeedConfig {
        rate: 1_000_000.0,
        seed: SEED,
        panic_every: PANIC_EVERY,
        limit: Some(events),
        ..FeedConfig::default()
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let stop_feed = CancellationToken::new();
    let serving = tokio::spawn(Feed::new(feed).unwrap().serve(listener, stop_feed.clone()));
    let streams = [format!("http://{addr}/tweets/1"), format!("http://u:secret@{addr}/tweets/2")];
    let config = PipelineConfig {
        streams: streams.iter().map(SecretString::new).collect(),
        autostart: true,
        console: None,
        workers: 5,
        max_workers: 16,
        autoscale: true,
        simulated_work: (Duration::ZERO, Duration::ZERO),
        batch_size: 200,
        flush: Duration::from_millis(200),
        stats: Duration::from_millis(100),
        hashtags_file: hashtags_file.clone(),
        dead_letter: TopicName::new("pipeline.dead").unwrap(),
    };
    let topics = Arc::new(Topics::default());
    let sink = Arc::new(SqliteSink::open(&db).unwrap());
    let publisher = Arc::clone(&topics) as Arc<dyn Publisher>;
    let pipeline = TweetPipeline::new(config, Arc::clone(&sink) as Arc<dyn TweetSink>, publisher, None);
    let stats = pipeline.stats();
    let stop = CancellationToken::new();
    let running = tokio::spawn(pipeline.run(stop.clone()));
    let last = format!("-{events}");
    tokio::time::timeout(Duration::from_secs(300), async {
        for stream in [&streams[0], &format!("http://{addr}/tweets/2")] {
            while !sink.cursor(stream).await.unwrap().is_some_and(|id| id.ends_with(&last)) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    })
    .await
    .expect("both streams are stored to the end");
    stop.cancel();
    running.await.unwrap();
    stop_feed.cancel();
    serving.await.unwrap().unwrap();

    let stats = stats();
    assert_eq!((stats.read, stats.dead_letters, stats.forgotten), (2 * events, 0, 0));
    assert_eq!(stats.crashes, 2 * (events - TWEETS), "each panic of the feed crashed a worker");
    let expected = Expected::of_the_feed();
    assert!(expected.tweets.len() as u64 > 2 * TWEETS && !expected.hashtags.is_empty());
    expected.check(&db, &hashtags_file);
    let topics = topics.0.lock().unwrap();
    assert_eq!(topics.keys().map(String::as_str).collect::<Vec<_>>(), ["logger_stats", "tweets_stats", "users_stats"]);
    let ids: BTreeSet<&str> = topics.values().flatten().map(|event| event["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), topics.values().flatten().count(), "ids are unique");
}
