use super::super::{Document, EngagementCounts, StreamCursor, TaggedTweet, UserEngagement};
use super::*;

fn tweet(n: usize) -> Batch {
    let document = |id: String| Document { json: format!("{{\"_id\":\"{id}\"}}"), id };
    let counts = EngagementCounts { favorite_count: n as u64, retweet_count: 1, followers_count: 2 };
    let user = format!("u{}", n % 7);
    Batch {
        tweets: vec![document(format!("t{n}"))],
        users: vec![document(user.clone())],
        engagements: vec![UserEngagement { user, tweet: format!("t{n}"), score: n as f64, counts }],
        tagged: vec![TaggedTweet { tweet: format!("t{n}"), tags: vec!["all".to_owned(), format!("mod{}", n % 3)] }],
        cursors: vec![StreamCursor { stream: "s".to_owned(), last_event_id: format!("e{n}") }],
    }
}

fn text(connection: &Connection, sql: &str) -> Vec<String> {
    let mut select = connection.prepare(sql).unwrap();
    select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

async fn store(sink: &SqliteSink, batch: Batch) -> Stored {
    sink.store(Arc::new(batch)).await.unwrap()
}

#[tokio::test]
async fn a_batch_that_is_stored_again_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("made/too/tweets.db");
    let sink = SqliteSink::open(&path).unwrap();
    assert_eq!(sink.cursor("s").await.unwrap(), None);
    for n in 0..300 {
        let stored = store(&sink, tweet(n)).await;
        assert_eq!((stored.tweets, stored.engagements, stored.counted), (1, 1, vec![0]));
        assert_eq!((stored.tweets_took.len(), stored.users_took.len()), (1, 1));
    }
    let reader = Connection::open(&path).unwrap();
    let all = "SELECT tw_id || doc FROM tweets UNION ALL SELECT id_str || doc FROM users UNION ALL SELECT id_str || doc FROM users_engagements
               UNION ALL SELECT tag || count FROM hashtags ORDER BY 1";
    let before = text(&reader, all);
    sink.close().await;
    assert!(sink.store(Arc::new(tweet(0))).await.is_err(), "it is closed");

    let sink = SqliteSink::open(&path).unwrap();
    assert_eq!(sink.cursor("s").await.unwrap().as_deref(), Some("e299"));
    // Alone, twice in one batch, and many at a time.
    let mut twice = tweet(5);
    let again = tweet(5);
    twice.tweets.extend(again.tweets);
    twice.users.extend(again.users);
    twice.engagements.extend(again.engagements);
    twice.tagged.extend(again.tagged);
    let stored = store(&sink, twice).await;
    assert_eq!((stored.tweets, stored.users, stored.engagements, stored.counted), (0, 0, 0, vec![]));
    let sink = Arc::new(sink);
    let tasks: Vec<_> = (0..300)
        .map(|n| {
            let sink = Arc::clone(&sink);
            tokio::spawn(async move { store(&sink, tweet(n)).await })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap().tweets, 0);
    }
    assert_eq!(text(&reader, all), before);
    let hashtags = sink.hashtags().await.unwrap();
    assert_eq!(
        hashtags,
        HashMap::from([("all", 300), ("mod0", 100), ("mod1", 100), ("mod2", 100)].map(|(tag, n)| (tag.to_owned(), n)))
    );
    // A tweet whose document first arrived inside another is still counted, once.
    let late = TaggedTweet { tweet: "t-inside".to_owned(), tags: vec!["all".to_owned()] };
    let mut inside = tweet(900);
    inside.tagged.clear();
    inside.tweets[0].id = "t-inside".to_owned();
    assert_eq!(store(&sink, inside).await.tweets, 1);
    for counted in [vec![0], vec![]] {
        assert_eq!(store(&sink, Batch { tagged: vec![late.clone()], ..Batch::default() }).await.counted, counted);
    }
}

#[tokio::test]
async fn scores_are_merged_in_order_and_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tweets.db");
    let mut expected: Vec<Vec<f64>> = vec![Vec::new(); 7];
    for run in 0..3 {
        let sink = SqliteSink::open(&path).unwrap();
        // A few at a time: each batch is a sync, which takes long on a busy disk.
        for first in (run * 400..(run + 1) * 400).step_by(20) {
            let mut batch = Batch::default();
            for n in first..first + 20 {
                let one = tweet(n);
                batch.tweets.extend(one.tweets);
                batch.engagements.extend(one.engagements);
                expected[n % 7].push(n as f64);
            }
            store(&sink, batch).await;
        }
        sink.close().await;
    }
    let reader = Connection::open(&path).unwrap();
    for (user, scores) in expected.iter().enumerate() {
        let doc = text(&reader, &format!("SELECT doc FROM users_engagements WHERE id_str = 'u{user}'"));
        let doc: serde_json::Value = serde_json::from_str(&doc[0]).unwrap();
        assert_eq!(doc["count"], scores.len());
        assert_eq!(
            (doc["_id"].as_str(), doc["id_str"].as_str()),
            (Some(&*format!("u{user}")), Some(&*format!("u{user}")))
        );
        let avg = scores.iter().sum::<f64>() / scores.len() as f64;
        assert!((doc["avg"].as_f64().unwrap() - avg).abs() < 1e-6, "{doc}");
        let newest = &scores[scores.len() - 100..];
        assert_eq!(doc["scores"], serde_json::json!(newest));
        let first = newest[0] as u64;
        assert_eq!(
            doc["meta"][0],
            serde_json::json!({"tweet": format!("t{first}"), "favorite_count": first, "retweet_count": 1, "followers_count": 2})
        );
    }
}

#[tokio::test]
async fn changes_by_another_program_are_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tweets.db");
    let sink = SqliteSink::open(&path).unwrap();
    store(&sink, tweet(0)).await;
    let other = Connection::open(&path).unwrap();
    other.execute("DELETE FROM users_engagements", []).unwrap();
    store(&sink, tweet(7)).await;
    let docs = text(&other, "SELECT doc FROM users_engagements");
    assert!(docs.len() == 1 && docs[0].contains(r#""count":1,"#), "{docs:?}");
    // An unreadable document costs only its own scores.
    other.execute("UPDATE users_engagements SET doc = 'nonsense'", []).unwrap();
    assert_eq!(store(&sink, tweet(14)).await.tweets, 1);
    let docs = text(&other, "SELECT doc FROM users_engagements");
    assert!(docs.len() == 1 && docs[0].contains(r#""count":1,"#), "{docs:?}");
}

#[tokio::test]
async fn a_failed_write_is_an_error_and_leaves_nothing_half_done() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tweets.db");
    let sink = SqliteSink::open(&path).unwrap();
    store(&sink, tweet(0)).await;
    let other = Connection::open(&path).unwrap();
    // The last step of a batch fails, so that all earlier steps are undone.
    other
        .execute_batch(
            "CREATE TRIGGER full BEFORE INSERT ON pipeline_cursors BEGIN SELECT RAISE(ABORT, 'no space left'); END",
        )
        .unwrap();
    let error = sink.store(Arc::new(tweet(7))).await.unwrap_err();
    assert!(error.to_string().contains("cannot write to") && error.cause.is_some(), "{error:?}");
    assert_eq!(text(&other, "SELECT tw_id FROM tweets"), ["t0"]);
    other.execute_batch("DROP TRIGGER full").unwrap();
    let stored = store(&sink, tweet(7)).await;
    assert_eq!((stored.tweets, stored.engagements, stored.counted), (1, 1, vec![0]));
    let docs = text(&other, "SELECT doc FROM users_engagements");
    assert!(docs.len() == 1 && docs[0].contains(r#""count":2,"#), "merged once: {docs:?}");
}

#[test]
fn a_file_of_another_kind_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tweets.db");
    let opened = |path: &Path| {
        SqliteSink::open(path).map(drop).map_err(|error| {
            let cause = error.cause.as_ref().map(ToString::to_string).unwrap_or_default();
            format!("{error}: {cause}")
        })
    };
    std::fs::write(
        &path,
        "not a database at all, but long enough to be taken for a header of one, if one does not look",
    )
    .unwrap();
    assert!(opened(&path).unwrap_err().contains("not a database"), "{:?}", opened(&path));
    std::fs::remove_file(&path).unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("CREATE TABLE mine(x)").unwrap();
    assert!(opened(&path).unwrap_err().contains("not one of the tweet pipeline"), "{:?}", opened(&path));
    drop(other);
    std::fs::remove_file(&path).unwrap();
    drop(SqliteSink::open(&path).unwrap());
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 9).unwrap();
    assert!(opened(&path).unwrap_err().contains("newer version"), "{:?}", opened(&path));
    assert!(opened(dir.path()).is_err());
}
