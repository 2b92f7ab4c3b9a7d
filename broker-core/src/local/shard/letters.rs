//! Dead letters: on their way to another topic, which another shard may own, and those that come from one.
//!
//! The shard that owns the event never waits for the other's inbox: an errand does. The other shard stores the letter and that it
//! is settled where it came from in one batch, so that a crash leaves one of both; then this shard forgets it.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::super::message::{BuriedLetter, Bury, ShardMessage};
use super::super::turn::TopicAt;
use super::delivering::READ_RETRY;
use super::redriving::{Chunk, Job, Sent};
use super::{Attachment, Shard};
use crate::engine::{Delivery, Outcome, Refusal, Slot, Unavailable};
use crate::event::{EventKey, Millis, NewEvent, Payload};
use crate::letter::{DEAD, Dead};
use crate::name::{IdKey, SubscriptionName, TopicName};
use crate::queue::{ClientId, Fate, Outgoing, SubscriptionId};
use crate::storage::{Mutation, Place, ReadKey, Storage, StorageError, StorageErrorKind, StoredEvent};

/// How long a rewrite waits for an event that is on its way to another shard.
const MOVING: std::time::Duration = std::time::Duration::from_millis(20);

/// What an errand comes back with.
pub(super) enum Done {
    Buried(Burial),
    Peeked { client: ClientId, slot: Slot, deliveries: Result<Vec<Delivery>, StorageError> },
    Read(Job, Vec<Chunk>),
    SentBack(Job, Vec<Sent>),
    Rewrite(Vec<(StoredEvent, Place)>, oneshot::Sender<Result<(), StorageError>>),
}

/// How it went with letters.
pub(super) struct Burial {
    at: TopicAt,
    from: TopicName,
    letters: Vec<(Outgoing, Fate)>,
    full: Option<Refusal>,
    /// Whether nobody can say how it went: the storage or the other shard has gone, and this one will, too.
    failed: bool,
}

impl<S: Storage + ?Sized> Shard<S> {
    pub(super) fn terminate(
        &mut self,
        client: ClientId,
        slot: Slot,
        name: TopicName,
        id: IdKey,
        note: Option<Box<str>>,
    ) {
        let refusal = match self.attachment(client, &name) {
            None => Refusal::NotSubscribed(name),
            Some((at, _)) if self.topics[at].as_ref().is_none_or(|topic| topic.dead_letter().is_none()) => {
                Refusal::NoDeadLetter(name)
            }
            Some((at, Attachment { sub, consumer, .. })) => {
                let found = self.with(at, |topic, now| topic.terminate(sub, consumer, id, note, slot, now));
                if found != Some(true) {
                    self.effects.outbox.outcome(client, slot, Outcome::Settled { found: false });
                }
                // Else it is answered when the event has gone.
                return;
            }
        };
        self.effects.outbox.outcome(client, slot, Outcome::Refused(refusal));
    }

    // ---- Going out ----

    /// Sends a topic's letters on their way.
    pub(super) fn send_letters(&mut self, at: TopicAt) {
        if self.closing || self.shared.failure().is_some() {
            return;
        }
        let now = self.now;
        let Some(topic) = &mut self.topics[at] else { return };
        for letters in [topic.take_given_up(), topic.take_letters(now)] {
            let Some(to) = topic.dead_letter().cloned().filter(|_| !letters.is_empty()) else { continue };
            let from = topic.name().clone();
            let peer = self.peers[to.shard(self.peers.len())].clone();
            let storage = Arc::clone(&self.storage);
            self.errands.push(Box::pin(async move {
                Done::Buried(Burial::of(at, from, to, letters, now, &*storage, &peer).await)
            }));
        }
    }

    pub(super) fn errand_done(&mut self, done: Done) {
        match done {
            Done::Buried(burial) => self.buried(burial),
            Done::Peeked { client, slot, deliveries } => self.peeked(client, slot, deliveries),
            Done::Read(job, chunk) => self.letters_read(job, chunk),
            Done::SentBack(job, letters) => self.letters_sent_back(job, letters),
            Done::Rewrite(events, done) => self.rewrite(events, done),
        }
    }

    fn buried(&mut self, burial: Burial) {
        let Burial { at, from, mut letters, full, failed } = burial;
        if failed {
            let reason = || Unavailable(Arc::from("the broker is shutting down"));
            let reason = self.shared.failure().unwrap_or_else(reason);
            for (client, slot) in letters.iter().filter_map(|(letter, _)| letter.ticket) {
                let outcome = Outcome::Refused(Refusal::Unavailable(reason.clone()));
                self.effects.outbox.outcome(client, slot, outcome);
            }
            return;
        }
        // Of a topic that has been forgotten meanwhile nothing is left to be done.
        if self.topics[at].as_ref().is_none_or(|topic| *topic.name() != from) {
            return;
        }
        letters = self.with(at, |topic, _| topic.without_moved(letters)).unwrap_or_default();
        if let Some(full) = &full {
            self.say_that_letters_stay(&from, full);
        }
        let lost = letters.iter().filter(|(_, fate)| *fate == Fate::Lost).count();
        if lost > 0 {
            tracing::error!(topic = %from, lost, "events whose records are damaged were dropped on their way to the dead letters");
        }
        let mut subs: Vec<SubscriptionId> = Vec::new();
        for (letter, fate) in &letters {
            subs.push(letter.sub);
            let Some((client, slot)) = letter.ticket else { continue };
            let outcome = match (fate, &full) {
                (Fate::Kept, Some(full)) => Outcome::Refused(full.clone()),
                _ => Outcome::Settled { found: true },
            };
            self.effects.outbox.outcome(client, slot, outcome);
        }
        let full = full.map(|full| full.to_string());
        self.with(at, |topic, now| topic.letters_done(letters, full, now));
        subs.sort_unstable();
        subs.dedup();
        for sub in subs {
            if self.topics[at].as_ref().is_some_and(|topic| topic.has(sub)) {
                self.pump(at, sub);
            }
        }
    }

    /// The log says it, and not every second.
    fn say_that_letters_stay(&mut self, topic: &TopicName, full: &Refusal) {
        const QUIET_MS: u64 = 60_000;
        if self.said_full.is_none_or(|at| self.now.since(at) >= QUIET_MS) {
            self.said_full = Some(self.now);
            tracing::warn!(%topic, reason = %full, "dead letters stay where they are until there is room for them");
        }
    }

    /// Tries again to move events for the storage, when one of them has arrived where it was going.
    pub(super) fn rewrite_later(
        &mut self,
        events: Vec<(StoredEvent, Place)>,
        done: oneshot::Sender<Result<(), StorageError>>,
    ) {
        self.errands.push(Box::pin(async move {
            tokio::time::sleep(MOVING).await;
            Done::Rewrite(events, done)
        }));
    }

    // ---- Coming in ----

    /// Takes in letters.
    pub(super) fn bury(&mut self, bury: Bury) {
        let Bury { topic: name, letters, done } = bury;
        if self.shared.failure().is_some() {
            // Whoever waits for an answer is told by its absence.
            return;
        }
        let mut answers = Vec::with_capacity(letters.len());
        let mut settled: BTreeMap<(TopicName, SubscriptionName), Vec<EventKey>> = BTreeMap::new();
        let at = self.topic_for_letters(&name);
        for BuriedLetter { event, settles } in letters {
            let stored = at.clone().and_then(|at| {
                let stored = self.with(at, |topic, now| topic.publish_letter(&event, now));
                stored.unwrap_or_else(|| Err(Refusal::NoSuchTopic(name.clone()))).map(|stored| (at, stored))
            });
            answers.push(stored.map(|(at, stored)| {
                self.store(at, stored);
                if let Some((topic, subscription, key)) = settles {
                    settled.entry((topic, subscription)).or_default().push(key);
                }
            }));
        }
        for ((topic, subscription), events) in settled {
            self.mutations.push(Mutation::Settle { topic, subscription, events });
        }
        self.effects.answers.push(Box::new(move || {
            let _the_other_shard_has_gone = done.send(answers);
        }));
    }

    /// The topic with somebody in it to keep letters; the configuration says that there is one, whatever it says of others.
    fn topic_for_letters(&mut self, name: &TopicName) -> Result<TopicAt, Refusal> {
        let at = match self.by_name.get(name) {
            Some(at) => *at,
            None => self.make_topic(name, self.policies.of(name))?,
        };
        self.have_a_subscription(at)?;
        Ok(at)
    }

    /// What reaches a dead-letter topic is kept, by whatever way.
    pub(super) fn keep_letters_of(&mut self, at: TopicAt) -> Result<(), Refusal> {
        if self.topics[at].as_ref().is_some_and(|topic| topic.policy().keeps) {
            self.have_a_subscription(at)?;
        }
        Ok(())
    }

    fn have_a_subscription(&mut self, at: TopicAt) -> Result<(), Refusal> {
        if self.topics[at].as_ref().is_none_or(|topic| topic.subscriptions() > 0) {
            return Ok(());
        }
        let too_many = |most| Refusal::TooMany(format!("there are {most} subscriptions already"));
        self.shared.subscriptions.take().map_err(too_many)?;
        let name = SubscriptionName::new(DEAD).expect("it is a good name");
        let made = self.with(at, |topic, _| topic.subscribe(Some(name)));
        self.mutations.extend(made.and_then(|(_, mutation)| mutation));
        Ok(())
    }
}

impl Burial {
    /// Reads what is not in memory, and has the letters stored.
    async fn of<S: Storage + ?Sized>(
        at: TopicAt,
        from: TopicName,
        to: TopicName,
        letters: Vec<Outgoing>,
        now: Millis,
        storage: &S,
        peer: &mpsc::WeakSender<ShardMessage>,
    ) -> Self {
        let mut burial = Self { at, from, letters: Vec::with_capacity(letters.len()), full: None, failed: false };
        let absent = letters.iter().filter(|letter| letter.payload.is_none());
        let absent = absent.filter_map(|letter| Some((letter.key, letter.place?)));
        let Some(read) = read(storage, &burial.from, absent.collect()).await else {
            burial.failed = true;
            burial.letters = letters.into_iter().map(|letter| (letter, Fate::Kept)).collect();
            return burial;
        };
        let mut sent = Vec::with_capacity(letters.len());
        for letter in letters {
            let payload = letter.payload.as_ref().or_else(|| read.get(&letter.key));
            let dead = Dead {
                topic: &burial.from,
                subscription: letter.subscription.as_ref(),
                reason: letter.reason,
                deliveries: letter.deliveries,
                at: now,
                note: letter.note.as_deref(),
            };
            let buried = payload.and_then(|payload| payload.buried(&to, letter.key.priority, &dead));
            let fate = if let Some(payload) = buried {
                let (id, priority) = (letter.id, letter.key.priority);
                let settles = letter.subscription.clone().map(|name| (burial.from.clone(), name, letter.key));
                let event = NewEvent { id, priority, ttl_ms: 0, delay_ms: 0, payload };
                sent.push(BuriedLetter { event, settles });
                Fate::Gone
            } else {
                Fate::Lost
            };
            burial.letters.push((letter, fate));
        }
        if sent.is_empty() {
            return burial;
        }
        let (done, answer) = oneshot::channel();
        let bury = ShardMessage::Bury(Bury { topic: to, letters: sent, done });
        let answers = match peer.upgrade() {
            Some(peer) if peer.send(bury).await.is_ok() => answer.await.ok(),
            _ => None,
        };
        let Some(answers) = answers else {
            burial.failed = true;
            return burial;
        };
        let expected = burial.letters.iter_mut().filter(|(_, fate)| *fate == Fate::Gone);
        for ((_, fate), answer) in expected.zip(answers) {
            if let Err(refusal) = answer {
                *fate = Fate::Kept;
                burial.full = Some(refusal);
            }
        }
        burial
    }
}

/// Reads payloads, however often that fails for now. What is damaged is missing; `None`: the storage has gone.
pub(super) async fn read<S: Storage + ?Sized>(
    storage: &S,
    topic: &TopicName,
    keys: Vec<(EventKey, Place)>,
) -> Option<BTreeMap<EventKey, Payload>> {
    if keys.is_empty() {
        return Some(BTreeMap::new());
    }
    loop {
        let wanted =
            keys.iter().map(|(key, place)| ReadKey { topic: topic.clone(), key: *key, place: *place }).collect();
        match storage.read(wanted).await {
            Ok(payloads) => {
                let found = keys.into_iter().zip(payloads);
                return Some(found.filter_map(|((key, _), payload)| Some((key, payload?))).collect());
            }
            Err(error) if error.kind() == StorageErrorKind::Closed => return None,
            Err(error) => {
                tracing::warn!(%error, "reading events back failed; trying again");
                tokio::time::sleep(READ_RETRY).await;
            }
        }
    }
}
