//! Events on their way in: from clients, from sources in this process, and those that the storage moves.

use std::collections::HashMap;

use tokio::sync::oneshot;

use super::super::message::{PublishPart, PublishReply};
use super::super::turn::TopicAt;
use super::Shard;
use crate::engine::{Outcome, Refusal, Slot};
use crate::event::{NewEvent, Seq};
use crate::name::TopicName;
use crate::queue::ClientId;
use crate::storage::{Mutation, Place, Storage, StorageError, StoredEvent};

impl<S: Storage + ?Sized> Shard<S> {
    pub(super) fn publish(&mut self, client: ClientId, slot: Slot, topic: TopicName, event: &NewEvent, confirm: bool) {
        match self.publish_one(&topic, event) {
            Err(refusal) => self.effects.outbox.outcome(client, slot, Outcome::Refused(refusal)),
            Ok((at, stored, outcome)) => {
                if let Some(seq) = stored
                    && let Some(attachment) = self.clients.get_mut(&client).and_then(|c| c.attachments.get_mut(&at))
                {
                    attachment.published = seq;
                }
                if confirm && stored.is_some() {
                    self.effects.confirms.outcome(client, slot, outcome);
                } else {
                    self.effects.outbox.outcome(client, slot, outcome);
                }
            }
        }
    }

    /// Takes an event in. Returns its sequence if it has to be stored, and whether it replaced another.
    pub(super) fn publish_one(
        &mut self,
        name: &TopicName,
        event: &NewEvent,
    ) -> Result<(TopicAt, Option<Seq>, Outcome), Refusal> {
        let at = self.topic(name)?;
        self.keep_letters_of(at)?;
        let Some(publication) = self.with(at, |topic, now| topic.publish(event, now)) else {
            return Err(Refusal::UnknownTopic(name.clone()));
        };
        let publication = publication?;
        let Some(stored) = publication.stored else {
            let outcome = if publication.dropped { Outcome::Dropped } else { Outcome::Published { replaced: false } };
            return Ok((at, None, outcome));
        };
        if !publication.replaces.is_empty() {
            self.mutations.push(Mutation::Forget { topic: name.clone(), events: publication.replaces });
        }
        let seq = stored.key.seq;
        self.store(at, stored);
        Ok((at, Some(seq), Outcome::Published { replaced: publication.replaced }))
    }

    /// Has an event stored with this turn, and shown when that is safe.
    pub(super) fn store(&mut self, at: TopicAt, stored: StoredEvent) {
        let key = stored.key;
        self.effects.keys.push((at, key));
        match self.effects.visible.last_mut().filter(|(other, _)| *other == at) {
            Some((_, seq)) => *seq = key.seq,
            None => self.effects.visible.push((at, key.seq)),
        }
        self.mutations.push(Mutation::Publish(stored));
    }

    /// Publishes for somebody in this process.
    pub(super) async fn publish_part(&mut self, part: PublishPart, reply: PublishReply) {
        if let Some(reason) = self.shared.failure() {
            // A joint batch is then never complete, and whoever waits for it is told by its end.
            let _the_publisher_has_gone = reply.send(Err(reason));
            return;
        }
        let Some((joint, number)) = part.joint.clone() else {
            let outcomes = match self.refusal_of_all(&part) {
                Some(refusal) => vec![Outcome::Refused(refusal); part.events.len()],
                None => self.apply_part(part),
            };
            self.effects.publishers.push((reply, outcomes));
            return;
        };
        // What this turn has done so far stands before the joint batch.
        self.end_turn();
        let outcomes = self.apply_part(part);
        for at in std::mem::take(&mut self.touched) {
            if let Some(topic) = &mut self.topics[at] {
                topic.drain_changes(&mut self.mutations);
            }
        }
        self.effects.publishers.push((reply, outcomes));
        let effects = std::mem::take(&mut self.effects);
        let mutations = std::mem::take(&mut self.mutations);
        let (commit, submitted) = joint.contribute(&*self.storage, number, mutations, effects.keys.len());
        drop(joint);
        let _never_submitted_fails_the_commit = submitted.await;
        self.turns.push(commit, effects);
    }

    pub(super) fn apply_part(&mut self, part: PublishPart) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(part.events.len());
        for (topic, event) in &part.events {
            outcomes.push(match self.publish_one(topic, event) {
                Ok((_, _, outcome)) => outcome,
                Err(refusal) => Outcome::Refused(refusal),
            });
        }
        if let Some(cursor) = part.cursor {
            self.mutations.push(Mutation::Cursor { source: cursor.source, value: cursor.value });
        }
        outcomes
    }

    /// A source's batch is taken whole or not at all: its cursor must not move past an event for which there was no room.
    pub(super) fn refusal_of_all(&mut self, part: &PublishPart) -> Option<Refusal> {
        part.cursor.as_ref()?;
        let mut ahead: HashMap<TopicAt, (u64, u64)> = HashMap::new();
        for (name, event) in &part.events {
            let Some(at) = self.by_name.get(name).copied() else { continue };
            let now = self.now;
            let Some(topic) = &mut self.topics[at] else { continue };
            let (count, bytes) = ahead.entry(at).or_default();
            if let Err(refusal) = topic.check_room(event, *count, *bytes, now) {
                return Some(refusal);
            }
            *count += 1;
            *bytes += event.payload.len() as u64;
        }
        None
    }

    pub(super) fn rewrite(
        &mut self,
        events: Vec<(StoredEvent, Place)>,
        done: oneshot::Sender<Result<(), StorageError>>,
    ) {
        let is_moving = |(event, _): &(StoredEvent, Place)| {
            let topic = self.by_name.get(&event.topic).and_then(|at| self.topics[*at].as_ref());
            topic.is_some_and(|topic| topic.is_moving(event.key))
        };
        if events.iter().any(is_moving) {
            // Another shard is about to store that a subscription is done with one of these. A record that comes after that one,
            // and says who holds the event, must not say that the subscription does.
            return self.rewrite_later(events, done);
        }
        for (event, place) in events {
            let Some(at) = self.by_name.get(&event.topic).copied() else { continue };
            let Some(topic) = &self.topics[at] else { continue };
            if let Some(holders) = topic.holders(event.key, place) {
                self.effects.keys.push((at, event.key));
                self.mutations.push(Mutation::Rewrite { event, holders });
            }
        }
        self.effects.rewrites.push(done);
    }
}
