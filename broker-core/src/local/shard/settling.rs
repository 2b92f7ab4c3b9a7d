//! Acknowledgements, and events that are given back.

use super::super::turn::TopicAt;
use super::{Attachment, Shard};
use crate::engine::{Outcome, Refusal, Slot};
use crate::event::Millis;
use crate::name::{IdKey, TopicName};
use crate::queue::{Acknowledged, ClientId, ConsumerId, SubscriptionId, Topic};
use crate::storage::Storage;

/// An acknowledgement that has been done, and whose answer waits for a search to find whether anything is deliverable.
pub(super) struct Undecided {
    client: ClientId,
    slot: Slot,
    at: TopicAt,
    sub: SubscriptionId,
    consumer: ConsumerId,
    outcome: Outcome,
}

impl<S: Storage + ?Sized> Shard<S> {
    pub(super) fn acknowledge(&mut self, client: ClientId, slot: Slot, name: TopicName, ids: &[IdKey]) {
        let Some((at, Attachment { sub, consumer, .. })) = self.attachment(client, &name) else {
            return self.effects.outbox.outcome(client, slot, Outcome::Refused(Refusal::NotSubscribed(name)));
        };
        let answer = self.with(at, |topic, now| {
            let answers: Vec<_> = ids.iter().map(|id| topic.acknowledge(sub, consumer, *id)).collect();
            let made_room = answers.contains(&Acknowledged::InFlight);
            let found = answers.into_iter().map(|answer| answer != Acknowledged::NotFound).collect();
            let idle = if made_room { is_idle(topic, sub, consumer, now) } else { Some(false) };
            (Outcome::Acknowledged { found, idle: false }, idle)
        });
        if let Some((outcome, idle)) = answer {
            self.answer_or_wait(Undecided { client, slot, at, sub, consumer, outcome }, idle);
            self.pump(at, sub);
        }
    }

    pub(super) fn acknowledge_all(&mut self, client: ClientId, slot: Slot, name: TopicName) {
        let Some((at, Attachment { sub, consumer, .. })) = self.attachment(client, &name) else {
            return self.effects.outbox.outcome(client, slot, Outcome::Refused(Refusal::NotSubscribed(name)));
        };
        let answer = self.with(at, |topic, now| {
            let count = topic.acknowledge_all(sub, consumer);
            let idle = if count > 0 { is_idle(topic, sub, consumer, now) } else { Some(false) };
            (Outcome::AcknowledgedAll { count, idle: false }, idle)
        });
        if let Some((outcome, idle)) = answer {
            self.answer_or_wait(Undecided { client, slot, at, sub, consumer, outcome }, idle);
            self.pump(at, sub);
        }
    }

    fn answer_or_wait(&mut self, mut answer: Undecided, known: Option<bool>) {
        let Some(known) = known else { return self.undecided.push(answer) };
        if let Outcome::Acknowledged { idle, .. } | Outcome::AcknowledgedAll { idle, .. } = &mut answer.outcome {
            *idle = known;
        }
        self.effects.outbox.outcome(answer.client, answer.slot, answer.outcome);
    }

    /// Answers a client's acknowledgements before the delivery that they have made room for.
    pub(super) fn answer_before_delivery(&mut self, client: ClientId, at: TopicAt, sub: SubscriptionId) {
        let is_its = |one: &Undecided| one.client == client && one.at == at && one.sub == sub;
        let (answered, others) = std::mem::take(&mut self.undecided).into_iter().partition(is_its);
        self.undecided = others;
        let answered: Vec<Undecided> = answered;
        answered.into_iter().for_each(|one| self.answer_or_wait(one, Some(false)));
    }

    /// Goes on with the searches that acknowledgements wait for, a part of each; answers those of which the end is known.
    pub(super) fn decide(&mut self) {
        let mut unfinished = None;
        for one in std::mem::take(&mut self.undecided) {
            let Undecided { client, at, sub, consumer, .. } = one;
            let attachment = self.clients.get(&client).and_then(|client| client.attachments.get(&at));
            let is_attached = attachment.is_some_and(|now| now.sub == sub && now.consumer == consumer);
            let idle = if !is_attached {
                Some(false)
            } else if unfinished == Some((at, sub)) {
                None
            } else {
                self.with(at, |topic, now| is_idle(topic, sub, consumer, now)).unwrap_or(Some(false))
            };
            if idle.is_none() {
                unfinished = Some((at, sub));
            }
            self.answer_or_wait(one, idle);
        }
    }

    pub(super) fn requeue(&mut self, client: ClientId, slot: Slot, name: TopicName, id: IdKey, delay_ms: u64) {
        let Some((at, Attachment { sub, consumer, .. })) = self.attachment(client, &name) else {
            return self.effects.outbox.outcome(client, slot, Outcome::Refused(Refusal::NotSubscribed(name)));
        };
        let found = self.with(at, |topic, now| topic.requeue(sub, consumer, id, delay_ms, now)).unwrap_or(false);
        self.effects.outbox.outcome(client, slot, Outcome::Settled { found });
        self.pump(at, sub);
    }
}

/// Whether nothing is in flight on the consumer and nothing is deliverable now; `None`: that takes longer to find out.
fn is_idle(topic: &mut Topic, sub: SubscriptionId, consumer: ConsumerId, now: Millis) -> Option<bool> {
    if topic.in_flight_of(sub, consumer) > 0 {
        return Some(false);
    }
    topic.is_deliverable(sub, now).map(|deliverable| !deliverable)
}
