//! Deliveries, redeliveries, dead letters, and the effects of passing time.

use std::collections::BTreeMap;

use broker_core::policy::TopicPolicy;

use super::{Checked, Flight, Held, Late, Letter, Model, Topic};
use crate::seen::Seen;

impl Model {
    /// Returns an event in flight to the queue, or makes it a dead letter.
    pub(super) fn come_back(&mut self, topic: &str, subscription: usize, at: usize, due: u64) {
        let (now, policy) = (self.now, self.policy(topic));
        let events = &mut self.subscription(topic, subscription).events;
        let held = &mut events[at];
        let Some(flight) = held.flight.take() else { return };
        held.flown += now - flight.since;
        held.due = due;
        if held.replaced {
            events.remove(at);
        } else if policy.max_deliveries > 0 && held.deliveries >= policy.max_deliveries {
            self.die(topic, subscription, at, "max_deliveries", None);
        }
    }

    pub(super) fn die(
        &mut self,
        topic: &str,
        subscription: usize,
        at: usize,
        reason: &'static str,
        note: Option<String>,
    ) {
        let held = self.subscription(topic, subscription).events.remove(at);
        self.letters.push(Letter { topic: topic.to_owned(), subscription, held, reason, note });
    }

    /// Lets dead letters arrive, and delivers everything deliverable.
    pub(super) fn settle(&mut self, seen: &mut Seen) -> Checked {
        self.deliver(seen)?;
        while !self.letters.is_empty() {
            let mut letters = std::mem::take(&mut self.letters);
            letters.sort_by_key(|letter| (letter.topic.clone(), letter.subscription, letter.held.place()));
            for letter in letters {
                self.bury(letter);
                self.deliver(seen)?;
            }
        }
        Ok(())
    }

    pub(super) fn bury(&mut self, letter: Letter) {
        let Letter { topic, subscription, held, reason, note } = letter;
        let to = format!("{topic}.dead");
        let from = self.subscription(&topic, subscription);
        from.counters.dead_lettered += 1;
        let name = from.name.clone();
        let (deliveries, now) = (held.deliveries, self.now);
        let quoted = |text: &Option<String>| serde_json::to_string(text).expect("a string");
        let note = note.map_or_else(String::new, |note| format!(r#","note":{}"#, quoted(&Some(note))));
        let dead = format!(
            r#","dead":{{"topic":"{topic}","subscription":{},"reason":"{reason}","deliveries":{deliveries},"at":{now}{note}}}"#,
            quoted(&name)
        );
        self.keep_letters(&to);
        let event = Held { origin: Some((topic, name)), dead, ..held };
        self.insert(&to, event, None);
    }

    /// Gives a dead-letter topic its subscription if it has none.
    pub(super) fn keep_letters(&mut self, topic: &str) {
        let topic = self.topics.entry(topic.to_owned()).or_default();
        if topic.all().next().is_none() {
            topic.add(Some("dead".to_owned()));
        }
    }

    /// Adds a dead letter, or an event redriven from one, to a topic as a new event: for all subscriptions, or for `only` one.
    pub(super) fn insert(&mut self, to: &str, event: Held, only: Option<usize>) {
        let (now, ttl) = (self.now, self.policy(to).ttl_ms);
        let topic = self.topics.entry(to.to_owned()).or_default();
        topic.sequence += 1;
        let event = Held {
            sequence: topic.sequence,
            published: now,
            expires: (ttl > 0).then(|| now + ttl),
            due: 0,
            flown: 0,
            deliveries: 0,
            order: 0,
            flight: None,
            replaced: false,
            ..event
        };
        topic.published += u64::from(only.is_none());
        for (at, subscription) in topic.subscriptions.iter_mut().enumerate() {
            if let Some(subscription) = subscription.as_mut().filter(|_| only.is_none_or(|only| only == at)) {
                subscription.events.push(event.clone());
            }
        }
    }

    /// Delivers while a connection has fewer events in flight than its prefetch, and an event is deliverable.
    pub(super) fn deliver(&mut self, seen: &mut Seen) -> Checked {
        let policies: BTreeMap<String, TopicPolicy> =
            self.topics.keys().map(|name| (name.clone(), self.policy(name))).collect();
        for (name, topic) in &mut self.topics {
            let policy = &policies[name];
            for subscription in topic.subscriptions.iter_mut().flatten() {
                loop {
                    let has_room = |at: &usize| {
                        self.connections[*at]
                            .as_ref()
                            .is_some_and(|options| subscription.in_flight_on(*at) < options.prefetch)
                    };
                    let hungry: Vec<usize> = subscription.attached.iter().copied().filter(has_room).collect();
                    let Some(next) = subscription.next(policy, self.now).filter(|_| !hungry.is_empty()) else { break };
                    let line = subscription.events[next].line(name);
                    let Some(connection) = hungry.iter().find(|at| seen.take_delivery(**at, name, &line)) else {
                        return Err(format!("one of the connections {hungry:?} was to get next\n  {line}"));
                    };
                    self.deliveries += 1;
                    let held = &mut subscription.events[next];
                    subscription.counters.delivered += 1;
                    subscription.counters.redelivered += u64::from(held.deliveries > 0);
                    held.deliveries += 1;
                    held.order = self.deliveries;
                    subscription.refused.remove(&(*connection, held.id.clone()));
                    held.flight = Some(Flight {
                        connection: *connection,
                        since: self.now,
                        deadline: (policy.ack_timeout_ms > 0).then(|| self.now + policy.ack_timeout_ms),
                    });
                }
            }
        }
        Ok(())
    }

    // ---- The passing of time ----

    /// The time until something changes by itself.
    pub(crate) fn quiet_for(&self) -> Option<u64> {
        let events = self.topics.values().flat_map(Topic::all).flat_map(|subscription| &subscription.events);
        let times = events.filter_map(|held| match &held.flight {
            Some(flight) => flight.deadline,
            None => {
                let due = Some(held.due).filter(|due| *due > self.now);
                let expires = held.expires.map(|at| at + held.flown);
                due.into_iter().chain(expires).min()
            }
        });
        times.min().map(|at| at - self.now)
    }

    /// Lets time pass, in milliseconds. Nothing changes before the last of them.
    pub(crate) fn pass(&mut self, ms: u64, seen: &mut Seen) -> Checked {
        self.now += ms;
        let now = self.now;
        let places: Vec<(String, usize)> = self
            .topics
            .iter()
            .flat_map(|(name, topic)| (0..topic.subscriptions.len()).map(move |at| (name.clone(), at)))
            .filter(|(name, at)| self.topics[name].subscriptions[*at].is_some())
            .collect();
        for (name, at) in places {
            let to_letters = self.policy(&name).expired_to_dead_letter;
            let expired = |held: &Held| held.waits() && held.expires.is_some_and(|at| at + held.flown <= now);
            while let Some(held) = self.subscription(&name, at).events.iter().position(expired) {
                self.subscription(&name, at).counters.expired += 1;
                if to_letters {
                    self.die(&name, at, held, "expired", None);
                } else {
                    self.subscription(&name, at).events.remove(held);
                }
            }
            let overdue = |held: &Held| {
                held.flight.as_ref().and_then(|flight| flight.deadline).is_some_and(|deadline| deadline <= now)
            };
            while let Some(held) = self.subscription(&name, at).events.iter().position(overdue) {
                let subscription = self.subscription(&name, at);
                let flight = subscription.events[held].flight.as_ref().map(|flight| flight.connection);
                let (id, sequence) = (subscription.events[held].id.clone(), subscription.events[held].sequence);
                subscription.late.extend(flight.map(|connection| Late {
                    connection,
                    id,
                    sequence,
                    acknowledged: false,
                }));
                self.come_back(&name, at, held, 0);
            }
        }
        self.settle(seen)
    }
}
