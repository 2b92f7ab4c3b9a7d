//! Recovery: replays names, then events in order, then settlements and redeliveries, then cursors, one record at a time.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use backend_embedded::{Subscription, Topic};
use broker_core::event::{EventKey, Seq};
use broker_core::name::{SubscriptionName, TopicName};
use broker_core::settings::OnDamage;
use broker_core::storage::{Mutation, Place, Recovery, RecoveryReport, Redelivery, StorageError};

use crate::database::{Database, Pace};
use crate::error::SledError;
use crate::keys::{self, Kind};
use crate::names::{Names, Source};
use crate::record::{self, Exception};
use crate::storage::SledDatabase;
use crate::{compaction, directory, reads, sync_mark};

/// The most settlements in one mutation.
const PAGE: usize = 1024;

/// How far a topic's sequence skips ahead if both records of it are lost: more than can have been used since the latest event left.
pub(crate) const LEAP: u64 = 1 << 40;

/// Opens the current database and replays its content into `recovery`.
pub(crate) fn recover(
    shared: &SledDatabase,
    recovery: &mut dyn Recovery,
) -> Result<(RecoveryReport, Names, Arc<Database>), StorageError> {
    let dir = &shared.config.path;
    let (path, is_new) = directory::current(dir)?;
    // sled panics on most damage in its file.
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let open = |path: &Path| Database::open(path, shared.config.cache_bytes);
        if is_new {
            directory::make_first(dir, &path, |draft| open(draft).map(drop))?;
        }
        open(&path)
    }));
    let database = opened.map_err(|_panic| SledError::Panicked { path: path.clone() })??;
    directory::set_current(dir, &path)?;
    let synced = if is_new { None } else { sync_mark::read(dir) };
    let read = catch_unwind(AssertUnwindSafe(|| hand_back(shared, &database, recovery, synced)));
    let (report, names) = read.map_err(|_panic| SledError::Panicked { path })??;
    let mut database = Arc::new(database);
    if compaction::is_worth_it_at_start(&database, report.bytes) {
        match compaction::compact(&shared.config, &database) {
            Ok(new) => {
                compaction::discard(&database.path);
                database = new;
            }
            // The old database is unchanged.
            Err(error) if directory::is_current(&shared.config.path, &database.path) => {
                tracing::warn!(%error, "compaction failed; the database is kept as it is");
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok((report, names, database))
}

fn hand_back(
    shared: &SledDatabase,
    database: &Database,
    recovery: &mut dyn Recovery,
    synced: Option<u64>,
) -> Result<(RecoveryReport, Names), StorageError> {
    let mut replay = Replay {
        shared,
        database,
        recovery,
        report: RecoveryReport::default(),
        topics: HashMap::new(),
        subscriptions: HashMap::new(),
    };
    let mut names = replay.names()?;
    names.group = replay.group(synced)?;
    replay.events()?;
    replay.exceptions()?;
    replay.cursors()?;
    Ok((replay.report, names))
}

struct Replay<'r> {
    shared: &'r SledDatabase,
    database: &'r Database,
    recovery: &'r mut dyn Recovery,
    report: RecoveryReport,
    topics: HashMap<u32, TopicName>,
    subscriptions: HashMap<(u32, u32), SubscriptionName>,
}

/// The bodies of records that are stored twice, by the key of the first copy.
type Bodies = BTreeMap<Vec<u8>, Vec<u8>>;

impl Replay<'_> {
    fn trouble(&self, source: sled::Error) -> StorageError {
        SledError::sled("read", &self.database.path, source).into()
    }

    fn hand_back(&mut self, mutation: Mutation) -> Result<(), StorageError> {
        self.report.records += 1;
        self.recovery.replay(mutation, Place::default())
    }

    fn damage(&mut self, key: &[u8], what: &str) -> Result<(), StorageError> {
        let place = keys::describe(key);
        self.report.damaged += 1;
        self.shared.state.damage(&place, what);
        match self.shared.config.on_damage {
            OnDamage::Serve => Ok(()),
            OnDamage::Stop => {
                let (path, what) = (self.database.path.clone(), what.to_owned());
                Err(SledError::Damaged { path, place, what }.into())
            }
        }
    }

    /// Reads all records of a kind that is stored twice; one valid copy of each is enough.
    fn both(&mut self, kind: Kind) -> Result<Bodies, StorageError> {
        let mut bodies = Bodies::new();
        let tree = &*self.database.db;
        for prefix in [keys::all(kind), keys::all_copies(kind)] {
            for item in tree.scan_prefix(prefix) {
                let (key, value) = item.map_err(|source| self.trouble(source))?;
                self.report.bytes += (key.len() + value.len()) as u64;
                let body = match kind {
                    Kind::Source => reads::assemble(tree, &key, &value).map_err(|source| self.trouble(source))?,
                    _ => record::unseal(&key, &value).map(<[u8]>::to_vec),
                };
                match body {
                    Ok(body) => drop(bodies.entry(keys::original(&key)).or_insert(body)),
                    Err(what) => self.damage(&key, what)?,
                }
            }
        }
        Ok(bodies)
    }

    /// Replays topics with their latest sequences, then subscriptions.
    fn names(&mut self) -> Result<Names, StorageError> {
        let mut names = Names::default();
        let numbers = self.both(Kind::Numbers)?;
        names.numbers = numbers.values().find_map(|body| record::decode_numbers(body)).unwrap_or_default();
        let last_seqs = self.both(Kind::LastSeq)?;
        for (key, body) in self.both(Kind::Topic)? {
            let name = record::decode_named(&body).and_then(|(name, _)| TopicName::new(name).ok());
            let (Some(name), Some(number)) = (name, keys::u32_at(&key, 1)) else {
                self.damage(&key, "it is not a topic")?;
                continue;
            };
            let stored = last_seqs.get(&keys::last_seq(number)).and_then(|body| record::decode_number(body));
            let latest = self.latest_event(number)?;
            let last_seq = stored.map_or(latest.saturating_add(LEAP), |stored| stored.max(latest));
            names.numbers.topic = names.numbers.topic.max(number + 1);
            self.topics.insert(number, name.clone());
            self.hand_back(Mutation::Topic { topic: name.clone(), last_seq: Seq(last_seq) })?;
            names.topics.insert(name.clone(), Topic::new(number, last_seq));
            if stored != Some(last_seq) {
                names.topics.set_last_seq(&name, last_seq);
            }
        }
        for (key, body) in self.both(Kind::Subscription)? {
            let named = record::decode_named(&body);
            let named = named.and_then(|(name, since)| Some((SubscriptionName::new(name).ok()?, since)));
            let numbers = keys::u32_at(&key, 1).zip(keys::u32_at(&key, 5));
            let (Some((name, since)), Some((topic_number, number))) = (named, numbers) else {
                self.damage(&key, "it is not a subscription")?;
                continue;
            };
            names.numbers.subscription = names.numbers.subscription.max(number + 1);
            let topic_name = self.topics.get(&topic_number).cloned();
            let Some((topic_name, topic)) =
                topic_name.and_then(|name| Some((name.clone(), names.topics.get_mut(&name)?)))
            else {
                self.damage(&key, "the name of its topic is lost")?;
                continue;
            };
            topic.subscriptions.insert(name.clone(), Subscription { id: number, since });
            self.subscriptions.insert((topic_number, number), name.clone());
            self.hand_back(Mutation::Subscribe { topic: topic_name, subscription: name, since: Seq(since) })?;
        }
        names.has_parts = self.database.db.scan_prefix(keys::parts(&[])).next().is_some();
        names.sources = self.sources(&mut names.numbers.source)?;
        Ok(names)
    }

    /// The number of the latest group. Reports damage if it is older than the sync mark.
    fn group(&mut self, synced: Option<u64>) -> Result<u64, StorageError> {
        let key = keys::group();
        let value = self.database.db.get(&key).map_err(|source| self.trouble(source))?;
        let group = match value.as_ref().map(|value| record::unseal(&key, value)) {
            None => 0,
            Some(Ok(body)) => record::decode_number(body).unwrap_or_default(),
            Some(Err(what)) => {
                self.damage(&key, what)?;
                return Ok(synced.unwrap_or_default());
            }
        };
        if let Some(missing) = synced.and_then(|synced| synced.checked_sub(group)).filter(|missing| *missing > 0) {
            let what = format!("sled went back to an earlier state: the last {missing} groups of batches are missing");
            self.damage(&key, &what)?;
        }
        Ok(group.max(synced.unwrap_or_default()))
    }

    fn latest_event(&self, topic: u32) -> Result<u64, StorageError> {
        let last = self.database.db.range(keys::event(topic, 0)..=keys::event(topic, u64::MAX)).next_back();
        let last = last.transpose().map_err(|source| self.trouble(source))?;
        Ok(last.and_then(|(key, _)| keys::seq_of(&key)).unwrap_or_default())
    }

    fn events(&mut self) -> Result<(), StorageError> {
        let tree = &*self.database.db;
        let mut pace = Pace::default();
        for item in tree.scan_prefix(keys::all(Kind::Event)) {
            let (key, value) = item.map_err(|source| self.trouble(source))?;
            pace.read(tree, &key, value.len()).map_err(|source| self.trouble(source))?;
            self.report.bytes += (key.len() + value.len()) as u64;
            let Some(topic) = keys::u32_at(&key, 1).and_then(|number| self.topics.get(&number)) else {
                self.damage(&key, "the name of its topic is lost")?;
                continue;
            };
            match reads::event(tree, &key, &value, topic).map_err(|source| self.trouble(source))? {
                Ok(event) => {
                    // Its parts are counted here, because they are stored under other keys.
                    let len = event.payload.len();
                    self.report.bytes += len.saturating_sub(value.len()) as u64;
                    self.hand_back(Mutation::Publish(event))?;
                }
                Err(what) => self.damage(&key, what)?,
            }
        }
        Ok(())
    }

    /// Replays settlements and redeliveries, in pages.
    fn exceptions(&mut self) -> Result<(), StorageError> {
        let mut settled: BTreeMap<(u32, u32), Vec<EventKey>> = BTreeMap::new();
        let mut redeliveries: BTreeMap<(u32, u32), Vec<Redelivery>> = BTreeMap::new();
        let mut gathered = 0;
        for item in self.database.db.scan_prefix(keys::all(Kind::Exception)) {
            let (key, value) = item.map_err(|source| self.trouble(source))?;
            self.report.bytes += (key.len() + value.len()) as u64;
            // A damaged record is skipped: its event is delivered again rather than lost.
            let exception = record::unseal(&key, &value)
                .and_then(|body| record::decode_exception(body).ok_or("it is neither settled nor requeued"));
            let numbers = keys::u32_at(&key, 1).zip(keys::u32_at(&key, 13)).zip(keys::seq_of(&key));
            match (exception, numbers) {
                (Ok(exception), Some((of, seq))) => {
                    let seq = Seq(seq);
                    match exception {
                        Exception::Settled { priority } => {
                            settled.entry(of).or_default().push(EventKey { priority, seq });
                        }
                        Exception::Redelivery { priority, deliveries, due_at, grace_ms } => {
                            let key = EventKey { priority, seq };
                            redeliveries.entry(of).or_default().push(Redelivery { key, deliveries, due_at, grace_ms });
                        }
                    }
                }
                (Err(what), _) => self.damage(&key, what)?,
                (Ok(_), None) => self.damage(&key, "its key is too short")?,
            }
            gathered += 1;
            if gathered == PAGE {
                self.hand_back_exceptions(&mut settled, &mut redeliveries)?;
                gathered = 0;
            }
        }
        self.hand_back_exceptions(&mut settled, &mut redeliveries)
    }

    fn hand_back_exceptions(
        &mut self,
        settled: &mut BTreeMap<(u32, u32), Vec<EventKey>>,
        redeliveries: &mut BTreeMap<(u32, u32), Vec<Redelivery>>,
    ) -> Result<(), StorageError> {
        for (of, events) in std::mem::take(settled) {
            if let Some((topic, subscription)) = self.named(of) {
                self.hand_back(Mutation::Settle { topic, subscription, events })?;
            }
        }
        for (of, events) in std::mem::take(redeliveries) {
            if let Some((topic, subscription)) = self.named(of) {
                self.hand_back(Mutation::Redeliver { topic, subscription, events })?;
            }
        }
        Ok(())
    }

    /// The names of a topic and subscription. `None` for a removed subscription, whose records stay until their events are released.
    fn named(&self, (topic, subscription): (u32, u32)) -> Option<(TopicName, SubscriptionName)> {
        Some((self.topics.get(&topic)?.clone(), self.subscriptions.get(&(topic, subscription))?.clone()))
    }

    fn sources(&mut self, next: &mut u32) -> Result<HashMap<String, Source>, StorageError> {
        let mut sources = HashMap::new();
        for (key, body) in self.both(Kind::Source)? {
            let (Some((name, _)), Some(number)) = (record::decode_cursor(&body), keys::u32_at(&key, 1)) else {
                self.damage(&key, "it is not a cursor")?;
                continue;
            };
            *next = (*next).max(number + 1);
            let parts = body.len().div_ceil(record::PART_BYTES).saturating_sub(1);
            let parts = u16::try_from(parts).unwrap_or(u16::MAX);
            sources.insert(name.to_owned(), Source { number, parts });
        }
        Ok(sources)
    }

    fn cursors(&mut self) -> Result<(), StorageError> {
        // Read again rather than kept in memory; damage was already reported the first time.
        let tree = &*self.database.db;
        let mut handed_back = std::collections::HashSet::new();
        for prefix in [keys::all(Kind::Source), keys::all_copies(Kind::Source)] {
            for item in tree.scan_prefix(prefix) {
                let (key, value) = item.map_err(|source| self.trouble(source))?;
                let body = reads::assemble(tree, &key, &value).map_err(|source| self.trouble(source))?;
                if let Some((source, value)) = body.as_deref().ok().and_then(record::decode_cursor)
                    && handed_back.insert(source.to_owned())
                {
                    self.hand_back(Mutation::Cursor { source: source.to_owned(), value: value.to_owned() })?;
                }
            }
        }
        Ok(())
    }
}
