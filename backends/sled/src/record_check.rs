//! Checks single records for `herald fsck`: whether a record is intact, and how a repair treats a damaged one.

use std::collections::{BTreeMap, HashMap};

use broker_core::name::{SubscriptionName, TopicName};
use broker_core::storage::StorageError;
use sled::IVec;

use crate::database::{Database, Pace};
use crate::error::SledError;
use crate::keys::{self, COPY, Kind, PART};
use crate::reads;
use crate::record::{self, Bad, Numbers, PART_BYTES};
use crate::recovery::LEAP;

/// The result of checking a record.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The record is intact.
    Good,
    /// The record is damaged, and is removed.
    Out(Bad),
    /// The record is damaged, and these records replace it: its other copy, or safe substitutes.
    Mended(String, Vec<(Vec<u8>, Vec<u8>)>),
}

/// How far the next free numbers skip ahead if both records of them are lost.
const NUMBERS_LEAP: u32 = 1 << 16;

/// Checks the records of a database.
pub(crate) struct RecordChecker<'d> {
    database: &'d Database,
    /// The names of topics by number, from either copy.
    topics: HashMap<u32, TopicName>,
    /// The numbers in use.
    numbers: Numbers,
    /// The latest group known to be synced.
    synced: Option<u64>,
}

/// Called with each record and its verdict.
pub(crate) type Visit<'v> = &'v mut dyn FnMut(&[u8], &IVec, Verdict) -> Result<(), StorageError>;

impl<'d> RecordChecker<'d> {
    /// Creates a checker and reads the names.
    pub(crate) fn new(database: &'d Database, synced: Option<u64>) -> Result<Self, SledError> {
        let mut checker = Self { database, topics: HashMap::new(), numbers: Numbers::default(), synced };
        for kind in [Kind::Topic, Kind::Subscription, Kind::Source] {
            for prefix in [keys::all(kind), keys::all_copies(kind)] {
                for item in database.db.scan_prefix(prefix) {
                    let (key, value) = item.map_err(|source| checker.trouble(source))?;
                    checker.name(kind, &key, &value);
                }
            }
        }
        Ok(checker)
    }

    fn trouble(&self, source: sled::Error) -> SledError {
        SledError::sled("read", &self.database.path, source)
    }

    fn name(&mut self, kind: Kind, key: &[u8], value: &[u8]) {
        let number = |at| keys::u32_at(key, at).unwrap_or_default().saturating_add(1);
        match kind {
            Kind::Topic => {
                self.numbers.topic = self.numbers.topic.max(number(1));
                let name = record::unseal(key, value).ok().and_then(record::decode_named);
                if let Some((number, name)) =
                    keys::u32_at(key, 1).zip(name.and_then(|(name, _)| TopicName::new(name).ok()))
                {
                    self.topics.insert(number, name);
                }
            }
            Kind::Subscription => self.numbers.subscription = self.numbers.subscription.max(number(5)),
            _ => self.numbers.source = self.numbers.source.max(number(1)),
        }
    }

    /// Describes a record for operators.
    pub(crate) fn describe(&self, key: &[u8]) -> String {
        let text = keys::describe(key);
        let text = match keys::u32_at(key, 1).and_then(|number| Some((number, self.topics.get(&number)?))) {
            Some((number, name)) => text.replace(&format!("topic number {number}"), &format!("topic {name}")),
            None => text,
        };
        match key.first() {
            Some(first) if first & COPY != 0 => format!("the second copy of {text}"),
            _ => text,
        }
    }

    /// Visits every record. The parts of a long record are checked together with it.
    pub(crate) fn each(&self, visit: Visit<'_>) -> Result<(), StorageError> {
        let tree = &*self.database.db;
        let mut pace = Pace::default();
        let mut had_group = false;
        for item in tree.iter() {
            let (key, value) = item.map_err(|source| self.trouble(source))?;
            if key.first() == Some(&PART) {
                continue;
            }
            pace.read(tree, &key, value.len()).map_err(|source| self.trouble(source))?;
            had_group |= *key == *keys::group();
            let verdict = self.check(&key, &value)?;
            visit(&key, &value, verdict)?;
        }
        if !had_group && let Some(synced) = self.synced.filter(|synced| *synced > 0) {
            let key = keys::group();
            let verdict = mended(&went_back(synced), &key, &record::encode_number(synced));
            visit(&key, &IVec::default(), verdict)?;
        }
        self.lost_sequences(visit)
    }

    fn check(&self, key: &IVec, value: &IVec) -> Result<Verdict, SledError> {
        let sealed = record::unseal(key, value);
        let kind = key.first().map(|first| first & !COPY);
        Ok(match kind {
            Some(b'H') => match sealed {
                Ok(_) => Verdict::Good,
                Err(bad) => mended(bad, key, &record::encode_number(u64::from(record::VERSION))),
            },
            Some(b'G') => self.group(key, sealed),
            Some(b'E') => match keys::u32_at(key, 1).and_then(|number| self.topics.get(&number)) {
                None => Verdict::Out("the name of its topic is lost"),
                Some(topic) => {
                    let event =
                        reads::event(&self.database.db, key, value, topic).map_err(|source| self.trouble(source))?;
                    event.map_or_else(Verdict::Out, |_| Verdict::Good)
                }
            },
            Some(b'X') => match sealed.map(record::decode_exception) {
                Ok(Some(_)) if key.len() == 17 => Verdict::Good,
                Ok(Some(_)) => Verdict::Out("its key is too short"),
                Ok(None) => Verdict::Out("it is neither settled nor requeued"),
                Err(bad) => Verdict::Out(bad),
            },
            Some(b'N' | b'T' | b'Q' | b'S' | b'C') => self.twice(key, value)?,
            _ => Verdict::Good,
        })
    }

    fn group(&self, key: &[u8], sealed: Result<&[u8], Bad>) -> Verdict {
        let synced = self.synced.unwrap_or_default();
        match sealed.map(record::decode_number) {
            Ok(Some(group)) if group >= synced => Verdict::Good,
            Ok(Some(group)) => mended(&went_back(synced - group), key, &record::encode_number(synced)),
            Ok(None) => mended("it is not a number", key, &record::encode_number(synced)),
            Err(bad) => mended(bad, key, &record::encode_number(synced)),
        }
    }

    /// Checks a record that is stored twice. One valid copy is enough to restore the other.
    fn twice(&self, key: &IVec, value: &IVec) -> Result<Verdict, SledError> {
        let bad = match self.body(key, value)? {
            Ok(_) => return Ok(Verdict::Good),
            Err(bad) => bad,
        };
        let mut other = key.to_vec();
        other[0] ^= COPY;
        let twin = self.database.db.get(&other).map_err(|source| self.trouble(source))?;
        if let Some(twin) = twin
            && let Ok(body) = self.body(&IVec::from(other.as_slice()), &twin)?
        {
            return Ok(mended(bad, key, &body));
        }
        if key[0] & !COPY == b'N' {
            let Numbers { topic, subscription, source } = self.numbers;
            let [topic, subscription, source] =
                [topic, subscription, source].map(|number| number.saturating_add(NUMBERS_LEAP));
            return Ok(mended(bad, key, &record::encode_numbers(Numbers { topic, subscription, source })));
        }
        Ok(Verdict::Out(bad))
    }

    /// The body of a record that is stored twice, if it is valid.
    fn body(&self, key: &IVec, value: &IVec) -> Result<Result<Vec<u8>, Bad>, SledError> {
        let body = match key[0] & !COPY {
            b'C' => reads::assemble(&self.database.db, key, value).map_err(|source| self.trouble(source))?,
            _ => record::unseal(key, value).map(<[u8]>::to_vec),
        };
        Ok(body.and_then(|body| {
            let named = || record::decode_named(&body);
            let problem = match key[0] & !COPY {
                b'N' => record::decode_numbers(&body).is_none().then_some("it is not the numbers"),
                b'T' => named().is_none_or(|(name, _)| TopicName::new(name).is_err()).then_some("it is not a topic"),
                b'Q' => record::decode_number(&body).is_none().then_some("it is not a number"),
                b'S' if named().is_none_or(|(name, _)| SubscriptionName::new(name).is_err()) => {
                    Some("it is not a subscription")
                }
                b'S' => keys::u32_at(key, 1)
                    .is_none_or(|topic| !self.topics.contains_key(&topic))
                    .then_some("the name of its topic is lost"),
                _ => record::decode_cursor(&body).is_none().then_some("it is not a cursor"),
            };
            problem.map_or(Ok(body), Err)
        }))
    }

    /// Visits each topic that has lost both records of its latest sequence. Its replacement skips ahead, beyond any sequence that can
    /// have been used.
    fn lost_sequences(&self, visit: Visit<'_>) -> Result<(), StorageError> {
        let topics: BTreeMap<_, _> = self.topics.iter().collect();
        for number in topics.keys() {
            let key = keys::last_seq(**number);
            let good = |key: Vec<u8>| {
                let value = self.database.db.get(&key).map_err(|source| self.trouble(source))?;
                Ok::<_, SledError>(value.is_some_and(|value| record::unseal(&key, &value).is_ok()))
            };
            if good(key.clone())? || good(keys::copy(&key))? {
                continue;
            }
            let last = self.database.db.range(keys::event(**number, 0)..=keys::event(**number, u64::MAX)).next_back();
            let last = last.transpose().map_err(|source| self.trouble(source))?;
            let latest = last.and_then(|(key, _)| keys::seq_of(&key)).unwrap_or_default();
            let body = record::encode_number(latest.saturating_add(LEAP));
            visit(&key, &IVec::default(), mended("both records of it are lost", &key, &body))?;
        }
        Ok(())
    }
}

fn mended(what: &str, key: &[u8], body: &[u8]) -> Verdict {
    // Of the records that can be replaced, only cursors can be long: see `Changes::put_long`.
    if key.first().map(|first| first & !COPY) != Some(b'C') {
        return Verdict::Mended(what.to_owned(), vec![(key.to_vec(), record::seal(key, body))]);
    }
    let mut first = u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes().to_vec();
    let (head, rest) = body.split_at(body.len().min(PART_BYTES));
    first.extend_from_slice(head);
    let mut values = vec![(key.to_vec(), record::seal(key, &first))];
    for (number, part) in (0..).zip(rest.chunks(PART_BYTES)) {
        let at = keys::part(key, number);
        let value = record::seal(&at, part);
        values.push((at, value));
    }
    Verdict::Mended(what.to_owned(), values)
}

fn went_back(missing: u64) -> String {
    format!("sled went back to an earlier state: the last {missing} groups of batches are missing")
}

/// Describes the consequences of losing a record, for operators.
pub(crate) fn loss(key: &[u8], verdict: &Verdict) -> &'static str {
    match (key.first().map(|first| first & !COPY), verdict) {
        (Some(b'G'), Verdict::Mended(what, _)) if what.starts_with("sled went back") => {
            "nothing more: those groups are already missing; if you have a copy of the directory, restore that instead"
        }
        (Some(b'Q'), Verdict::Mended(..)) => {
            "nothing; if both copies are lost, the topic's sequences skip ahead by 2^40, so that none is used twice"
        }
        (_, Verdict::Mended(..)) => "nothing",
        (Some(b'E'), _) => "this event, for every subscription that holds it",
        (Some(b'X'), _) => "the event's settlement or delivery count: it is delivered again, as if for the first time",
        (Some(b'T'), _) => "the topic, with its subscriptions and events",
        (Some(b'S'), _) => "the subscription, and its hold on events",
        (Some(b'Q'), _) => "nothing: the topic's sequences skip ahead by 2^40, so that none is used twice",
        (Some(b'C'), _) => "the source's position: it starts where it is configured to, and may publish events again",
        _ => "this record",
    }
}
