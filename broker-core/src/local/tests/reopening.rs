//! What clients and sources see when the storage fails and is opened again.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::local::{Reopening, ReopeningEngine};
use crate::storage::{RecoveryReport, Storage, StorageError, StorageErrorKind};

/// A storage that can be opened again, after as many failed attempts as a test wants.
#[derive(Clone, Default)]
struct Disk {
    /// The one that is open.
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

/// Takes what comes until the link ends.
async fn until_it_ends(client: &mut Client) {
    let ending = async { while client.link.events.recv().await.is_some() {} };
    tokio::time::timeout(Duration::from_secs(20), ending).await.expect("the link ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_storage_is_opened_again_and_what_was_confirmed_is_there() {
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
    // While it is out of service, whoever asks is told why.
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
    assert_eq!(again.delivery().await, ("later".into(), 0), "what was refused is not there");
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_safe_when_the_storage_failed_is_not_confirmed_afterwards() {
    let disk = Disk::default();
    let (engine, _) = disk.engine().await;
    let mut client = Client::new(&engine);
    client.subscribe("t", Some("s"), 1).await;
    // Written, and never synced.
    disk.current().hold(false, true);
    client.publish("t", "in doubt", 0, true).await;
    client.nothing_comes().await;
    let first = disk.current();
    first.fail();
    client.publish("t", "refused", 0, true).await;
    // The second one fails first; the first is decided when the storage is closed.
    first.fail_held();
    for slot in [2, 4] {
        let refused = client.next().await;
        let unavailable = matches!(&refused, Seen::Outcome(_, Outcome::Refused(Refusal::Unavailable(_))));
        assert!(unavailable, "{slot}: {refused:?}");
    }
    back_in_service(&engine).await;
    until_it_ends(&mut client).await;
    // It may be there or not; here it is.
    let mut again = Client::new(&engine);
    again.subscribe("t", Some("s"), 5).await;
    assert_eq!(again.delivery().await, ("in doubt".into(), 0));
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_goes_on_by_itself_and_its_cursor_is_that_of_what_was_stored() {
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
async fn closing_does_not_wait_for_a_storage_that_cannot_be_opened() {
    let disk = Disk::default();
    let (engine, _) = disk.engine().await;
    disk.refusals.store(usize::MAX, Ordering::SeqCst);
    disk.current().fail();
    assert!(
        engine.publish(vec![(topic("t"), event("t", "a", 0))], None).await.is_ok(),
        "nobody is there to keep it for"
    );
    Client::new(&engine).send(vec![Op::Subscribe { topic: topic("t"), name: sub("s"), prefetch: 1 }]).await;
    tokio::time::timeout(Duration::from_secs(20), engine.close()).await.expect("it closes");
}
