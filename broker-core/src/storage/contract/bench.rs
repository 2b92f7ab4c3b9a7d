//! A storage in a directory of its own, opened again and again, and what is expected of it.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{ContractBackend, Model};
use crate::event::{EventKey, Millis, Payload, Priority, Seq};
use crate::name::{SubscriptionName, TopicName};
use crate::storage::{
    Batch, Commit, Janitor, Mutation, Place, ReadKey, RecoveryReport, Storage, StorageError, StorageErrorKind,
    StoredEvent,
};

/// How long anything may take before the suite gives up. Generous: a hang is the only failure that it finds.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A topic's name.
#[must_use]
pub fn topic(name: &str) -> TopicName {
    TopicName::new(name).expect("a good name")
}

/// A subscription's name.
#[must_use]
pub fn subscription(name: &str) -> SubscriptionName {
    SubscriptionName::new(name).expect("a good name")
}

/// An event's key.
#[must_use]
pub fn key(priority: i32, seq: u64) -> EventKey {
    EventKey { priority: Priority(priority), seq: Seq(seq) }
}

/// An event whose message has about `bytes` bytes.
#[must_use]
pub fn event(topic_name: &str, priority: i32, seq: u64, bytes: usize) -> StoredEvent {
    let msg = format!("\"{seq} {}\"", "x".repeat(bytes));
    StoredEvent {
        topic: topic(topic_name),
        key: key(priority, seq),
        published_at: Millis(1_700_000_000_000 + seq),
        expires_at: None,
        due_at: None,
        payload: Payload::encode(topic_name, Priority(priority), &msg, &format!("id-{seq}")),
    }
}

/// A mutation that makes a subscription.
#[must_use]
pub fn subscribe(topic_name: &str, name: &str, since: u64) -> Mutation {
    Mutation::Subscribe { topic: topic(topic_name), subscription: subscription(name), since: Seq(since) }
}

/// A mutation that settles events of priority 0.
#[must_use]
pub fn settle(topic_name: &str, name: &str, seqs: impl IntoIterator<Item = u64>) -> Mutation {
    let events = seqs.into_iter().map(|seq| key(0, seq)).collect();
    Mutation::Settle { topic: topic(topic_name), subscription: subscription(name), events }
}

/// A mutation that moves a cursor.
#[must_use]
pub fn cursor(source: &str, value: impl ToString) -> Mutation {
    Mutation::Cursor { source: source.to_owned(), value: value.to_string() }
}

/// Puts moving events off: without an engine nobody knows who holds them.
struct NobodyKnows;

impl Janitor for NobodyKnows {
    fn rewrite(
        &self,
        _events: Vec<(StoredEvent, Place)>,
    ) -> Pin<Box<dyn Future<Output = Result<(), StorageError>> + Send + 'static>> {
        Box::pin(async { Err(StorageError::new(StorageErrorKind::Failed, "nobody knows who holds these events")) })
    }
}

/// Waits for a commit to be written and safe, and returns the places.
pub async fn safe(commit: Commit) -> Vec<Place> {
    let both = async {
        let places = commit.written.await.expect("it is written");
        commit.safe.await.expect("it is safe");
        places
    };
    tokio::time::timeout(PATIENCE, both).await.expect("a commit completes")
}

/// A storage, its directory, and what is expected to be in it.
pub struct Bench<B: ContractBackend> {
    dir: TempDir,
    storage: Option<Arc<B::Storage>>,
    /// What was submitted, and where it was put.
    pub expected: Model,
    /// What the last recovery reported.
    pub report: RecoveryReport,
}

impl<B: ContractBackend> Bench<B> {
    /// A new, empty, recovered storage.
    #[must_use]
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let mut bench = Self { dir, storage: None, expected: Model::default(), report: RecoveryReport::default() };
        let found = bench.start();
        Model::default().assert_same(&found, "a new storage");
        bench
    }

    /// The data directory; the storage made it itself.
    #[must_use]
    pub fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("data")
    }

    /// The open storage.
    #[must_use]
    pub fn storage(&self) -> &Arc<B::Storage> {
        self.storage.as_ref().expect("it is open")
    }

    /// Submits mutations, waits until they are safe, and expects them from now on. Returns the places of their events.
    pub async fn commit(&mut self, mutations: Vec<Mutation>) -> Vec<Place> {
        self.expect(&mutations);
        let keys: Vec<_> = mutations.iter().filter_map(placed).collect();
        let places = safe(self.storage().submit(Batch { mutations })).await;
        assert_eq!(places.len(), keys.len(), "one place for each event of the batch");
        self.expected.places.extend(keys.into_iter().zip(places.iter().copied()));
        places
    }

    /// Expects what was submitted otherwise.
    pub fn expect(&mut self, mutations: &[Mutation]) {
        mutations.iter().for_each(|mutation| self.expected.apply(mutation));
    }

    /// Names an event for reading, where the storage said that it is.
    #[must_use]
    pub fn read_key(&self, topic_name: &str, key: EventKey) -> ReadKey {
        let place = self.expected.places.get(&(topic_name.to_owned(), key.seq.0)).copied().unwrap_or_default();
        ReadKey { topic: topic(topic_name), key, place }
    }

    /// Opens the directory and recovers; returns what came back.
    fn start(&mut self) -> Model {
        let storage = open_patiently::<B>(&self.path());
        let mut found = Model::default();
        self.report = tokio::task::block_in_place(|| storage.recover(&mut found)).expect("it recovers");
        storage.start(Arc::new(NobodyKnows));
        self.storage = Some(Arc::new(storage));
        found
    }

    /// Closes the storage and opens it again; returns what came back.
    pub async fn close_and_reopen(&mut self) -> Model {
        self.close().await;
        self.start()
    }

    /// Closes the storage.
    pub async fn close(&mut self) {
        let storage = self.storage.take().expect("it is open");
        tokio::time::timeout(PATIENCE, storage.close()).await.expect("closing ends").expect("the last sync succeeds");
    }

    /// Drops the storage without closing it and opens it again; returns what came back.
    pub fn drop_and_reopen(&mut self) -> Model {
        let storage = Arc::into_inner(self.storage.take().expect("it is open")).expect("nobody else has it");
        tokio::task::block_in_place(|| drop(storage));
        self.start()
    }

    /// Closes, opens again, and compares what came back with what is expected. From here on places are those handed back.
    pub async fn check_after_close(&mut self, when: &str) {
        let found = self.close_and_reopen().await;
        self.check(found, when);
    }

    /// The same without closing.
    pub fn check_after_drop(&mut self, when: &str) {
        let found = self.drop_and_reopen();
        self.check(found, when);
    }

    fn check(&mut self, found: Model, when: &str) {
        assert_eq!((self.report.damaged, self.report.torn_bytes), (0, 0), "{when}: nothing is damaged");
        self.expected.assert_same(&found, when);
        self.expected.places = found.places;
    }
}

impl<B: ContractBackend> Default for Bench<B> {
    fn default() -> Self {
        Self::new()
    }
}

fn placed(mutation: &Mutation) -> Option<(String, u64)> {
    match mutation {
        Mutation::Publish(event) | Mutation::Rewrite { event, .. } => Some((event.topic.to_string(), event.key.seq.0)),
        _ => None,
    }
}

/// Opens the directory; whoever let go of it may need a moment to do so.
pub fn open_patiently<B: ContractBackend>(dir: &Path) -> B::Storage {
    let began = Instant::now();
    loop {
        match B::open(dir) {
            Ok(storage) => return storage,
            Err(error) if error.kind() == StorageErrorKind::Locked && began.elapsed() < Duration::from_secs(10) => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) => panic!("it does not open: {error}"),
        }
    }
}

/// What all files below `dir` take, in bytes.
#[must_use]
pub fn disk_bytes(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => disk_bytes(&entry.path()),
        Ok(metadata) => metadata.len(),
        // It may go while the directory is read.
        Err(_) => 0,
    };
    entries.map(size).sum()
}

/// All files below `dir` with what is in them, by name.
#[must_use]
pub fn files(dir: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => found.extend(files(&path)),
            // A file may go while the directory is read.
            _ => found.extend(std::fs::read(&path).ok().map(|bytes| (path, bytes))),
        }
    }
    found.sort();
    found
}
