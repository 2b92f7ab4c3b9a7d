//! Redrive: dead letters return to the subscriptions they came from.
//!
//! The command walks through the letters that exist when it arrives, in chunks, so that it needs little memory and the shard serves
//! others in between:
//!
//! ```text
//!   shard of `t.dead`                               shard of `t`
//!   walk: next letters, in delivery order
//!   errand: read their payloads
//!   set aside those that still wait
//!                        ── Revive ───────►         one batch:  Publish  the event, to its subscription in `t`
//!                                                               Forget   the letter, in `t.dead`
//!                                                   … written
//!                        ◄── one result each ──
//!   drop the letters that have returned, put back the others
//!   walk on
//! ```
//!
//! As with [dead letters](super::dead_letters) on their way out, one batch holds both facts, so a kill leaves the event in exactly
//! one of the two topics.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::Shard;
use super::errands::{Done, read};
use super::queues::Queues;
use crate::engine::{Outcome, Refusal};
use crate::event::{EventKey, NewEvent, Payload, Seq};
use crate::local::message::{Revive, RevivedLetter, ShardMessage, ask};
use crate::local::topics::TopicAt;
use crate::local::turn::ReplyTo;
use crate::name::{IdKey, SubscriptionName, TopicName};
use crate::queue::Topic;
use crate::storage::{Mutation, Storage};

/// A redrive in progress.
pub(super) struct Job {
    to: ReplyTo,
    at: TopicAt,
    /// The dead-letter topic.
    dead: TopicName,
    /// The topic the letters return to.
    topic: TopicName,
    /// The latest letter that existed when the command arrived.
    until: Seq,
    /// The letter after which the walk continues; `None`: at the first.
    after: Option<EventKey>,
    /// Whether the walk has seen all letters.
    ended: bool,
    /// The number of letters that may still return.
    left: u64,
    /// The number of letters that have returned.
    returned: u64,
}

/// A letter to send back, if it still waits.
pub(super) struct Letter {
    key: EventKey,
    id: IdKey,
    subscription: SubscriptionName,
    payload: Payload,
}

/// A letter that was sent back, and whether it has been stored.
pub(super) type Sent = (EventKey, bool);

impl<S: Storage + ?Sized> Shard<S> {
    /// Moves dead letters of `topic` back, at most `most`. Answered when the walk has ended.
    pub(super) fn redrive(&mut self, to: ReplyTo, topic: TopicName, most: Option<u64>) {
        let Some(dead) = self.queues.dead_letter_of(&topic) else {
            return self.refuse(to, Refusal::NoDeadLetter(topic));
        };
        let found = self.queues.topics.find(&dead);
        let Some((at, until)) = found.and_then(|at| Some((at, self.queues.topics.get(at)?.last_seq()))) else {
            return self.queues.turn.reply(to, Outcome::Redriven(0));
        };
        let left = most.unwrap_or(u64::MAX);
        self.walk_on(Job { to, at, dead, topic, until, after: None, ended: false, left, returned: 0 });
    }

    /// Reads the next letters, or answers if there are none.
    fn walk_on(&mut self, mut job: Job) {
        let topic = self.queues.topics.get(job.at).filter(|topic| *topic.name() == job.dead);
        let Some(topic) = topic.filter(|_| !job.ended && job.left > 0 && !self.closing) else {
            return self.queues.turn.reply(job.to, Outcome::Redriven(job.returned));
        };
        let walk = topic.walk_letters(job.after, job.until);
        (job.after, job.ended) = (walk.next, walk.next.is_none());
        let storage = Arc::clone(&self.storage);
        self.errands.run(async move {
            let absent = walk.letters.iter().filter(|(_, _, payload, _)| payload.is_none());
            let absent = absent.filter_map(|(key, _, _, place)| Some((*key, (*place)?))).collect();
            let read = read(&*storage, &job.dead, absent).await.unwrap_or_default();
            // Letters from other topics and from nameless subscriptions have no subscription to return to.
            let letters = walk.letters.into_iter().filter_map(|(key, id, payload, _)| {
                let payload = payload.or_else(|| read.get(&key).cloned())?;
                let origin = payload.origin().filter(|origin| origin.topic == job.topic.as_str())?;
                let subscription = SubscriptionName::new(&origin.subscription?).ok()?;
                let payload = payload.revived(&job.topic, key.priority)?;
                Some(Letter { key, id, subscription, payload })
            });
            let letters = letters.collect();
            Done::LettersRead(job, letters)
        });
    }

    /// Sends those letters of a chunk back that still wait.
    pub(super) fn letters_read(&mut self, mut job: Job, letters: Vec<Letter>) {
        let sent = self.set_aside(&mut job, letters);
        if sent.is_empty() {
            return self.walk_on(job);
        }
        let keys: Vec<EventKey> = sent.iter().map(|letter| letter.key).collect();
        let letters = sent.into_iter().map(|letter| {
            let Letter { key, id, subscription, payload } = letter;
            let event = NewEvent { id, priority: key.priority, ttl_ms: 0, delay_ms: 0, payload };
            RevivedLetter { event, subscription, letter: key }
        });
        let (done, answer) = oneshot::channel();
        let (topic, from, letters) = (job.topic.clone(), job.dead.clone(), letters.collect());
        let revive = ShardMessage::Revive(Revive { topic, from, letters, done });
        let peer = self.peers.owner_of(&job.topic);
        self.errands.run(async move {
            // Without an answer the storage has failed or the engine is closing. The next start finds out which letters have returned.
            let answers = ask(&peer, revive, answer).await.unwrap_or_default();
            let sent = keys.into_iter().zip(answers.into_iter().chain(std::iter::repeat(false))).collect();
            Done::SentBack(job, sent)
        });
    }

    /// Takes letters that still wait out of the dead-letter topic's queue, as many as may still return.
    fn set_aside(&mut self, job: &mut Job, letters: Vec<Letter>) -> Vec<Letter> {
        let mut sent: Vec<Letter> = Vec::new();
        if !self.queues.topics.is_still(job.at, &job.dead) {
            return sent;
        }
        let most = usize::try_from(job.left).unwrap_or(usize::MAX);
        self.queues.with(job.at, |topic, _| {
            for letter in letters {
                if let Some(last) = sent.last().filter(|_| sent.len() == most) {
                    // If some of these find no room, the walk continues from here.
                    (job.after, job.ended) = (Some(last.key), false);
                    break;
                }
                if topic.send_back(letter.key, letter.id) {
                    sent.push(letter);
                }
            }
        });
        sent
    }

    /// Drops the letters that have returned, puts the others back, and walks on.
    pub(super) fn letters_sent_back(&mut self, mut job: Job, sent: Vec<Sent>) {
        let returned = sent.iter().filter(|(_, stored)| *stored).count() as u64;
        job.returned += returned;
        job.left = job.left.saturating_sub(returned);
        if self.queues.topics.is_still(job.at, &job.dead) {
            self.queues.with(job.at, |topic, now| topic.sent_back(sent, now));
            self.pump_hungry(job.at);
        }
        self.walk_on(job);
    }
}

// ---- The receiving shard ----

impl Queues {
    /// Stores returning events together with the removal of their letters. An event whose subscription has gone or has no room
    /// is not stored.
    pub(super) fn revive(&mut self, revive: Revive) {
        let Revive { topic: name, from, letters, done } = revive;
        let at = self.topics.find(&name);
        let mut answers = Vec::with_capacity(letters.len());
        let mut gone = Vec::new();
        for RevivedLetter { event, subscription, letter } in letters {
            let revived = at.and_then(|at| {
                let stored =
                    self.with(at, |topic: &mut Topic, now| topic.revive(&event, &subscription, now)).flatten()?;
                Some((at, stored))
            });
            answers.push(revived.is_some());
            if let Some((at, stored)) = revived {
                self.turn.store(at, stored);
                gone.push(letter);
            }
        }
        if !gone.is_empty() {
            self.turn.push(Mutation::Forget { topic: from, events: gone });
        }
        self.turn.answer(Box::new(move || {
            let _the_sending_shard_has_ended = done.send(answers);
        }));
    }
}
