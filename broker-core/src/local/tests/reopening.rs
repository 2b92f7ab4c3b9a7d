//! Clients and sources while the storage fails and is reopened.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::engine::Cursor;
use crate::local::{Reopening, ReopeningEngine};
use crate::storage::{RecoveryReport, Storage, StorageError, StorageErrorKind};

/// A storage that can be reopened, after as many failed attempts as a test asks for.
#[derive(Clone, Default)]
struct Disk {
    /// The open storage.
    current: Arc<Mutex<Arc<MemoryStorage>>>,
    refusals: Arc<AtomicUsize>,
    attempts: Arc<AtomicUsize>,
}

impl Disk {
    fn current(&self) -> Arc<MemoryStorage> {
        Arc::clone(&self.current.lock().unwrap())
    }

    fn reopen(&self) -> Result<Arc<dyn Storage>, StorageError> {
        self.attempts.fetch_add(1, Ordering::SeqCst);
        let fewer = |count: usize| count.checked_sub(1);
        if self.refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fewer).is_ok() {
            return Err(StorageError::new(StorageErrorKind::Full, "still no space left"));
        }
        let mut current = self.current.lock().unwrap();
        *current = Arc::new(current.reopened());
        Ok(Arc::clone(&*current) as Arc<dyn Storage>)
    }

    async fn engine(&self) -> (ReopeningEngine, Arc<Mutex<Vec<RecoveryReport>>>) {
        let (disk, reports) = (self.clone(), Arc::new(Mutex::new(Vec::new())));
        let reported = Arc::clone(&reports);
        let reopening = Reopening {
            first_pause: Duration::from_millis(20),
            longest_pause: Duration::from_millis(80),
            ..Reopening::new(
                Arc::new(move || disk.reopen()),
                Arc::new(move |report| reported.lock().unwrap().push(report.clone())),
            )
        };
        let (engine, _) = ReopeningEngine::open(self.current(), settings(), reopening).await.expect("it recovers");
        (engine, reports)
    }
}

/// Waits until the engine confirms again.
async fn back_in_service(engine: &ReopeningEngine) {
    let waiting = async {
        while engine.health().unavailable.is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("it is back in service");
}

/// Reads output until the link ends.
async fn until_it_ends(client: &mut Client) {
    let ending = async { while client.link.events.recv().await.is_some() {} };
    tokio::time::timeout(Duration::from_secs(20), ending).await.expect("the link ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_storage_is_reopened_with_everything_that_was_confirmed() {
    let disk = Disk::default();
    let (engine, reports) = disk.engine().await;
    let (mut client, mut idle) = (Client::new(&engine), Client::new(&engine));
    client.subscribe("t", Some("s"), 1).await;
    client.publish("t", "confirmed", 0, true).await;
    assert_eq!(client.next().await, Seen::Outcome(2, Outcome::Published { replaced: false }));
    assert_eq!(client.delivery().await, ("confirmed".into(), 0));

    disk.refusals.store(3, Ordering::SeqCst);
    disk.current().fail();
    client.publish("t", "refused", 0, true).await;
    let refused = client.next().await;
    assert!(matches!(refused, Seen::Outcome(3, Outcome::Refused(Refusal::Unavailable(_)))), "{refused:?}");
    // While the storage is out of service, requests are refused with the reason.
    let why = engine.health().unavailable.expect("it is out of service");
    assert!(why.0.contains("no space"), "{why}");
    assert!(engine.publish(vec![(topic("t"), event("t", "source", 0))], None).await.is_err());

    back_in_service(&engine).await;
    assert_eq!(disk.attempts.load(Ordering::SeqCst), 4);
    assert_eq!(reports.lock().unwrap().len(), 1);
    until_it_ends(&mut client).await;
    until_it_ends(&mut idle).await;

    let mut again = Client::new(&engine);
    again.subscribe("t", Some("s"), 5).await;
    assert_eq!(again.delivery().await.0, "confirmed");
    again.publish("t", "later", 0, true).await;
    assert_eq!(again.next().await, Seen::Outcome(2, Outcome::Published { replaced: false }));
    assert_eq!(again.delivery().await, ("later".into(), 0), "a refused event is not stored");
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_not_durable_at_the_failure_is_not_confirmed_afterwards() {
    let disk = Disk::default();
    let (engine, _) = disk.engine().await;
    let mut client = Client::new(&engine);
    client.subscribe("t", Some("s"), 1).await;
    // Written, but never durable.
    disk.current().hold(false, true);
    client.publish("t", "in doubt", 0, true).await;
    client.nothing_comes().await;
    let first = disk.current();
    first.fail();
    client.publish("t", "refused", 0, true).await;
    // The second event fails first. The first one fails when the storage is closed.
    first.fail_held();
    for slot in [2, 4] {
        let refused = client.next().await;
        let unavailable = matches!(&refused, Seen::Outcome(_, Outcome::Refused(Refusal::Unavailable(_))));
        assert!(unavailable, "{slot}: {refused:?}");
    }
    back_in_service(&engine).await;
    until_it_ends(&mut client).await;
    // The event in doubt may be stored or not. This storage has it.
    let mut again = Client::new(&engine);
    again.subscribe("t", Some("s"), 5).await;
    assert_eq!(again.delivery().await, ("in doubt".into(), 0));
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_continues_after_each_failure_from_the_cursor_that_was_stored() {
    let disk = Disk::default();
    let (engine, _) = disk.engine().await;
    Client::new(&engine).subscribe("t", Some("s"), 1).await;
    let batch = |id: &str| vec![(topic("t"), event("t", id, 0))];
    let cursor = |value: &str| Some(Cursor { source: "feed".into(), value: value.into() });
    engine.publish(batch("1"), cursor("1")).await.expect("stored");
    for round in 2..5 {
        disk.current().fail();
        let id = round.to_string();
        assert!(engine.publish(batch(&id), cursor(&id)).await.is_err());
        back_in_service(&engine).await;
        assert_eq!(engine.cursor("feed").await, Ok(Some((round - 1).to_string())));
        engine.publish(batch(&id), cursor(&id)).await.expect("stored");
    }
    let mut client = Client::new(&engine);
    client.subscribe("t", Some("s"), 10).await;
    for id in 1..5 {
        assert_eq!(client.delivery().await.0, id.to_string());
    }
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_does_not_wait_for_a_storage_that_cannot_be_reopened() {
    let disk = Disk::default();
    let (engine, _) = disk.engine().await;
    disk.refusals.store(usize::MAX, Ordering::SeqCst);
    disk.current().fail();
    assert!(
        engine.publish(vec![(topic("t"), event("t", "a", 0))], None).await.is_ok(),
        "without a subscription nothing is stored"
    );
    Client::new(&engine).send(vec![Op::Subscribe { topic: topic("t"), name: sub("s"), prefetch: 1 }]).await;
    tokio::time::timeout(Duration::from_secs(20), engine.close()).await.expect("it closes");
}

#[tokio::test]
async fn a_failed_storage_confirms_nothing_and_gives_the_reason() {
    let storage = Arc::new(MemoryStorage::default());
    let engine = engine(&storage, settings()).await;
    let mut client = Client::new(&engine);
    client.subscribe("t", Some("s"), 1).await;
    storage.fail();
    for confirm in [true, false] {
        client.publish("t", "a", 0, confirm).await;
        let refused = client.next().await;
        assert!(
            matches!(&refused, Seen::Outcome(_, Outcome::Refused(Refusal::Unavailable(why))) if why.0.contains("no space")),
            "{refused:?}"
        );
    }
    client.send(vec![ack("t", &["a"])]).await;
    let refused = client.next().await;
    assert!(matches!(refused, Seen::Outcome(_, Outcome::Refused(Refusal::Unavailable(_)))), "{refused:?}");
    let batch = vec![(topic("u"), event("u", "x", 0)), (topic("t"), event("t", "x", 0))];
    assert!(engine.publish(batch, None).await.is_err());
    client.nothing_comes().await;
    assert!(engine.health().unavailable.is_some());
}
