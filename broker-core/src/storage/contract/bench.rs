//! A storage in a temporary directory, opened again and again, and the state it is expected to hold.

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

/// The time after which the suite gives up. Generous, since only a hang should reach it.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A topic name.
#[must_use]
pub fn topic(name: &str) -> TopicName {
    TopicName::new(name).expect("a good name")
}

/// A subscription name.
#[must_use]
pub fn subscription(name: &str) -> SubscriptionName {
    SubscriptionName::new(name).expect("a good name")
}

/// An event key.
#[must_use]
pub fn key(priority: i32, seq: u64) -> EventKey {
    EventKey { priority: Priority(priority), seq: Seq(seq) }
}

/// An event with a message of about `bytes` bytes.
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

/// A mutation that creates a subscription.
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

/// A janitor that refuses: without an engine the holders of events are unknown.
struct Refusing;

impl Janitor for Refusing {
    fn rewrite(
        &self,
        _events: Vec<(StoredEvent, Place)>,
    ) -> Pin<Box<dyn Future<Output = Result<(), StorageError>> + Send + 'static>> {
        Box::pin(async { Err(StorageError::new(StorageErrorKind::Failed, "the holders of these events are unknown")) })
    }
}

/// Waits for a commit to be written and durable, and returns the places.
pub async fn durable(commit: Commit) -> Vec<Place> {
    let both = async {
        let places = commit.written.await.expect("it is written");
        commit.durable.await.expect("it is durable");
        places
    };
    tokio::time::timeout(PATIENCE, both).await.expect("a commit completes")
}

/// A storage, its directory, and its expected state.
pub struct Bench<B: ContractBackend> {
    dir: TempDir,
    storage: Option<Arc<B::Storage>>,
    /// The expected state, and the places reported for events.
    pub expected: Model,
    /// The report of the last recovery.
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

    /// The data directory, which the storage creates itself.
    #[must_use]
    pub fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("data")
    }

    /// The open storage.
    #[must_use]
    pub fn storage(&self) -> &Arc<B::Storage> {
        self.storage.as_ref().expect("it is open")
    }

    /// Commits mutations, waits until they are durable, and adds them to the expected state. Returns the places of their events.
    pub async fn commit(&mut self, mutations: Vec<Mutation>) -> Vec<Place> {
        self.expect(&mutations);
        let keys: Vec<_> = mutations.iter().filter_map(placed).collect();
        let places = durable(self.storage().submit(Batch { mutations })).await;
        assert_eq!(places.len(), keys.len(), "one place for each event of the batch");
        self.expected.places.extend(keys.into_iter().zip(places.iter().copied()));
        places
    }

    /// Adds mutations to the expected state that were submitted by other means.
    pub fn expect(&mut self, mutations: &[Mutation]) {
        mutations.iter().for_each(|mutation| self.expected.apply(mutation));
    }

    /// The key for reading an event, with the place that the storage reported.
    #[must_use]
    pub fn read_key(&self, topic_name: &str, key: EventKey) -> ReadKey {
        let place = self.expected.places.get(&(topic_name.to_owned(), key.seq.0)).copied().unwrap_or_default();
        ReadKey { topic: topic(topic_name), key, place }
    }

    /// Opens the directory and recovers. Returns the state that was handed back.
    fn start(&mut self) -> Model {
        let storage = open_patiently::<B>(&self.path());
        let mut found = Model::default();
        self.report = tokio::task::block_in_place(|| storage.recover(&mut found)).expect("it recovers");
        storage.start(Arc::new(Refusing));
        self.storage = Some(Arc::new(storage));
        found
    }

    /// Closes the storage and opens it again. Returns the state that was handed back.
    pub async fn close_and_reopen(&mut self) -> Model {
        self.close().await;
        self.start()
    }

    /// Closes the storage.
    pub async fn close(&mut self) {
        let storage = self.storage.take().expect("it is open");
        tokio::time::timeout(PATIENCE, storage.close()).await.expect("closing ends").expect("the last sync succeeds");
    }

    /// Drops the storage without closing it and opens it again. Returns the state that was handed back.
    pub fn drop_and_reopen(&mut self) -> Model {
        let storage = Arc::into_inner(self.storage.take().expect("it is open")).expect("it is not shared");
        tokio::task::block_in_place(|| drop(storage));
        self.start()
    }

    /// Closes the storage, opens it again, and checks that it hands back the expected state. The places are then those handed back.
    pub async fn check_after_close(&mut self, when: &str) {
        let found = self.close_and_reopen().await;
        self.check(found, when);
    }

    /// Like [`Bench::check_after_close`], without closing.
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

/// Opens the directory, waiting a moment for its previous owner to release the lock.
pub fn open_patiently<B: ContractBackend>(dir: &Path) -> B::Storage {
    let began = Instant::now();
    loop {
        match B::open(dir) {
            Ok(storage) => return storage,
            Err(error) if error.kind() == StorageErrorKind::Locked && began.elapsed() < Duration::from_secs(10) => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) => panic!("it does not open: {}", crate::error_chain(&error)),
        }
    }
}

/// The size of all files below `dir`, in bytes.
#[must_use]
pub fn disk_bytes(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => disk_bytes(&entry.path()),
        // Space that is kept back for a full disk is no event's.
        Ok(_) if entry.file_name() == "reserve" => 0,
        Ok(metadata) => metadata.len(),
        // It may be removed while the directory is read.
        Err(_) => 0,
    };
    entries.map(size).sum()
}

/// All files below `dir` with their contents, by name.
#[must_use]
pub fn files(dir: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => found.extend(files(&path)),
            // A file may be removed while the directory is read.
            _ => found.extend(std::fs::read(&path).ok().map(|bytes| (path, bytes))),
        }
    }
    found.sort();
    found
}
