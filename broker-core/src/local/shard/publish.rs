//! Publishing, by clients and from within the process.

use std::collections::HashMap;

use super::Shard;
use super::queues::Queues;
use crate::engine::{Offer, Outcome, Refusal};
use crate::event::{NewEvent, Seq};
use crate::local::message::{Aside, PublishPart, PublishReply};
use crate::local::topics::TopicAt;
use crate::local::turn::ReplyTo;
use crate::name::TopicName;
use crate::storage::{Mutation, Storage};

/// An event that was accepted.
struct Accepted {
    at: TopicAt,
    /// The sequence of the event, if it has to be stored.
    stored: Option<Seq>,
    outcome: Outcome,
}

impl<S: Storage + ?Sized> Shard<S> {
    /// Publishes an event of a client.
    pub(super) fn publish(&mut self, to: ReplyTo, topic: &TopicName, event: &NewEvent, confirm: bool) {
        if !self.storage.has_room() {
            return self.refuse(to, Refusal::disk_full(topic));
        }
        match self.queues.publish(topic, event) {
            Err(refusal) => self.refuse(to, refusal),
            Ok(Accepted { at, stored: Some(seq), outcome }) => {
                self.clients.published(to.client, at, seq);
                if confirm {
                    self.queues.turn.confirm(to, outcome);
                } else {
                    self.queues.turn.reply(to, outcome);
                }
            }
            Ok(Accepted { stored: None, outcome, .. }) => self.queues.turn.reply(to, outcome),
        }
    }

    /// Publishes a batch, or a part of one, from within the process.
    pub(super) async fn publish_part(&mut self, part: PublishPart, reply: PublishReply) {
        if let Some(reason) = self.shared.failure() {
            // A joint batch is then never completed, and its other shards learn of it from their stages.
            let _the_publisher_has_gone = reply.send(Err(reason));
            return;
        }
        let Some((joint, number)) = part.joint.clone() else {
            let outcomes = self.queues.publish_all(part);
            self.queues.turn.answer_publisher(reply, outcomes);
            return;
        };
        // The changes of this turn so far take effect before the joint batch.
        self.end_turn();
        let outcomes = self.queues.publish_all(part);
        for at in self.queues.turn.take_touched() {
            self.queues.drain_changes(at);
        }
        self.queues.turn.answer_publisher(reply, outcomes);
        let (mutations, effects) = self.queues.turn.take();
        let (commit, submitted) = joint.contribute(&*self.storage, number, mutations, effects.written.keys.len());
        drop(joint);
        let _a_batch_that_is_never_submitted_fails_the_commit = submitted.await;
        self.commits.push(commit, effects);
    }
}

impl Queues {
    fn publish(&mut self, name: &TopicName, event: &NewEvent) -> Result<Accepted, Refusal> {
        let (bytes, limit) = (event.payload.longest_delivery(name), self.max_output_line_bytes());
        if bytes > limit {
            return Err(Refusal::TooLong { topic: name.clone(), bytes, limit });
        }
        let at = self.find_or_create(name)?;
        self.keep_dead_letters(at)?;
        let Some(publication) = self.with(at, |topic, now| topic.publish(event, now)) else {
            return Err(Refusal::UnknownTopic(name.clone()));
        };
        let publication = publication?;
        let Some(stored) = publication.stored else {
            let outcome = if publication.dropped { Outcome::Dropped } else { Outcome::Published { replaced: false } };
            return Ok(Accepted { at, stored: None, outcome });
        };
        if !publication.replaces.is_empty() {
            self.turn.push(Mutation::Forget { topic: name.clone(), events: publication.replaces });
        }
        let seq = stored.key.seq;
        self.turn.store(at, stored);
        Ok(Accepted { at, stored: Some(seq), outcome: Outcome::Published { replaced: publication.replaced } })
    }

    /// Publishes the events of a part and stores its cursor. Events of a source whose topic is full stand aside instead: the batch
    /// stores them beside the cursor, and the batch that publishes them later removes that copy.
    fn publish_all(&mut self, part: PublishPart) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(part.events.len());
        let mut full: HashMap<TopicName, Refusal> = HashMap::new();
        for (at, (topic, event)) in part.events.into_iter().enumerate() {
            let Some(asides) = &part.asides else {
                outcomes.push(self.publish(&topic, &event).map_or_else(Outcome::Refused, |accepted| accepted.outcome));
                continue;
            };
            let Aside { number, order, aside, held } = asides.events[at];
            if held && !full.contains_key(&topic) {
                let limit = "earlier events stand aside".to_owned();
                full.insert(topic.clone(), Refusal::Full { topic: topic.clone(), limit });
            }
            // After a topic has refused an event, later ones of the batch would overtake it, so they stand aside unasked.
            let published = full.get(&topic).cloned().map_or_else(|| self.publish(&topic, &event), Err);
            let outcome = published.map_or_else(Outcome::Refused, |accepted| accepted.outcome);
            let stands_aside = outcome.stands_aside();
            if let Outcome::Refused(refusal) = &outcome
                && stands_aside
            {
                full.entry(topic.clone()).or_insert_with(|| refusal.clone());
            }
            // The stored copy changes only when an event starts or ceases to stand aside. A final refusal removes it as well.
            if stands_aside != aside {
                let offer = Offer { number, order, topic, event, aside, held };
                let value = if stands_aside { offer.encode() } else { String::new() };
                self.turn.push(Mutation::Cursor { source: offer.key(&asides.source), value });
            }
            outcomes.push(outcome);
        }
        if let Some(cursor) = part.cursor {
            self.turn.push(Mutation::Cursor { source: cursor.source, value: cursor.value });
        }
        outcomes
    }
}
