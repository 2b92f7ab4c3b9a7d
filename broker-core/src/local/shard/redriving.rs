//! Dead letters on their way back to the subscriptions that they came from.
//!
//! A walk through the letters that are there at the command, in chunks, so that it needs little memory and others go on meanwhile.
//! The shard that owns the topic puts each back and says, in the same batch, that the letter is gone.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::super::message::{Revive, RevivedLetter, ShardMessage};
use super::super::turn::TopicAt;
use super::Shard;
use super::letters::{Done, read};
use crate::engine::{Outcome, Refusal, Slot};
use crate::event::{EventKey, NewEvent, Payload, Seq};
use crate::name::{IdKey, SubscriptionName, TopicName};
use crate::queue::ClientId;
use crate::storage::{Mutation, Storage};

/// A command that is under way.
pub(super) struct Job {
    client: ClientId,
    slot: Slot,
    /// The dead-letter topic.
    at: TopicAt,
    dead: TopicName,
    /// Where the letters go.
    topic: TopicName,
    /// The latest letter that was there at the command.
    until: Seq,
    /// Where the walk goes on; `None`: it has come to its end.
    next: Option<Option<EventKey>>,
    /// How many may still go.
    left: u64,
    gone: u64,
}

/// A letter that goes back, if it still waits.
pub(super) struct Chunk {
    key: EventKey,
    id: IdKey,
    subscription: SubscriptionName,
    payload: Payload,
}

/// A letter that was sent back, and whether it has arrived.
pub(super) type Sent = (EventKey, bool);

impl<S: Storage + ?Sized> Shard<S> {
    pub(super) fn redrive(&mut self, client: ClientId, slot: Slot, topic: TopicName, most: Option<u64>) {
        let Some(dead) = self.policies.of(&topic).dead_letter_of(&topic) else {
            return self.effects.outbox.outcome(client, slot, Outcome::Refused(Refusal::NoDeadLetter(topic)));
        };
        let found = self.by_name.get(&dead).copied().and_then(|at| Some((at, self.topics[at].as_ref()?.last_seq())));
        let Some((at, until)) = found else {
            return self.effects.outbox.outcome(client, slot, Outcome::Redriven(0));
        };
        let (next, left) = (Some(None), most.unwrap_or(u64::MAX));
        self.walk_on(Job { client, slot, at, dead, topic, until, next, left, gone: 0 });
    }

    /// Looks for the next letters, or ends.
    fn walk_on(&mut self, mut job: Job) {
        let topic = self.topics[job.at].as_ref().filter(|topic| *topic.name() == job.dead);
        let (Some(after), Some(topic), true) = (job.next, topic, job.left > 0 && !self.closing) else {
            return self.effects.outbox.outcome(job.client, job.slot, Outcome::Redriven(job.gone));
        };
        let walk = topic.walk_letters(after, job.until);
        job.next = walk.next.map(Some);
        let storage = Arc::clone(&self.storage);
        self.errands.push(Box::pin(async move {
            let absent = walk.letters.iter().filter(|(_, _, payload, _)| payload.is_none());
            let absent = absent.filter_map(|(key, _, _, place)| Some((*key, (*place)?))).collect();
            let read = read(&*storage, &job.dead, absent).await.unwrap_or_default();
            // Letters of other topics, and those of subscriptions that ended with their connection, have nowhere to go.
            let letters = walk.letters.into_iter().filter_map(|(key, id, payload, _)| {
                let payload = payload.or_else(|| read.get(&key).cloned())?;
                let origin = payload.origin().filter(|origin| origin.topic == job.topic.as_str())?;
                let subscription = SubscriptionName::new(&origin.subscription?).ok()?;
                let payload = payload.revived(&job.topic, key.priority)?;
                Some(Chunk { key, id, subscription, payload })
            });
            let letters = letters.collect();
            Done::Read(job, letters)
        }));
    }

    /// Letters have been read: those that still wait are sent on their way.
    pub(super) fn letters_read(&mut self, mut job: Job, letters: Vec<Chunk>) {
        let most = usize::try_from(job.left).unwrap_or(usize::MAX);
        let still_there = self.topics[job.at].as_ref().is_some_and(|topic| *topic.name() == job.dead);
        let mut sent: Vec<Chunk> = Vec::new();
        if still_there {
            let next = &mut job.next;
            self.with(job.at, |topic, _| {
                for letter in letters {
                    if sent.len() == most {
                        // Should some of these find no room, the walk goes on from here.
                        *next = sent.last().map(|last| Some(last.key));
                        break;
                    }
                    if topic.send_back(letter.key, letter.id) {
                        sent.push(letter);
                    }
                }
            });
        }
        if sent.is_empty() {
            return self.walk_on(job);
        }
        let keys: Vec<EventKey> = sent.iter().map(|letter| letter.key).collect();
        let letters = sent.into_iter().map(|letter| {
            let Chunk { key, id, subscription, payload } = letter;
            let event = NewEvent { id, priority: key.priority, ttl_ms: 0, delay_ms: 0, payload };
            RevivedLetter { event, subscription, letter: key }
        });
        let (done, answer) = oneshot::channel();
        let (topic, from, letters) = (job.topic.clone(), job.dead.clone(), letters.collect());
        let revive = ShardMessage::Revive(Revive { topic, from, letters, done });
        let peer = self.peers[job.topic.shard(self.peers.len())].clone();
        self.errands.push(Box::pin(async move {
            let answers = match peer.upgrade() {
                Some(peer) if peer.send(revive).await.is_ok() => answer.await.ok(),
                _ => None,
            };
            // Without an answer the storage or the broker is at its end: what is there is found out at the next start.
            let answers = answers.unwrap_or_default().into_iter().chain(std::iter::repeat(false));
            let sent = keys.into_iter().zip(answers).collect();
            Done::SentBack(job, sent)
        }));
    }

    pub(super) fn letters_sent_back(&mut self, mut job: Job, sent: Vec<Sent>) {
        let gone = sent.iter().filter(|(_, gone)| *gone).count() as u64;
        job.gone += gone;
        job.left = job.left.saturating_sub(gone);
        if self.topics[job.at].as_ref().is_some_and(|topic| *topic.name() == job.dead) {
            self.with(job.at, |topic, now| topic.sent_back(sent, now));
            for sub in self.topics[job.at].as_ref().map(|topic| topic.hungry()).unwrap_or_default() {
                self.pump(job.at, sub);
            }
        }
        self.walk_on(job);
    }

    /// Takes letters back.
    pub(super) fn revive(&mut self, revive: Revive) {
        let Revive { topic: name, from, letters, done } = revive;
        if self.shared.failure().is_some() {
            return;
        }
        let at = self.by_name.get(&name).copied();
        let mut answers = Vec::with_capacity(letters.len());
        let mut gone = Vec::new();
        for RevivedLetter { event, subscription, letter } in letters {
            let revived = at.and_then(|at| {
                let stored = self.with(at, |topic, now| topic.revive(&event, &subscription, now)).flatten()?;
                Some((at, stored))
            });
            answers.push(revived.is_some());
            if let Some((at, stored)) = revived {
                self.store(at, stored);
                gone.push(letter);
            }
        }
        if !gone.is_empty() {
            self.mutations.push(Mutation::Forget { topic: from, events: gone });
        }
        self.effects.answers.push(Box::new(move || {
            let _the_other_shard_has_gone = done.send(answers);
        }));
    }
}
