//! Acknowledgements, and events that are given back.

use super::{Attachment, Shard};
use crate::engine::{Outcome, Refusal, Slot};
use crate::event::Millis;
use crate::name::{IdKey, TopicName};
use crate::queue::{Acknowledged, ClientId, ConsumerId, SubscriptionId, Topic};
use crate::storage::Storage;

impl<S: Storage + ?Sized> Shard<S> {
    pub(super) fn acknowledge(&mut self, client: ClientId, slot: Slot, name: TopicName, ids: &[IdKey]) {
        let Some((at, Attachment { sub, consumer, .. })) = self.attachment(client, &name) else {
            return self.effects.outbox.outcome(client, slot, Outcome::Refused(Refusal::NotSubscribed(name)));
        };
        let answer = self.with(at, |topic, now| {
            let answers: Vec<_> = ids.iter().map(|id| topic.acknowledge(sub, consumer, *id)).collect();
            let made_room = answers.contains(&Acknowledged::InFlight);
            let found = answers.into_iter().map(|answer| answer != Acknowledged::NotFound).collect();
            Outcome::Acknowledged { found, idle: made_room && is_idle(topic, sub, consumer, now) }
        });
        if let Some(outcome) = answer {
            self.effects.outbox.outcome(client, slot, outcome);
            self.pump(at, sub);
        }
    }

    pub(super) fn acknowledge_all(&mut self, client: ClientId, slot: Slot, name: TopicName) {
        let Some((at, Attachment { sub, consumer, .. })) = self.attachment(client, &name) else {
            return self.effects.outbox.outcome(client, slot, Outcome::Refused(Refusal::NotSubscribed(name)));
        };
        let answer = self.with(at, |topic, now| {
            let count = topic.acknowledge_all(sub, consumer);
            Outcome::AcknowledgedAll { count, idle: count > 0 && is_idle(topic, sub, consumer, now) }
        });
        if let Some(outcome) = answer {
            self.effects.outbox.outcome(client, slot, outcome);
            self.pump(at, sub);
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

/// Whether nothing is in flight on the consumer and nothing is deliverable now.
fn is_idle(topic: &mut Topic, sub: SubscriptionId, consumer: ConsumerId, now: Millis) -> bool {
    topic.in_flight_of(sub, consumer) == 0 && !topic.is_deliverable(sub, now)
}
