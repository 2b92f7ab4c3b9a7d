//! Dead letters on their way to the dead-letter topic.
//!
//! The topic provides the letters to send ([`Topic::take_letters`], [`Topic::take_terminated`]). The driver has the dead-letter topic
//! store them in the batch that also settles them here, and reports the outcomes ([`Topic::letters_done`]).

use super::{SubscriptionId, Topic};
use crate::event::{EventKey, Millis, Payload};
use crate::letter::Reason;
use crate::name::{IdKey, SubscriptionName, TopicName};
use crate::queue::flights::Flight;
use crate::queue::subscription::{ClientId, ConsumerId};
use crate::storage::Place;

/// The most letters sent together.
pub const LETTERS: usize = 256;

/// The number of bytes after which no further letter is sent with others.
pub(super) const LETTER_BYTES: usize = 1 << 20;

/// An event on its way to the dead-letter topic.
#[derive(Debug)]
pub struct Outgoing {
    /// The subscription it leaves.
    pub sub: SubscriptionId,
    birth: u64,
    /// The name of that subscription, if it is durable.
    pub subscription: Option<SubscriptionName>,
    /// The event.
    pub key: EventKey,
    /// The key of the event's id.
    pub id: IdKey,
    /// The number of deliveries.
    pub deliveries: u32,
    /// The reason of the dead letter.
    pub reason: Reason,
    /// The note of the consumer that terminated it.
    pub note: Option<Box<str>>,
    /// The event's payload, if it is in memory.
    pub payload: Option<Payload>,
    /// The event's place in the storage, if it is written.
    pub place: Option<Place>,
    /// The terminated delivery and its client.
    terminated: Option<(Flight, ClientId)>,
    /// The request that terminated it.
    pub ticket: Option<(ClientId, u64)>,
}

/// The outcome of sending a letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The dead-letter topic has stored it, and the same batch settles it here.
    Gone,
    /// The dead-letter topic had no room for it.
    Kept,
    /// The event can no longer be read.
    Lost,
}

impl Topic {
    /// The dead-letter topic; `None` if its name would be invalid.
    #[must_use]
    pub fn dead_letter(&self) -> Option<&TopicName> {
        self.outbox.address()
    }

    /// Makes a dead letter of an event in flight on `consumer`. Returns whether it was in flight.
    pub fn terminate(
        &mut self,
        sub: SubscriptionId,
        consumer: ConsumerId,
        id: IdKey,
        note: Option<Box<str>>,
        slot: u64,
        now: Millis,
    ) -> bool {
        let subscription = &mut self.subscriptions[sub];
        let Some(at) = subscription.find_flight(id, consumer) else { return false };
        let client = subscription.client(consumer);
        let flight = subscription.terminate(at, now);
        let key = flight.key;
        self.outbox.push_terminated(Outgoing {
            sub,
            birth: subscription.birth(),
            subscription: subscription.name().cloned(),
            key,
            id,
            deliveries: flight.history.deliveries,
            reason: Reason::Terminated,
            note,
            payload: self.log.payload(key).cloned(),
            place: self.log.get(key).and_then(|entry| entry.place()),
            terminated: Some((flight, client)),
            ticket: Some((client, slot)),
        });
        true
    }

    /// Takes the events terminated by consumers since the last call, which are sent at once.
    pub fn take_terminated(&mut self) -> Vec<Outgoing> {
        self.outbox.take_terminated()
    }

    /// Takes the next letters to send, in order. There are none while others are under way or the dead-letter topic is full.
    pub fn take_letters(&mut self, now: Millis) -> Vec<Outgoing> {
        let mut letters = Vec::new();
        if !self.outbox.can_send(now) {
            return letters;
        }
        let mut bytes = 0;
        while letters.len() < LETTERS
            && bytes < LETTER_BYTES
            && let Some(id) = self.outbox.first()
        {
            let Some(sub) = self.subscriptions.get_mut(id) else {
                self.outbox.remove(id);
                continue;
            };
            let Some((key, letter)) = sub.send_next() else {
                self.outbox.remove(id);
                continue;
            };
            let Some((entry, reason)) = self.log.get(key).zip(letter.reason) else { continue };
            bytes += entry.len as usize;
            letters.push(Outgoing {
                sub: id,
                birth: sub.birth(),
                subscription: sub.name().cloned(),
                key,
                id: entry.id,
                deliveries: letter.history.deliveries,
                reason,
                note: None,
                payload: self.log.payload(key).cloned(),
                place: entry.place(),
                terminated: None,
                ticket: None,
            });
        }
        self.outbox.set_under_way(!letters.is_empty());
        letters
    }

    /// Removes from `letters` those that could not be read only because the storage has moved them since. They are sent again.
    #[must_use]
    pub fn without_moved(&mut self, letters: Vec<(Outgoing, Fate)>) -> Vec<(Outgoing, Fate)> {
        let (moved, rest): (Vec<_>, Vec<_>) = letters.into_iter().partition(|(letter, fate)| {
            let entry = self.log.get(letter.key);
            *fate == Fate::Lost && letter.payload.is_none() && entry.is_some_and(|entry| entry.place() != letter.place)
        });
        for (mut letter, _) in moved {
            if letter.terminated.is_some() {
                letter.payload = self.log.payload(letter.key).cloned();
                letter.place = self.log.get(letter.key).and_then(|entry| entry.place());
                self.outbox.push_terminated(letter);
                continue;
            }
            self.outbox.set_under_way(false);
            if let Some(sub) = self.subscriptions.get_born(letter.sub, letter.birth) {
                sub.keep_letter(&mut self.log, letter.key);
                self.note_changed(letter.sub);
            }
        }
        rest
    }

    /// Handles the outcomes of sent letters. `full`: why the dead-letter topic had no room for some of them.
    pub fn letters_done(&mut self, letters: Vec<(Outgoing, Fate)>, full: Option<String>, now: Millis) {
        let rules = self.rules();
        if letters.iter().any(|(letter, _)| letter.terminated.is_none()) {
            self.outbox.answered(full, now);
        }
        for (Outgoing { sub: id, birth, key, terminated, .. }, fate) in letters {
            // Places are reused. A subscription that has ended has already settled its letters.
            let Some(sub) = self.subscriptions.get_born(id, birth) else { continue };
            match (fate, &terminated) {
                (Fate::Gone, _) => sub.letter_has_gone(&mut self.log, key),
                (Fate::Lost, _) => sub.letter_is_lost(&mut self.log, key),
                (Fate::Kept, None) => sub.keep_letter(&mut self.log, key),
                (Fate::Kept, Some((flight, client))) if sub.is_consumer_of(flight.consumer, *client) => {
                    sub.keep_in_flight(&self.log, flight, now, rules);
                    if sub.unrecorded() == 1 {
                        self.delivered.push(id);
                    }
                }
                (Fate::Kept, Some((flight, _))) => sub.return_terminated(&mut self.log, flight, now, rules),
            }
            if let Some((flight, client)) = terminated {
                sub.end_termination(flight.consumer, client);
            }
            self.note_changed(id);
        }
    }

    /// Whether another topic has been asked to take the event from a subscription, so that other records about it must wait.
    #[must_use]
    pub fn is_moving(&self, key: EventKey) -> bool {
        self.subscriptions.values().any(|sub| sub.is_moving(key))
    }
}
