//! Steps that take events out of a topic: letters there and back, purges, expiry; and a look at what is left.

use super::super::super::{Fate, SubscriptionId};
use super::super::model::Published;
use super::super::new_event;
use super::Run;
use crate::event::EventKey;
use crate::name::TopicName;
use crate::storage::Mutation;

impl Run {
    /// Sends the letters that wait, in order, to be stored elsewhere.
    pub(super) fn send_letters(&mut self) {
        // What was said of these before is stored before.
        self.commit();
        let given_up = self.topic.take_terminated();
        let letters = self.topic.take_letters(self.now);
        for outgoing in &letters {
            let (_, in_model) = self.in_model(outgoing.sub);
            assert_eq!(self.model.unsent(in_model).get(&outgoing.key.seq.0), Some(&outgoing.reason));
            self.model.send(in_model, outgoing.key.seq.0);
        }
        for letters in [given_up, letters] {
            let letters = letters.into_iter().map(|letter| {
                let found = self.subs.iter().find(|(sub, _)| *sub == letter.sub);
                // One that was given up may be of a subscription that has gone since.
                let in_model = found.map_or(usize::MAX, |(_, in_model)| *in_model);
                (letter, in_model)
            });
            let letters: Vec<_> = letters.collect();
            if !letters.is_empty() {
                self.sent.push_back(letters);
            }
        }
    }

    pub(super) fn in_model(&self, sub: SubscriptionId) -> (SubscriptionId, usize) {
        *self.subs.iter().find(|(other, _)| *other == sub).expect("it is there")
    }

    pub(super) fn letters_arrive(&mut self, stay: u8, lost: u8, full: bool) {
        let Some(letters) = self.sent.pop_front() else { return };
        let given_up = letters.iter().all(|(letter, _)| letter.ticket.is_some());
        let mut fates = Vec::new();
        for (n, (letter, in_model)) in letters.into_iter().enumerate() {
            let is = |bits: u8| bits >> (n % 8) & 1 == 1;
            let fate = if is(stay) {
                Fate::Kept
            } else if is(lost) {
                Fate::Lost
            } else {
                Fate::Gone
            };
            if fate == Fate::Gone
                && let Some(subscription) = letter.subscription.clone()
            {
                let (topic, events) = (TopicName::new("t").unwrap(), vec![letter.key]);
                self.turn.push((Mutation::Settle { topic, subscription, events }, None));
            }
            fates.push((letter, fate, in_model));
        }
        for (letter, fate, in_model) in &fates {
            if self.subs.iter().any(|(_, other)| other == in_model) {
                let (gone, lost) = (*fate == Fate::Gone, *fate == Fate::Lost);
                self.model.letter_done(*in_model, letter.key.seq.0, gone, lost, self.now.0);
            }
        }
        if !given_up {
            self.model.letters_done(full, self.now.0);
        }
        let fates = fates.into_iter().map(|(letter, fate, _)| (letter, fate)).collect();
        self.topic.letters_done(fates, full.then(|| "it is full".to_owned()), self.now);
    }

    /// Returns whether there was a letter.
    pub(super) fn all_arrives(&mut self) -> bool {
        let mut some = false;
        loop {
            self.send_letters();
            if self.sent.is_empty() {
                return some;
            }
            some = true;
            self.letters_arrive(0, 0, false);
        }
    }

    pub(super) fn purge(&mut self, sub: SubscriptionId, in_model: usize, slice: usize) {
        let count = self.topic.purge(sub, 7);
        assert_eq!(count, self.model.purge(in_model));
        let mut purged = Vec::new();
        let mut more = true;
        while more {
            more = self.topic.settle_backlogs(slice.max(1));
            purged.extend(self.topic.take_purged());
        }
        assert_eq!(purged, [7]);
    }

    pub(super) fn peek(&mut self, sub: SubscriptionId, in_model: usize) {
        let got: Vec<_> = self.topic.peek(sub, 1000, usize::MAX, self.now, None).events;
        let (mut paged, mut after) = (Vec::new(), None);
        // One event at a time: a page ends with the event that fills it.
        while let page = self.topic.peek(sub, 1000, 1, self.now, after)
            && let Some(peeked) = page.events.first()
        {
            assert_eq!(page.next, Some(peeked.key));
            after = page.next;
            paged.push((peeked.key.seq.0, peeked.redelivered));
        }
        let got: Vec<_> = got.iter().map(|peeked| (peeked.key.seq.0, peeked.redelivered)).collect();
        assert_eq!(paged, got);
        assert_eq!(got, self.model.peek(in_model, self.now.0));
    }

    pub(super) fn expire(&mut self) {
        let mut rounds = 0;
        while self.topic.next_own_change().is_some_and(|at| at <= self.now) && rounds < 1000 {
            self.topic.expire(self.now, 3);
            self.topic.come_due(self.now, 3);
            rounds += 1;
        }
        self.model.expire(self.now.0);
    }

    pub(super) fn revive(&mut self, sub: SubscriptionId, in_model: usize, id: u8, priority: i32) {
        let Some(name) = self.topic.subscription_name(sub).cloned() else { return };
        let event = new_event(id, priority, 1_000_000 + self.model.last_seq, 0);
        let bytes = event.payload.len() as u64;
        let published = Published { id, priority, ttl_ms: 0, delay_ms: 0, bytes };
        let expected = self.model.revive(in_model, published, 1_000_000 + self.model.last_seq, self.now.0);
        let stored = self.topic.revive(&event, &name, self.now);
        assert_eq!(stored.is_some(), expected);
        let Some(stored) = stored else { return };
        self.ids.insert(stored.key, event.id);
        self.events.insert(stored.key, stored.clone());
        self.turn.push((Mutation::Publish(stored), None));
        if self.manner.at_once {
            self.commit();
            self.write(usize::MAX);
            self.show(usize::MAX);
        }
    }

    /// Letters go back to where they came from: as far as this topic can see, they are gone for all, or stay.
    pub(super) fn send_back(&mut self, bits: u8, arrives: bool) {
        self.commit();
        let mut next = Some(None);
        let mut sent = Vec::new();
        while let Some(after) = next {
            let walk = self.topic.walk_letters(after, self.topic.last_seq());
            next = walk.next.map(Some);
            for (key, id, ..) in walk.letters {
                assert!(self.model.only_waits(key.seq.0), "{key:?} does not only wait");
                if bits >> (key.seq.0 % 8) & 1 == 1 {
                    assert!(self.topic.send_back(key, id));
                    assert!(self.topic.is_moving(key));
                    sent.push((key, arrives));
                }
            }
        }
        if arrives {
            let events: Vec<EventKey> = sent.iter().map(|(key, _)| *key).collect();
            events.iter().for_each(|key| self.model.forget(key.seq.0));
            if !events.is_empty() {
                self.turn.push((Mutation::Forget { topic: TopicName::new("t").unwrap(), events }, None));
            }
        }
        self.topic.sent_back(sent, self.now);
    }
}
