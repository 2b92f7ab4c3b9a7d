use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use broker_core::engine::{Handover, Outcome, Standing, Unavailable};
use broker_core::event::NewEvent;
use broker_core::name::TopicName;
use broker_core::source::Publisher;

use super::*;
use crate::sink::{Collection, EngagementCounts, SinkError};

const PATIENCE: Duration = Duration::from_secs(60);

/// A sink and a broker that fail as often as told, and record their input.
#[derive(Default)]
struct Ends {
    failures: AtomicU64,
    broker_failures: AtomicU64,
    batches: Mutex<Vec<Batch>>,
    letters: Mutex<Vec<String>>,
    poison: Mutex<Option<String>>,
}

fn fails(failures: &AtomicU64) -> bool {
    failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

#[async_trait]
impl TweetSink for Ends {
    async fn store(&self, batch: Arc<Batch>) -> Result<Stored, SinkError> {
        if fails(&self.failures) {
            return Err(SinkError { reason: "the sink is down".to_owned(), cause: None });
        }
        self.batches.lock().unwrap().push((*batch).clone());
        let bad = self.poison.lock().unwrap().clone();
        let poison = batch.tweets.iter().filter(|tweet| Some(&tweet.id) == bad.as_ref()).map(|tweet| Poison {
            collection: Some(Collection::Tweets),
            id: tweet.id.clone(),
            document: tweet.json.clone(),
            reason: "too \"large\"".to_owned(),
        });
        Ok(Stored { poison: poison.collect(), ..Stored::default() })
    }

    async fn cursor(&self, _stream: &str) -> Result<Option<String>, SinkError> {
        Ok(None)
    }

    async fn hashtags(&self) -> Result<HashMap<String, u64>, SinkError> {
        Ok(HashMap::new())
    }
}

#[async_trait]
impl Publisher for Ends {
    async fn publish(&self, events: Vec<(TopicName, NewEvent)>) -> Result<Vec<Outcome>, Unavailable> {
        if fails(&self.broker_failures) {
            return Err(Unavailable("the broker is down".into()));
        }
        let mut letters = self.letters.lock().unwrap();
        for (_, event) in &events {
            letters.push(String::from_utf8(event.payload.bytes().to_vec()).unwrap());
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

struct Fixture {
    ends: Arc<Ends>,
    progress: Arc<Progress>,
    sender: mpsc::Sender<Collected>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn start(batch_size: usize, ends: Ends) -> Fixture {
    let ends = Arc::new(ends);
    let progress = Progress::new("");
    let stop = CancellationToken::new();
    let (sender, collected) = mpsc::channel(16);
    let batcher = Batcher {
        sink: Arc::clone(&ends) as Arc<dyn TweetSink>,
        dead_letters: DeadLetters {
            topic: TopicName::new("pipeline.dead").unwrap(),
            publisher: Arc::clone(&ends) as Arc<dyn Publisher>,
            count: Arc::default(),
        },
        statistics: Arc::default(),
        hashtags: Arc::default(),
        positions: vec![Position { stream: "s".to_owned(), progress: Arc::clone(&progress) }],
        batch_size,
        flush: Duration::from_secs(3),
        stop: stop.clone(),
    };
    let task = tokio::spawn(batcher.run(collected));
    Fixture { ends, progress, sender, stop, task }
}

impl Fixture {
    async fn ticket(&self, n: usize) -> Ticket {
        self.progress.begin(&Arc::from(format!("e{n}"))).await
    }

    async fn tweet(&self, n: usize) {
        let document = Document { id: format!("t{n}"), json: format!("{{\"n\":{n}}}") };
        let user = Document { id: "u".to_owned(), json: "{}".to_owned() };
        let counts = EngagementCounts { favorite_count: 0, retweet_count: 0, followers_count: 0 };
        let engagement = UserEngagement { user: "u".to_owned(), tweet: document.id.clone(), score: 0.0, counts };
        let scored = ScoredTweet { document, user, engagement, tagged: None, ticket: self.ticket(n).await };
        self.sender.send(Collected::Tweet(Box::new(scored))).await.unwrap();
    }

    fn batches(&self) -> Vec<(usize, Vec<String>)> {
        let batches = self.ends.batches.lock().unwrap();
        batches
            .iter()
            .map(|batch| (batch.tweets.len(), batch.cursors.iter().map(|one| one.last_event_id.clone()).collect()))
            .collect()
    }

    async fn until(&self, condition: impl Fn(&Self) -> bool) {
        let wait = async {
            while !condition(self) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout_at(Instant::now() + PATIENCE, wait).await.expect("it happens in the end");
    }

    async fn end(self) -> Arc<Ends> {
        drop(self.sender);
        timeout_at(Instant::now() + PATIENCE, self.task).await.unwrap().unwrap();
        self.ends
    }
}

fn cursors(ids: &[&str]) -> Vec<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_stored_when_it_is_full_or_old_and_cursors_come_after_it() {
    let fixture = start(3, Ends::default());
    for n in 1..=4 {
        fixture.tweet(n).await;
    }
    fixture.until(|fixture| fixture.batches().len() == 1).await;
    let began = Instant::now();
    fixture.until(|fixture| fixture.batches().len() == 2).await;
    assert!(began.elapsed() >= Duration::from_secs(2), "the second batch waited for more");
    // No more input arrives: the cursor of the last batch is stored by itself.
    fixture.until(|fixture| fixture.batches().len() == 3).await;
    let expected = [(3, cursors(&[])), (1, cursors(&["e3"])), (0, cursors(&["e4"]))];
    assert_eq!(fixture.batches(), expected);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(fixture.batches(), expected, "nothing has changed, so nothing is stored");
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_is_down_gets_the_same_batch_again_until_it_takes_it() {
    let fixture = start(2, Ends { failures: AtomicU64::new(20), ..Ends::default() });
    fixture.tweet(1).await;
    fixture.tweet(2).await;
    fixture.until(|fixture| fixture.ends.failures.load(Ordering::SeqCst) == 10).await;
    assert_eq!(&*fixture.progress.cursor(), "", "the cursor does not move before");
    fixture.until(|fixture| &*fixture.progress.cursor() == "e2").await;
    assert_eq!(fixture.batches().first(), Some(&(2, cursors(&[]))));
    // During this time, no more is accepted than channel and batch hold; here, the end stores the cursor.
    let ends = fixture.end().await;
    assert_eq!(ends.batches.lock().unwrap().last().unwrap().cursors[0].last_event_id, "e2");
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_fails_during_shutdown_is_read_again() {
    let fixture = start(2, Ends { failures: AtomicU64::new(u64::MAX), ..Ends::default() });
    fixture.tweet(1).await;
    fixture.tweet(2).await;
    fixture.until(|fixture| fixture.ends.failures.load(Ordering::SeqCst) < u64::MAX).await;
    fixture.stop.cancel();
    let progress = Arc::clone(&fixture.progress);
    let ends = fixture.end().await;
    assert!(ends.batches.lock().unwrap().is_empty());
    assert_eq!(&*progress.cursor(), "");
}

#[tokio::test(start_paused = true)]
async fn poison_goes_to_the_dead_letters_with_its_reason_and_holds_up_nothing() {
    let ends =
        Ends { broker_failures: AtomicU64::new(3), poison: Mutex::new(Some("t1".to_owned())), ..Ends::default() };
    let fixture = start(3, ends);
    fixture.tweet(1).await;
    let bad =
        Poison { collection: None, id: "e2".to_owned(), document: "[1]".to_owned(), reason: "no tweet".to_owned() };
    fixture.sender.send(Collected::Rejected(bad, fixture.ticket(2).await)).await.unwrap();
    let long = "é".repeat(200_000);
    let bad = Poison { collection: None, id: "e3".to_owned(), document: long.clone(), reason: "long".to_owned() };
    fixture.sender.send(Collected::Rejected(bad, fixture.ticket(3).await)).await.unwrap();
    fixture.until(|fixture| &*fixture.progress.cursor() == "e3").await;
    let ends = fixture.end().await;
    let letters: Vec<serde_json::Value> =
        ends.letters.lock().unwrap().iter().map(|letter| serde_json::from_str(letter).unwrap()).collect();
    let msg = |n: usize| letters[n]["msg"].clone();
    assert_eq!(letters.len(), 3);
    assert_eq!(
        msg(0),
        serde_json::json!({"collection": null, "id": "e2", "reason": "no tweet", "document": "[1]", "truncated": false})
    );
    assert_eq!(
        (msg(1)["truncated"].as_bool(), msg(1)["document"].as_str().map(|text| long.starts_with(text))),
        (Some(true), Some(true))
    );
    assert_eq!(
        msg(2),
        serde_json::json!({"collection": "tweets", "id": "t1", "reason": "too \"large\"", "document": "{\"n\":1}", "truncated": false})
    );
    let ids: std::collections::BTreeSet<&str> = letters.iter().map(|letter| letter["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 3);
}
