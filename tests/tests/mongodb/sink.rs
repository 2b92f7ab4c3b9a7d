//! The sink of the tweet pipeline: everything is stored once, whatever is interrupted.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bson::{Bson, Document as BsonDocument, RawDocumentBuf, doc};
use futures_util::TryStreamExt as _;
use herald_tests::{PATIENCE, ReplicaSet};
use mongodb::Client;
use pipeline_tweets::sink::mongodb::MongoSink;
use pipeline_tweets::sink::{
    Batch, Collection, Document, EngagementCounts, Stored, StreamCursor, TaggedTweet, TweetSink, UserEngagement,
};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::shared;

/// A tweet of a user, with its score and one hashtag.
fn add(batch: &mut Batch, tweet: usize, user: usize, score: f64) {
    let (tweet, user) = (tweet.to_string(), format!("u{user}"));
    let json =
        format!("{{\"_id\":\"{tweet}\",\"tw_id\":\"{tweet}\",\"z\":{{\"$date\":\"no date\",\"a.b\":1}},\"n\":1.0}}");
    batch.tweets.push(Document { id: tweet.clone(), json });
    batch.users.push(Document { id: user.clone(), json: format!("{{\"_id\":\"{user}\",\"last\":\"{tweet}\"}}") });
    let counts = EngagementCounts { favorite_count: 1, retweet_count: 2, followers_count: 3 };
    batch.tagged.push(TaggedTweet { tweet: tweet.clone(), tags: vec!["all".to_owned(), user.clone()] });
    batch.engagements.push(UserEngagement { user, tweet, score, counts });
}

async fn all(client: &Client, database: &str, name: &str) -> HashMap<String, BsonDocument> {
    // Raw documents, because serde would interpret anything that looks like extended JSON.
    let raw = client.database(database).collection::<RawDocumentBuf>(name);
    let found: Vec<RawDocumentBuf> = raw.find(doc! {}).await.unwrap().try_collect().await.unwrap();
    let found = found.iter().map(|raw| BsonDocument::try_from(raw).unwrap());
    found.map(|document| (document.get_str("_id").unwrap().to_owned(), document)).collect()
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(mongod), ignore = "there is no mongod: .ci/mongod gets it")]
async fn storing_a_batch_again_changes_nothing() {
    let set = shared().await;
    let client = set.client().await;
    let sink = MongoSink::new(set.uri("again")).unwrap();
    let mut batch = Batch::default();
    add(&mut batch, 1, 0, 0.5);
    add(&mut batch, 2, 0, 1.5);
    // The same tweet twice in a batch: the first counts.
    add(&mut batch, 1, 0, 7.0);
    add(&mut batch, 3, 1, 0.25);
    batch.cursors.push(StreamCursor { stream: "s".to_owned(), last_event_id: "1-1".to_owned() });
    batch.cursors.push(StreamCursor { stream: "s".to_owned(), last_event_id: "1-2".to_owned() });
    let batch = Arc::new(batch);
    let first = sink.store(Arc::clone(&batch)).await.unwrap();
    assert_eq!((first.tweets, first.users, first.engagements), (3, 2, 3));
    assert_eq!(first.counted, [0, 1, 3]);
    assert!(first.poison.is_empty() && !first.tweets_took.is_empty() && !first.users_took.is_empty());
    let names = ["tweets", "users", "users_engagements"];
    let mut before = Vec::new();
    for name in names {
        before.push(all(&client, "again", name).await);
    }
    let again = sink.store(batch).await.unwrap();
    let nothing =
        Stored { users_took: again.users_took.clone(), tweets_took: again.tweets_took.clone(), ..Stored::default() };
    assert_eq!(again, nothing);
    for (name, before) in names.iter().zip(&before) {
        assert_eq!(all(&client, "again", name).await, *before, "{name}");
    }
    let tweet = &before[0]["1"];
    assert_eq!(tweet, &doc! { "_id": "1", "tw_id": "1", "z": { "$date": "no date", "a.b": 1 }, "n": 1.0 });
    let meta = |tweet: &str| doc! { "tweet": tweet, "favorite_count": 1_i64, "retweet_count": 2_i64, "followers_count": 3_i64 };
    assert_eq!(
        before[2]["u0"],
        doc! { "_id": "u0", "id_str": "u0", "count": 2_i64, "avg": 1.0, "scores": [0.5, 1.5], "meta": [meta("1"), meta("2")] }
    );
    assert_eq!(sink.cursor("s").await.unwrap().as_deref(), Some("1-2"));
    assert_eq!(sink.cursor("other").await.unwrap(), None);
    let hashtags = HashMap::from([("all".to_owned(), 3), ("u0".to_owned(), 2), ("u1".to_owned(), 1)]);
    assert_eq!(sink.hashtags().await.unwrap(), hashtags);
    sink.close().await;
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(mongod), ignore = "there is no mongod: .ci/mongod gets it")]
async fn every_score_is_merged_once_despite_aborted_attempts_and_kills_of_the_server() {
    let mut set = ReplicaSet::start(1, &[]).await;
    let uri = format!("{}&serverSelectionTimeoutMS=2000", set.uri("cut"));
    let sink = MongoSink::new(&uri).unwrap();
    let mut rng = StdRng::seed_from_u64(3);
    let (mut cut, mut failed, mut counted) = (0, 0, 0);
    let (mut next, mut expected): (usize, HashMap<String, Vec<f64>>) = (0, HashMap::new());
    for round in 0..16 {
        let mut batch = Batch::default();
        // One batch has more scores of one user than are kept.
        for _ in 0..if round == 10 { 250 } else { rng.random_range(1..40) } {
            // Most tweets are new, some are repeated.
            let again = next > 50 && rng.random_range(0..5) == 0;
            let tweet = if again { next - rng.random_range(1..50) } else { next };
            let user = if round == 10 { 0 } else { tweet % 3 };
            // Sums of whole numbers are exact.
            let score = f64::from(u32::try_from(tweet % 7).unwrap());
            if !again {
                expected.entry(format!("u{user}")).or_default().push(score);
                next += 1;
            }
            add(&mut batch, tweet, user, score);
        }
        let batch = Arc::new(batch);
        let began = Instant::now();
        if round == 5 || round == 12 {
            set.node(0).kill();
            let running = sink.store(Arc::clone(&batch));
            assert!(running.await.is_err());
            failed += 1;
            set.node(0).run().await;
        }
        let mut patience = 3000;
        let stored = loop {
            patience = (patience * 3 / 2).min(60_000_000);
            // Aborts the attempt, as a kill of the process would.
            let limit = Duration::from_micros(rng.random_range(0..patience));
            match tokio::time::timeout(limit, sink.store(Arc::clone(&batch))).await {
                Ok(Ok(stored)) => break stored,
                Ok(Err(_)) => failed += 1,
                Err(_) => cut += 1,
            }
            assert!(began.elapsed() < PATIENCE, "the batch is never stored");
        };
        counted += stored.counted.len();
    }
    assert!(cut > 20 && failed > 0, "too few interruptions: {cut} aborted, {failed} failed");
    let client = set.client().await;
    let users = all(&client, "cut", "users_engagements").await;
    assert_eq!(users.len(), expected.len());
    for (user, scores) in &expected {
        let document = &users[user];
        assert_eq!(document.get_i64("count").unwrap(), i64::try_from(scores.len()).unwrap(), "{user}");
        let kept: Vec<Bson> =
            scores[scores.len().saturating_sub(100)..].iter().map(|score| Bson::Double(*score)).collect();
        assert_eq!(document.get_array("scores").unwrap().len(), kept.len(), "{user}");
        let (mean, avg) =
            (scores.iter().sum::<f64>() / f64::from(u32::try_from(scores.len()).unwrap()), document.get_f64("avg"));
        assert!((avg.as_ref().unwrap() - mean).abs() < 1e-9, "{user}: {avg:?}, not {mean}");
    }
    assert_eq!(all(&client, "cut", "tweets").await.len(), next);
    // Each tweet's hashtags were reported as new exactly once, in any attempt.
    assert_eq!(counted, next);
    assert_eq!(sink.hashtags().await.unwrap()["all"], next as u64);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(mongod), ignore = "there is no mongod: .ci/mongod gets it")]
async fn documents_that_mongodb_refuses_are_named_and_the_others_are_stored() {
    let set = shared().await;
    let client = set.client().await;
    let create = doc! { "create": "tweets", "validator": { "tw_id": { "$ne": "2" } } };
    client.database("poison").run_command(create).await.unwrap();
    let index = doc! { "createIndexes": "users", "indexes": [{ "key": { "last": 1 }, "name": "l", "unique": true }] };
    client.database("poison").run_command(index).await.unwrap();
    let sink = MongoSink::new(set.uri("poison")).unwrap();
    let mut batch = Batch::default();
    for (tweet, user) in [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5)] {
        add(&mut batch, tweet, user, 1.0);
    }
    batch.tweets[2].json = format!("{{\"_id\":\"3\",\"text\":\"{}\"}}", "x".repeat(17 << 20));
    // A duplicate value in a unique index, and a field that is not allowed in a document.
    batch.users[3].json = "{\"_id\":\"u4\",\"last\":\"1\"}".to_owned();
    batch.users[4].json = "{\"_id\":\"u5\",\"last\":{\"a\\u0000\":1}}".to_owned();
    let stored = sink.store(Arc::new(batch)).await.unwrap();
    assert_eq!(stored.tweets, 3, "{stored:?}");
    let mut poison: Vec<_> =
        stored.poison.iter().map(|poison| (poison.collection.unwrap(), poison.id.as_str())).collect();
    poison.sort_by_key(|(collection, id)| (collection.as_str(), *id));
    let refused = |collection, id| (collection, id);
    let one_of_two = poison
        .iter()
        .any(|entry| *entry == refused(Collection::Users, "u4") || *entry == refused(Collection::Users, "u1"));
    assert!(one_of_two, "{poison:?}");
    for expected in [(Collection::Tweets, "2"), (Collection::Tweets, "3"), (Collection::Users, "u5")] {
        assert!(poison.contains(&expected), "{poison:?}");
    }
    assert_eq!(poison.len(), 4, "{poison:?}");
    assert!(stored.poison.iter().all(|poison| !poison.reason.is_empty() && !poison.document.is_empty()));
    assert_eq!(all(&client, "poison", "tweets").await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(mongod), ignore = "there is no mongod: .ci/mongod gets it")]
async fn an_unreachable_server_is_reported_in_one_line() {
    let sink = MongoSink::new("mongodb://u:s3cret@127.0.0.1:1/d?serverSelectionTimeoutMS=300").unwrap();
    let mut batch = Batch::default();
    add(&mut batch, 1, 1, 1.0);
    let error = sink.store(Arc::new(batch)).await.unwrap_err().to_string();
    assert!(error.contains("no usable server (127.0.0.1:1: "), "{error}");
    assert!(!error.contains("s3cret") && error.len() < 300, "{error}");
}
