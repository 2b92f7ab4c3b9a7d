//! Dead letters: events that leave their topic for its dead-letter topic, which another shard may own.
//!
//! ```text
//!   shard of `t`                                    shard of `t.dead`
//!   an event is terminated, expires, or has
//!   been delivered too often
//!   errand: read the payload, encode the letter
//!                        ── Bury ─────────►         one batch:  Publish  the letter, to `t.dead`
//!                                                               Settle   the event, in `t`
//!                                                   … written
//!                        ◄── one result each ──
//!   forget the event, answer `term`
//! ```
//!
//! The receiving shard stores both facts in one batch, although the second is about another shard's topic. So a kill leaves the event in
//! exactly one of the two topics: before the batch is written it is still in `t` and becomes a letter again after the restart;
//! afterwards it is in `t.dead`. Two batches could leave it in both or, the other way round, in neither.
//!
//! Until the result arrives, the event counts as moving: it is neither delivered nor rewritten (see [`rewrite`](super::rewrite)).
//! A letter for which there is no room stays in `t` and is tried again later. If no result arrives, the storage has failed or the
//! engine is closing; the next start finds out where the event is.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::Shard;
use super::clients::Attachment;
use super::errands::{Done, read};
use super::queues::Queues;
use crate::engine::{Outcome, Refusal, Unavailable};
use crate::event::{EventKey, Millis, NewEvent, Payload};
use crate::letter::{DEAD, Dead};
use crate::local::message::{BuriedLetter, Bury, Peer, ShardMessage, ask};
use crate::local::topics::TopicAt;
use crate::local::turn::ReplyTo;
use crate::name::{IdKey, SubscriptionName, TopicName};
use crate::queue::{Fate, Outgoing, SubscriptionId, Topic};
use crate::storage::{Mutation, Storage};

/// Limits the log lines about full dead-letter topics to one a minute.
#[derive(Default)]
pub(super) struct FullNotice(Option<Millis>);

impl FullNotice {
    const QUIET_MS: u64 = 60_000;

    fn log(&mut self, topic: &TopicName, refusal: &Refusal, now: Millis) {
        if self.0.is_none_or(|last| now.since(last) >= Self::QUIET_MS) {
            self.0 = Some(now);
            tracing::warn!(%topic, reason = %refusal, "dead letters kept back: no room in the dead-letter topic");
        }
    }
}

/// Letters of one topic on their way to the dead-letter topic.
struct Burial {
    at: TopicAt,
    from: TopicName,
    to: TopicName,
    now: Millis,
    letters: Vec<Outgoing>,
}

/// The result of a [`Burial`].
pub(super) struct Buried {
    at: TopicAt,
    from: TopicName,
    letters: Vec<(Outgoing, Fate)>,
    /// The refusal of letters for which there was no room.
    full: Option<Refusal>,
    /// Whether the fates are unknown: the storage or the other shard has gone, and this one will follow.
    failed: bool,
}

impl<S: Storage + ?Sized> Shard<S> {
    /// Gives up an event in flight. Answered once the event has left the topic.
    pub(super) fn terminate(&mut self, to: ReplyTo, name: TopicName, id: IdKey, note: Option<Box<str>>) {
        let Some(Attachment { at, sub, consumer, .. }) = self.attachment(to.client, &name) else {
            return self.refuse(to, Refusal::NotSubscribed(name));
        };
        if self.queues.topics.get(at).is_none_or(|topic| topic.dead_letter().is_none()) {
            return self.refuse(to, Refusal::NoDeadLetter(name));
        }
        let found = self.queues.with(at, |topic, now| topic.terminate(sub, consumer, id, note, to.slot, now));
        if found != Some(true) {
            self.queues.turn.reply(to, Outcome::Settled { found: false });
        }
    }

    /// Starts errands for the letters of a topic. To be called after the turn's batch has been submitted: the batch that settles
    /// these events must follow the one that stores what this turn knows of them.
    pub(super) fn send_letters(&mut self, at: TopicAt) {
        if self.closing || self.shared.failure().is_some() {
            return;
        }
        let now = self.queues.turn.now();
        let letters = self.queues.topics.change(at, |topic| [topic.take_terminated(), topic.take_letters(now)]);
        for letters in letters.into_iter().flatten().filter(|letters| !letters.is_empty()) {
            let Some(topic) = self.queues.topics.get(at) else { continue };
            let Some(to) = topic.dead_letter().cloned() else { continue };
            let peer = self.peers.owner_of(&to);
            let storage = Arc::clone(&self.storage);
            let burial = Burial { at, from: topic.name().clone(), to, now, letters };
            self.errands.run(async move { Done::Buried(burial.carry_out(&*storage, &peer).await) });
        }
    }

    /// Applies the result of a burial: forgets the events that have left, and answers their consumers.
    pub(super) fn buried(&mut self, buried: Buried) {
        let Buried { at, from, letters, full, failed } = buried;
        if failed {
            let closing = || Unavailable(Arc::from("the broker is shutting down"));
            let reason = self.shared.failure().unwrap_or_else(closing);
            for (client, slot) in letters.iter().filter_map(|(letter, _)| letter.ticket) {
                self.refuse(ReplyTo { client, slot }, Refusal::Unavailable(reason.clone()));
            }
            return;
        }
        // If the topic has been removed in the meantime, nothing is left to do.
        if !self.queues.topics.is_still(at, &from) {
            return;
        }
        let letters = self.queues.with(at, |topic, _| topic.without_moved(letters)).unwrap_or_default();
        if let Some(full) = &full {
            self.full_notice.log(&from, full, self.queues.turn.now());
        }
        let lost = letters.iter().filter(|(_, fate)| *fate == Fate::Lost).count();
        if lost > 0 {
            tracing::error!(topic = %from, lost, "dead letters dropped: the records of their events are damaged");
        }
        let mut subs: Vec<SubscriptionId> = Vec::new();
        for (letter, fate) in &letters {
            subs.push(letter.sub);
            let Some((client, slot)) = letter.ticket else { continue };
            let outcome = match (fate, &full) {
                (Fate::Kept, Some(full)) => Outcome::Refused(full.clone()),
                _ => Outcome::Settled { found: true },
            };
            self.queues.turn.reply(ReplyTo { client, slot }, outcome);
        }
        let full = full.map(|full| full.to_string());
        self.queues.with(at, |topic, now| topic.letters_done(letters, full, now));
        subs.sort_unstable();
        subs.dedup();
        for sub in subs {
            if self.queues.topics.get(at).is_some_and(|topic| topic.has(sub)) {
                self.pump(at, sub);
            }
        }
    }
}

impl Burial {
    /// Reads the payloads that are not in memory, and has the letters stored by the shard behind `peer`.
    async fn carry_out<S: Storage + ?Sized>(mut self, storage: &S, peer: &Peer) -> Buried {
        let outgoing = std::mem::take(&mut self.letters);
        let mut buried =
            Buried { at: self.at, from: self.from.clone(), letters: Vec::new(), full: None, failed: false };
        let absent = outgoing.iter().filter(|letter| letter.payload.is_none());
        let absent = absent.filter_map(|letter| Some((letter.key, letter.place?))).collect();
        let Some(read) = read(storage, &self.from, absent).await else {
            buried.failed = true;
            buried.letters = outgoing.into_iter().map(|letter| (letter, Fate::Kept)).collect();
            return buried;
        };
        let mut sent = Vec::with_capacity(outgoing.len());
        for letter in outgoing {
            let payload = letter.payload.as_ref().or_else(|| read.get(&letter.key));
            let fate = match payload.and_then(|payload| self.encode(&letter, payload)) {
                Some(encoded) => {
                    sent.push(encoded);
                    Fate::Gone
                }
                None => Fate::Lost,
            };
            buried.letters.push((letter, fate));
        }
        if sent.is_empty() {
            return buried;
        }
        let (done, answer) = oneshot::channel();
        let bury = ShardMessage::Bury(Bury { topic: self.to, letters: sent, done });
        let Some(results) = ask(peer, bury, answer).await else {
            buried.failed = true;
            return buried;
        };
        let sent = buried.letters.iter_mut().filter(|(_, fate)| *fate == Fate::Gone);
        for ((_, fate), result) in sent.zip(results) {
            if let Err(refusal) = result {
                *fate = Fate::Kept;
                buried.full = Some(refusal);
            }
        }
        buried
    }

    /// The letter that an event becomes. `None`: the payload is not an event's encoding.
    fn encode(&self, letter: &Outgoing, payload: &Payload) -> Option<BuriedLetter> {
        let dead = Dead {
            topic: &self.from,
            subscription: letter.subscription.as_ref(),
            reason: letter.reason,
            deliveries: letter.deliveries,
            at: self.now,
            note: letter.note.as_deref(),
        };
        let (id, priority) = (letter.id, letter.key.priority);
        let payload = payload.buried(&self.to, priority, &dead)?;
        let settles = letter.subscription.clone().map(|name| (self.from.clone(), name, letter.key));
        Some(BuriedLetter { event: NewEvent { id, priority, ttl_ms: 0, delay_ms: 0, payload }, settles })
    }
}

// ---- The receiving shard ----

impl Queues {
    /// Stores letters together with their settlement where they came from.
    pub(super) fn bury(&mut self, bury: Bury) {
        let Bury { topic: name, letters, done } = bury;
        let mut results = Vec::with_capacity(letters.len());
        let mut settled: BTreeMap<(TopicName, SubscriptionName), Vec<EventKey>> = BTreeMap::new();
        let at = self.dead_letter_topic(&name);
        for BuriedLetter { event, settles } in letters {
            let stored = at.clone().and_then(|at| {
                let stored = self.with(at, |topic, now| topic.publish_letter(&event, now));
                stored.unwrap_or_else(|| Err(Refusal::NoSuchTopic(name.clone()))).map(|stored| (at, stored))
            });
            results.push(stored.map(|(at, stored)| {
                self.turn.store(at, stored);
                if let Some((topic, subscription, key)) = settles {
                    settled.entry((topic, subscription)).or_default().push(key);
                }
            }));
        }
        for ((topic, subscription), events) in settled {
            self.turn.push(Mutation::Settle { topic, subscription, events });
        }
        self.turn.answer(Box::new(move || {
            let _the_sending_shard_has_ended = done.send(results);
        }));
    }

    /// The dead-letter topic, created with its `dead` subscription if missing, even where `auto_create` is off.
    fn dead_letter_topic(&mut self, name: &TopicName) -> Result<TopicAt, Refusal> {
        let at = match self.topics.find(name) {
            Some(at) => at,
            None => self.create(name, self.policies.of(name))?,
        };
        self.ensure_subscription(at)?;
        Ok(at)
    }

    /// Makes sure that an event published to a dead-letter topic is kept, however it arrives there.
    pub(super) fn keep_dead_letters(&mut self, at: TopicAt) -> Result<(), Refusal> {
        if self.topics.get(at).is_some_and(|topic| topic.policy().keeps) {
            self.ensure_subscription(at)?;
        }
        Ok(())
    }

    fn ensure_subscription(&mut self, at: TopicAt) -> Result<(), Refusal> {
        if self.topics.get(at).is_none_or(|topic| topic.subscriptions() > 0) {
            return Ok(());
        }
        self.admit_subscription()?;
        let name = SubscriptionName::new(DEAD).expect("the name is valid");
        let mutation = self.with(at, |topic: &mut Topic, _| topic.subscribe(Some(name)).1).flatten();
        mutation.into_iter().for_each(|mutation| self.turn.push(mutation));
        Ok(())
    }
}
