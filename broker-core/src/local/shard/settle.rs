//! Acknowledging, returning and touching events in flight.

use super::Shard;
use super::clients::Attachment;
use super::idle::{Unanswered, is_idle};
use crate::engine::{Found, Outcome, Refusal};
use crate::event::Millis;
use crate::local::turn::ReplyTo;
use crate::name::{IdKey, TopicName};
use crate::queue::{Acknowledged, Topic};
use crate::storage::Storage;

impl<S: Storage + ?Sized> Shard<S> {
    /// Acknowledges events by id.
    pub(super) fn acknowledge(&mut self, to: ReplyTo, name: TopicName, ids: &[IdKey]) {
        self.settle(to, name, |topic, attachment, now| {
            let Attachment { sub, consumer, .. } = *attachment;
            let answers: Vec<_> = ids.iter().map(|id| topic.acknowledge(sub, consumer, *id)).collect();
            let made_room = answers.contains(&Acknowledged::InFlight);
            let found = answers.into_iter().map(|answer| match answer {
                Acknowledged::InFlight | Acknowledged::Waiting | Acknowledged::Late => Found::Settled,
                Acknowledged::NotHeld => Found::NotHeld,
                Acknowledged::NoLongerHeld => Found::NoLongerHeld,
            });
            let found = found.collect();
            let idle = if made_room { is_idle(topic, sub, consumer, now) } else { Some(false) };
            (Outcome::Acknowledged { found, idle: false }, idle)
        });
    }

    /// Acknowledges all events in flight on the client for a topic.
    pub(super) fn acknowledge_all(&mut self, to: ReplyTo, name: TopicName) {
        self.settle(to, name, |topic, attachment, now| {
            let Attachment { sub, consumer, .. } = *attachment;
            let count = topic.acknowledge_all(sub, consumer);
            let idle = if count > 0 { is_idle(topic, sub, consumer, now) } else { Some(false) };
            (Outcome::AcknowledgedAll { count, idle: false }, idle)
        });
    }

    /// Applies an acknowledgement, answers it as soon as its second result is known, and delivers into the room it has made.
    fn settle(
        &mut self,
        to: ReplyTo,
        name: TopicName,
        acknowledge: impl FnOnce(&mut Topic, &Attachment, Millis) -> (Outcome, Option<bool>),
    ) {
        let Some(attachment) = self.attachment(to.client, &name) else {
            return self.refuse(to, Refusal::NotSubscribed(name));
        };
        let Attachment { at, sub, consumer, .. } = attachment;
        let answer = self.queues.with(at, |topic, now| acknowledge(topic, &attachment, now));
        if let Some((outcome, idle)) = answer {
            self.answer_or_wait(Unanswered { to, at, sub, consumer, outcome }, idle);
            self.pump(at, sub);
        }
    }

    /// Returns an event in flight to its queue, to be delivered again after `delay_ms`.
    pub(super) fn nack(&mut self, to: ReplyTo, name: TopicName, id: IdKey, delay_ms: u64) {
        let Some(Attachment { at, sub, consumer, .. }) = self.attachment(to.client, &name) else {
            return self.refuse(to, Refusal::NotSubscribed(name));
        };
        let found = self.queues.with(at, |topic, now| topic.nack(sub, consumer, id, delay_ms, now));
        self.queues.turn.reply(to, Outcome::Settled { found: found.unwrap_or(false) });
        self.pump(at, sub);
    }

    /// Restarts the acknowledgement time-out of an event in flight.
    pub(super) fn touch(&mut self, to: ReplyTo, name: TopicName, id: IdKey) {
        let Some(Attachment { at, sub, consumer, .. }) = self.attachment(to.client, &name) else {
            return self.refuse(to, Refusal::NotSubscribed(name));
        };
        let found = self.queues.with(at, |topic, now| topic.touch(sub, consumer, id, now));
        self.queues.schedule(at, sub);
        self.queues.turn.reply(to, Outcome::Settled { found: found.unwrap_or(false) });
    }
}
