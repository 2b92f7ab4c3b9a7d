//! Dead letters on their way to the dead-letter topic, and on their way back.
//!
//! The topic says what is to be sent ([`Topic::take_letters`], [`Topic::take_given_up`]); whoever drives it has the other topic
//! store it together with the settlement here, and says how that went ([`Topic::letters_done`]).

use super::{ConsumerId, SubscriptionId, Topic};
use crate::event::{EventKey, Millis, Payload, Seq};
use crate::letter::Reason;
use crate::name::{IdKey, SubscriptionName, TopicName};
use crate::queue::flights::Flight;
use crate::queue::subscription::{ClientId, Hold};
use crate::storage::Place;

/// The most letters that are sent together.
pub const LETTERS: usize = 256;

/// After so many bytes no more letters are sent together.
const LETTER_BYTES: usize = 1 << 20;

/// Events that one step of a walk through the dead letters looks at.
const WALK: usize = 4096;

/// How long a full dead-letter topic is left alone.
const FULL_MS: u64 = 1000;

/// An event on its way to the dead-letter topic.
#[derive(Debug)]
pub struct Outgoing {
    /// The subscription that it leaves.
    pub sub: SubscriptionId,
    birth: u64,
    /// Its name.
    pub subscription: Option<SubscriptionName>,
    /// The event.
    pub key: EventKey,
    /// Stands for its id.
    pub id: IdKey,
    /// How often it has been delivered.
    pub deliveries: u32,
    /// Why it is dead.
    pub reason: Reason,
    /// What was said about it.
    pub note: Option<Box<str>>,
    /// Its encoding, if it is in memory.
    pub payload: Option<Payload>,
    /// Where the storage keeps it, if it is written.
    pub place: Option<Place>,
    given_up: Option<(Flight, ClientId)>,
    /// For one that was given up: names the request.
    pub ticket: Option<(ClientId, u64)>,
}

/// How it went with a letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The dead-letter topic has stored it, and that it is settled here.
    Gone,
    /// There was no room for it.
    Kept,
    /// It cannot be read any more.
    Lost,
}

/// A step of a walk through dead letters.
#[derive(Debug)]
pub struct Walk {
    /// Letters that wait, in delivery order, with their encoding if it is in memory and their place if they are written.
    pub letters: Vec<(EventKey, IdKey, Option<Payload>, Option<Place>)>,
    /// Where to go on; `None`: the walk is over.
    pub next: Option<EventKey>,
}

impl Topic {
    // ---- To the dead-letter topic ----

    /// Where its dead letters go.
    #[must_use]
    pub fn dead_letter(&self) -> Option<&TopicName> {
        self.dead_letter.as_ref()
    }

    /// Makes a dead letter of an event that is in flight on `consumer`. Returns whether it was.
    pub fn terminate(
        &mut self,
        sub: SubscriptionId,
        consumer: ConsumerId,
        id: IdKey,
        note: Option<Box<str>>,
        slot: u64,
        now: Millis,
    ) -> bool {
        let subscription = &mut self.subscriptions[sub.0];
        let Some(at) = subscription.flights.find(id, consumer.0) else { return false };
        let client = subscription.consumers[consumer.0 as usize].client;
        let flight = subscription.give_up(at, now);
        let (birth, name, key) = (subscription.birth, subscription.name.clone(), flight.key);
        let outgoing = Outgoing {
            sub,
            birth,
            subscription: name,
            key,
            id,
            deliveries: flight.deliveries,
            reason: Reason::Terminated,
            note,
            payload: self.log.payload(key).cloned(),
            place: self.log.get(key).and_then(|entry| entry.place()),
            given_up: Some((flight, client)),
            ticket: Some((client, slot)),
        };
        self.given_up.push(outgoing);
        true
    }

    /// What has been given up since the last call, to be sent at once.
    pub fn take_given_up(&mut self) -> Vec<Outgoing> {
        std::mem::take(&mut self.given_up)
    }

    /// The next letters to be sent, in order. None while those before are under way, or while the dead-letter topic is full.
    pub fn take_letters(&mut self, now: Millis) -> Vec<Outgoing> {
        if self.burying
            || self.with_letters.is_empty()
            || self.dead_full.as_ref().is_some_and(|(until, _)| *until > now)
        {
            return Vec::new();
        }
        let mut outgoing = Vec::new();
        let mut bytes = 0;
        while outgoing.len() < LETTERS
            && bytes < LETTER_BYTES
            && let Some(at) = self.with_letters.first().copied()
        {
            let Some(sub) = self.subscriptions.get_mut(at) else {
                self.with_letters.remove(&at);
                continue;
            };
            let letter = sub.send_letters(1).into_iter().next();
            let Some((key, letter)) = letter else {
                self.with_letters.remove(&at);
                continue;
            };
            let Some((entry, reason)) = self.log.get(key).zip(letter.reason) else { continue };
            bytes += entry.len as usize;
            outgoing.push(Outgoing {
                sub: SubscriptionId(at),
                birth: sub.birth,
                subscription: sub.name.clone(),
                key,
                id: entry.id,
                deliveries: letter.deliveries,
                reason,
                note: None,
                payload: self.log.payload(key).cloned(),
                place: entry.place(),
                given_up: None,
                ticket: None,
            });
        }
        self.burying = !outgoing.is_empty();
        outgoing
    }

    /// Takes out of `letters` what could not be read because the storage has moved it meanwhile; it is sent again.
    #[must_use]
    pub fn without_moved(&mut self, letters: Vec<(Outgoing, Fate)>) -> Vec<(Outgoing, Fate)> {
        let (moved, rest) = letters.into_iter().partition(|(letter, fate)| {
            let entry = self.log.get(letter.key);
            *fate == Fate::Lost && letter.payload.is_none() && entry.is_some_and(|entry| entry.place() != letter.place)
        });
        let moved: Vec<(Outgoing, Fate)> = moved;
        for (mut letter, _) in moved {
            if letter.given_up.is_some() {
                letter.payload = self.log.payload(letter.key).cloned();
                letter.place = self.log.get(letter.key).and_then(|entry| entry.place());
                self.given_up.push(letter);
                continue;
            }
            self.burying = false;
            let SubscriptionId(at) = letter.sub;
            if let Some(sub) = self.subscriptions.get_mut(at).filter(|sub| sub.birth == letter.birth) {
                sub.keep_letter(&mut self.log, letter.key);
                self.changed(at);
            }
        }
        rest
    }

    /// How it went with letters that were sent. `full`: why the dead-letter topic had no room for some of them.
    pub fn letters_done(&mut self, letters: Vec<(Outgoing, Fate)>, full: Option<String>, now: Millis) {
        let rules = self.rules();
        if letters.iter().any(|(letter, _)| letter.given_up.is_none()) {
            self.burying = false;
            self.dead_full = full.map(|why| (now.plus(FULL_MS), why));
        }
        for (letter, fate) in letters {
            let Outgoing { sub: SubscriptionId(at), birth, key, given_up, .. } = letter;
            // A place is used again; what it was used for has gone with what it held.
            let Some(sub) = self.subscriptions.get_mut(at).filter(|sub| sub.birth == birth) else { continue };
            let giver = given_up.as_ref().map(|(flight, client)| (flight.consumer, *client));
            match (fate, given_up) {
                (Fate::Gone, _) => sub.letter_has_gone(&mut self.log, key),
                (Fate::Lost, _) => sub.letter_is_lost(&mut self.log, key),
                (Fate::Kept, None) => sub.keep_letter(&mut self.log, key),
                (Fate::Kept, Some((flight, client))) => {
                    let consumer = sub.consumers.get(flight.consumer as usize);
                    if consumer.is_some_and(|consumer| consumer.client == client) {
                        sub.keep_in_flight(&mut self.log, &flight, now, rules);
                    } else {
                        sub.come_back_given_up(&mut self.log, &flight, now);
                    }
                }
            }
            if let Some((consumer, client)) = giver
                && sub.consumers.get(consumer as usize).is_some_and(|consumer| consumer.client == client)
            {
                sub.gave_up(consumer);
            }
            self.changed(at);
        }
    }

    /// Whether another topic has been asked to take the event from a subscription: what is said of it must wait for the answer.
    #[must_use]
    pub fn is_moving(&self, key: EventKey) -> bool {
        self.subscriptions.iter().any(|(_, sub)| sub.is_moving(key))
    }

    // ---- And back ----

    /// Looks for letters that wait, from `after` on in delivery order, up to the event `until`.
    #[must_use]
    pub fn walk_letters(&self, after: Option<EventKey>, until: Seq) -> Walk {
        let mut walk = Walk { letters: Vec::new(), next: None };
        let (mut looked, mut bytes) = (0, 0);
        let mut from = after;
        let mut lane = match after {
            Some(after) => Some(after.priority),
            None => self.log.priorities().next(),
        };
        while let Some(priority) = lane {
            let position = from.take().filter(|from| from.priority == priority).map_or(Seq(0), |from| from.seq);
            for entry in self.log.iter_after(priority, position).take_while(|entry| entry.seq <= until) {
                let key = EventKey { priority, seq: entry.seq };
                looked += 1;
                if self.only_waits(key, entry.id) {
                    bytes += entry.len as usize;
                    walk.letters.push((key, entry.id, self.log.payload(key).cloned(), entry.place()));
                }
                if looked >= WALK || walk.letters.len() >= LETTERS || bytes >= LETTER_BYTES {
                    walk.next = Some(key);
                    return walk;
                }
            }
            lane = self.log.priority_below(priority);
        }
        walk
    }

    /// Whether an event waits, and is in flight or on its way nowhere.
    fn only_waits(&self, key: EventKey, id: IdKey) -> bool {
        let mut waits = false;
        for (_, sub) in &self.subscriptions {
            match sub.hold(key, id) {
                Hold::None => {}
                Hold::Waiting if sub.is_letter(key) => return false,
                Hold::Waiting => waits = true,
                Hold::InFlight | Hold::Moving => return false,
            }
        }
        waits
    }

    /// A letter is on its way back to where it came from: it is not delivered meanwhile. Returns whether it still waited.
    pub fn send_back(&mut self, key: EventKey, id: IdKey) -> bool {
        let waits = self.log.get(key).is_some_and(|entry| !entry.withdrawn()) && self.only_waits(key, id);
        if waits {
            for (_, sub) in &mut self.subscriptions {
                if sub.hold(key, id) == Hold::Waiting {
                    sub.set_moving(&self.log, key);
                }
            }
        }
        waits
    }

    /// How it went with letters that were sent back: whether each has gone. The batch that put it back has also said that it is
    /// forgotten here.
    pub fn sent_back(&mut self, letters: Vec<(EventKey, bool)>, now: Millis) {
        for (key, has_gone) in letters {
            let len = self.log.get(key).map_or(0, |entry| u64::from(entry.len));
            let mut gone = 0;
            for (at, sub) in &mut self.subscriptions {
                if !sub.is_moving(key) {
                    continue;
                }
                if has_gone {
                    gone += u32::from(sub.letter_is_withdrawn(key, len));
                } else {
                    sub.stays(&mut self.log, key, now);
                    self.dirty.push(at);
                }
            }
            if has_gone && gone > 0 {
                self.log.withdraw(key, 0);
            }
        }
    }
}
