//! `topics`, `stats`, `peek`, `purge` and `redrive`.

use broker_core::policy::DuplicateId;
use serde_json::{Value, json};

use super::{Checked, Held, Model, Subscription, Topic};
use crate::seen::{Expect, Seen};

/// Whether an event waits for its delay.
fn is_delayed(held: &Held, now: u64) -> bool {
    held.waits() && held.due > now
}

/// The numbers of events waiting, delayed and in flight.
fn counts(subscription: &Subscription, now: u64) -> (u64, u64, u64) {
    let count = |is_it: &dyn Fn(&Held) -> bool| subscription.events.iter().filter(|held| is_it(held)).count();
    let in_flight = count(&|held| !held.waits());
    let delayed = count(&|held| is_delayed(held, now));
    let waiting = subscription.events.len() - in_flight - delayed;
    (waiting as u64, delayed as u64, in_flight as u64)
}

impl Model {
    pub(super) fn topics_line(&self) -> Expect {
        let summary = |(name, topic): (&String, &Topic)| {
            let mut waiting = 0;
            let mut in_flight = 0;
            for subscription in topic.all() {
                let (of_it, _, flying) = counts(subscription, self.now);
                waiting += of_it;
                in_flight += flying;
            }
            json!({
                "topic": name, "subscriptions": topic.all().count(), "waiting": waiting, "in_flight": in_flight,
                "published": topic.published,
            })
        };
        Expect::Json(self.topics.iter().map(summary).collect())
    }

    pub(super) fn stats_line(&self, only: Option<&str>) -> Expect {
        if let Some(name) = only.filter(|name| !self.topics.contains_key(*name)) {
            return Expect::line(format!(r#"error: no such topic: "{name}""#));
        }
        let topics = self.topics.iter().filter(|(name, _)| only.is_none_or(|only| only == *name));
        let figures = |(name, topic): (&String, &Topic)| {
            let mut subscriptions: Vec<&Subscription> = topic.all().collect();
            subscriptions.sort_by_key(|subscription| (subscription.name.is_none(), subscription.name.clone()));
            let subscriptions: Vec<Value> = subscriptions.into_iter().map(|one| self.figures(one)).collect();
            json!({ "topic": name, "published": topic.published, "subscriptions": subscriptions })
        };
        Expect::Json(json!({
            "uptime_ms": self.now,
            "connections": self.connections.iter().flatten().count(),
            "topics": topics.map(figures).collect::<Vec<Value>>(),
        }))
    }

    fn figures(&self, subscription: &Subscription) -> Value {
        let (waiting, delayed, in_flight) = counts(subscription, self.now);
        let oldest = subscription.events.iter().min_by_key(|held| held.sequence);
        let counters = &subscription.counters;
        json!({
            "name": subscription.name, "connections": subscription.attached.len(),
            "waiting": waiting, "in_flight": in_flight, "delayed": delayed,
            "oldest_ms": oldest.map_or(0, |held| self.now - held.published),
            "delivered": counters.delivered, "acknowledged": counters.acknowledged,
            "redelivered": counters.redelivered, "expired": counters.expired, "dropped": counters.dropped,
            "dead_lettered": counters.dead_lettered,
        })
    }

    /// The subscription that a peek or purge is about, or the reply that there is none.
    fn target(&self, connection: usize, topic: &str, name: Option<&str>, verb: &str) -> Result<usize, Expect> {
        let Some(found) = self.topics.get(topic) else {
            return Err(Expect::line(format!(r#"error: no such topic: "{topic}""#)));
        };
        if let Some(name) = name {
            let none = format!(r#"error: no such subscription: topic {topic} has none called "{name}""#);
            return found.named(name).ok_or_else(|| Expect::line(none));
        }
        let only = || found.find(|_| true).filter(|_| found.all().count() == 1);
        found.of(connection).or_else(only).ok_or_else(|| Expect::Begins(format!("error: usage: {verb} <topic>")))
    }

    pub(super) fn peek(&mut self, connection: usize, topic: &str, words: &[&str], seen: &mut Seen) -> Checked {
        let (name, most) = match words {
            [] => (None, 10),
            [number] if number.parse::<usize>().is_ok() => (None, number.parse().unwrap_or(0)),
            [name] => (Some(*name), 10),
            [name, number, ..] => (Some(*name), number.parse().map_err(|error| format!("{number}: {error}"))?),
        };
        let at = match self.target(connection, topic, name, "peek") {
            Ok(at) => at,
            Err(expected) => return seen.reply(connection, &expected),
        };
        let now = self.now;
        let mut waiting: Vec<&Held> = self.subscription(topic, at).events.iter().collect();
        waiting.retain(|held| held.waits() && held.due <= now);
        waiting.sort_by_key(|held| held.place());
        for held in waiting.into_iter().take(most) {
            seen.reply(connection, &Expect::line(held.line(topic)))?;
        }
        seen.reply(connection, &Expect::line("end of peek"))
    }

    pub(super) fn purge(&mut self, connection: usize, topic: &str, name: Option<&str>, seen: &mut Seen) -> Checked {
        let at = match self.target(connection, topic, name, "purge") {
            Ok(at) => at,
            Err(expected) => return seen.reply(connection, &expected),
        };
        let events = &mut self.subscription(topic, at).events;
        let before = events.len();
        events.retain(|held| !held.waits());
        let purged = before - events.len();
        seen.reply(connection, &Expect::line(format!("purged {purged}")))
    }

    /// Letters that wait in every subscription that holds them return to their origin, if that subscription exists, has room, and
    /// holds no event of that id.
    pub(super) fn redrive(&mut self, connection: usize, topic: &str, most: usize, seen: &mut Seen) -> Checked {
        let dead = format!("{topic}.dead");
        let mut letters: Vec<Held> = Vec::new();
        for held in self.topics.get(&dead).into_iter().flat_map(Topic::all).flat_map(|one| &one.events) {
            if !letters.iter().any(|letter| letter.sequence == held.sequence) {
                letters.push(held.clone());
            }
        }
        letters.sort_by_key(Held::place);
        let mut count = 0;
        for letter in letters {
            let Some((_, Some(name))) = letter.origin.as_ref().filter(|(from, _)| from == topic) else { continue };
            let copies = self.topics[&dead].all().flat_map(|one| &one.events);
            let waits = copies.filter(|held| held.sequence == letter.sequence).all(Held::waits);
            let Some(at) = self.topics.get(topic).and_then(|topic| topic.named(name)) else { continue };
            let policy = self.policy(topic);
            let events = &self.subscription(topic, at).events;
            let is_there = policy.duplicate_id != DuplicateId::Keep
                && events.iter().any(|held| held.id == letter.id && !held.replaced);
            let is_full = policy.max_waiting > 0 && events.len() as u64 >= policy.max_waiting;
            if count == most || !waits || is_there || is_full {
                continue;
            }
            count += 1;
            for subscription in
                self.topics.get_mut(&dead).into_iter().flat_map(|t| t.subscriptions.iter_mut()).flatten()
            {
                subscription.events.retain(|held| held.sequence != letter.sequence);
            }
            self.insert(topic, Held { origin: None, dead: String::new(), ..letter }, Some(at));
            self.deliver(seen)?;
        }
        seen.reply(connection, &Expect::line(format!("redriven {count}")))?;
        self.settle(seen)
    }
}
