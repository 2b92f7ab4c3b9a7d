//! The ids of events, derived from the ids of their feed.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use broker_core::name::check_event_id;
use pipeline_source::mapping::digest;

use super::cursor::SseCursor;
use super::event::SseEvent;

/// The number of feed ids to remember while the source runs, some 50 bytes each.
const REMEMBERED: usize = 4096;

/// The number of ids in the cursor from the start of the newest connection. A server that numbers the events of each connection from 1
/// repeats exactly these.
const STORED_FIRST: usize = 8;
/// The number of newest ids in the cursor.
const STORED_LAST: usize = 4;

/// Derives an id for each event of a feed, equal for the same event in any process that reads it.
///
/// | the feed's event | its id |
/// | --- | --- |
/// | has an id of its own | that id, or its digest if it is no valid event id |
/// | has an id that belonged to other data before | a digest of id and data |
/// | has no id and follows an event with one | a digest of that id, the place after it on this connection, and the data |
/// | comes before any id, or after a reset | a digest of the connection's number, the place on it, and the data |
///
/// A replay is therefore recognised on any connection if the feed has ids. Without ids, two equal events are two events. An event that
/// comes several times on one connection, with the same id and data, is numbered as well.
///
/// # Invariants
///
/// - An id belongs to its *owner*, the first data that came with it. Other data under the same id never takes it over: that would
///   replace an event that still waits in the broker.
/// - Once an id has meant different data on different connections, the server reuses ids. Ids that are not remembered are then
///   treated as reused too, because their owner may have been forgotten.
/// - The state that decides this is in the cursor, so a restart derives the same ids as a reconnect.
#[derive(Debug)]
pub(crate) struct EventIds {
    source: String,
    /// The number of the last connection before this process.
    base: u64,
    /// The number of the connection that brought the last event.
    connection: u64,
    /// The feed's last id on this connection, and the number of events without an id since.
    last: String,
    place: u64,
    /// The number of events on this connection without any id.
    unnamed: u64,
    /// By feed id, its owner and the connection that brought it last.
    owners: Recent<u64, (u64, u64)>,
    /// Ids and their owners from an earlier connection, mainly its first ones, which `owners` forgets first.
    earlier: Vec<(u64, u64)>,
    /// By id and data, the number of times that they came on this connection.
    times: Recent<u128, u64>,
    /// The first ids of this connection, and the newest ids, for the cursor; see [`STORED_FIRST`].
    first: Vec<(u64, u64)>,
    newest: VecDeque<(u64, u64)>,
    reuses_ids: bool,
    is_reuse_logged: bool,
}

impl EventIds {
    /// Resumes at `cursor`.
    pub(crate) fn new(source: &str, cursor: &SseCursor) -> Self {
        Self {
            source: source.to_owned(),
            base: cursor.connection,
            connection: cursor.connection,
            last: String::new(),
            place: 0,
            unnamed: 0,
            owners: Recent::new(REMEMBERED),
            earlier: cursor.known.clone(),
            times: Recent::new(REMEMBERED),
            first: Vec::new(),
            newest: cursor.known.iter().rev().take(STORED_LAST).rev().copied().collect(),
            reuses_ids: cursor.reuses_ids,
            is_reuse_logged: cursor.reuses_ids,
        }
    }

    /// The id of the next event.
    pub(crate) fn next(&mut self, event: &SseEvent) -> String {
        let connection = self.base.saturating_add(event.stream).saturating_add(1);
        if connection != self.connection {
            self.connection = connection;
            self.last.clear();
            (self.place, self.unnamed) = (0, 0);
            self.times = Recent::new(REMEMBERED);
            if !self.first.is_empty() {
                self.earlier = std::mem::take(&mut self.first);
            }
        }
        let (id, what) = (&*event.last_event_id, [&*event.event_type, &*event.data]);
        if id.is_empty() {
            self.last.clear();
            self.unnamed += 1;
            let place = [connection.to_string(), self.unnamed.to_string()];
            return hex(digest(&["connection", &self.source, &place[0], &place[1], what[0], what[1]]));
        }
        if id != self.last {
            id.clone_into(&mut self.last);
            self.place = 0;
        }
        let mut is_owner = false;
        let key = if event.has_own_id {
            is_owner = self.owns(id, digest(&what) as u64);
            digest(&["id", &self.source, id, what[0], what[1]])
        } else {
            self.place += 1;
            digest(&["after", &self.source, id, &self.place.to_string(), what[0], what[1]])
        };
        let times = self.times.get(&key).copied().unwrap_or(0);
        self.times.insert(key, times + 1);
        match (times, is_owner) {
            (0, true) if check_event_id(id).is_ok() => id.to_owned(),
            (0, true) => hex(digest(&[&self.source, id])),
            (0, false) => hex(key),
            _ => hex(digest(&["again", &hex(key), &times.to_string()])),
        }
    }

    /// The position to store after the events so far.
    pub(crate) fn cursor(&self, last_event_id: &str, sendable_id: &str) -> SseCursor {
        // Until a connection has brought an id, the first ids of the one before are kept.
        let first = if self.first.is_empty() { &self.earlier } else { &self.first };
        let mut known: Vec<_> = first.iter().take(STORED_FIRST).copied().collect();
        let newest: Vec<_> = self.newest.iter().filter(|entry| !known.contains(entry)).copied().collect();
        known.extend(newest);
        SseCursor {
            last_event_id: last_event_id.to_owned(),
            sendable_id: sendable_id.to_owned(),
            connection: self.connection,
            reuses_ids: self.reuses_ids,
            known,
        }
    }

    /// Whether `data` owns the feed's `id`: it did before, or the id is new. If the server reuses ids, an unknown id may be a
    /// forgotten one, so the answer is no.
    fn owns(&mut self, id: &str, data: u64) -> bool {
        let id_digest = digest(&[id]) as u64;
        let earlier = || self.earlier.iter().find(|(id, _)| *id == id_digest).map(|(_, data)| (*data, 0));
        let is_owner = match self.owners.get(&id_digest).copied().or_else(earlier) {
            Some((owner, _)) if owner == data => true,
            Some((_, connection)) => {
                self.reuses_ids |= connection != self.connection;
                if !std::mem::replace(&mut self.is_reuse_logged, true) {
                    tracing::warn!(source = %self.source, id, "feed gave an id to other data as well; such events get ids of their own");
                }
                false
            }
            None => !self.reuses_ids,
        };
        if is_owner {
            let entry = (id_digest, data);
            self.owners.insert(id_digest, (data, self.connection));
            if self.first.len() < STORED_FIRST {
                self.first.push(entry);
            }
            self.newest.push_back(entry);
            if self.newest.len() > STORED_LAST {
                self.newest.pop_front();
            }
        }
        is_owner
    }
}

/// A map that drops its oldest entry when it is full.
#[derive(Debug)]
struct Recent<K, V> {
    entries: HashMap<K, V>,
    order: VecDeque<K>,
    most: usize,
}

impl<K: Copy + Eq + Hash, V> Recent<K, V> {
    fn new(most: usize) -> Self {
        Self { entries: HashMap::new(), order: VecDeque::new(), most }
    }

    fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key)
    }

    fn insert(&mut self, key: K, value: V) {
        if self.entries.insert(key, value).is_none() {
            self.order.push_back(key);
            if self.order.len() > self.most
                && let Some(oldest) = self.order.pop_front()
            {
                self.entries.remove(&oldest);
            }
        }
    }
}

fn hex(digest: u128) -> String {
    format!("{digest:032x}")
}

#[cfg(test)]
mod tests;
