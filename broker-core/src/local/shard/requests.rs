//! What a client asks: which requests wait for an event to become visible, and who answers the rest.

use std::sync::atomic::Ordering;

use super::super::message::ShardRequest;
use super::super::turn::TopicAt;
use super::{Attachment, Barrier, Shard};
use crate::engine::{Op, Outcome, Refusal, Request, Slot, Stats, TopicStats};
use crate::event::Seq;
use crate::name::TopicName;
use crate::policy::{Policies, TopicPolicy};
use crate::queue::{ClientId, Topic};
use crate::storage::Storage;

impl<S: Storage + ?Sized> Shard<S> {
    /// What must be visible before a request is looked at: a look at what waits sees what was published before it.
    pub(super) fn barrier(&self, request: &ShardRequest) -> Barrier {
        let ShardRequest::One(Request { op, .. }) = request else { return None };
        let at = match op {
            Op::Peek { topic, .. } => self.by_name.get(topic).copied()?,
            Op::Redrive { topic, .. } => {
                let dead = self.policies.of(topic).dead_letter_of(topic)?;
                self.by_name.get(&dead).copied()?
            }
            _ => return None,
        };
        let seq = self.topics[at].as_ref()?.last_invisible()?;
        Some((at, seq))
    }

    pub(super) fn request_or_park(&mut self, client: ClientId, request: ShardRequest, barrier: Barrier) {
        let must_wait = self.is_behind(barrier) || self.must_wait(client, &request);
        let Some(state) = self.clients.get_mut(&client) else { return };
        if !state.parked.is_empty() || must_wait {
            if state.parked.is_empty() {
                self.parked.push(client);
            }
            state.parked.push_back((request, barrier));
            return;
        }
        self.request(client, request);
    }

    fn is_behind(&self, barrier: Barrier) -> bool {
        let is_invisible =
            |(at, seq): (TopicAt, Seq)| self.topics[at].as_ref().is_some_and(|topic| topic.is_invisible(seq));
        self.shared.failure().is_none() && barrier.is_some_and(is_invisible)
    }

    /// Whether a request settles something in a topic to which its own client has published what is not visible yet. It waits
    /// until that has been delivered, as if publishing took no time: what one client says takes effect in the order it says it.
    pub(super) fn must_wait(&self, client: ClientId, request: &ShardRequest) -> bool {
        let ShardRequest::One(Request { op, .. }) = request else { return false };
        let topic = match op {
            Op::Ack { topic, .. }
            | Op::AckAll { topic }
            | Op::Nack { topic, .. }
            | Op::Terminate { topic, .. }
            | Op::Touch { topic, .. } => topic,
            _ => return false,
        };
        // After a failure nothing becomes visible any more; the request gets its refusal.
        self.shared.failure().is_none()
            && self.attachment(client, topic).is_some_and(|(at, attachment)| {
                self.topics[at].as_ref().is_some_and(|topic| topic.is_invisible(attachment.published))
            })
    }

    /// Goes on with parked requests as far as it can.
    pub(super) fn unpark(&mut self) {
        for client in std::mem::take(&mut self.parked) {
            let parked = self.clients.get_mut(&client).map(|state| std::mem::take(&mut state.parked));
            for (request, barrier) in parked.unwrap_or_default() {
                self.request_or_park(client, request, barrier);
            }
        }
    }

    pub(super) fn request(&mut self, client: ClientId, request: ShardRequest) {
        let Request { slot, op } = match request {
            ShardRequest::One(request) => request,
            ShardRequest::Topics(slot, gather) => {
                let summaries = self.topics.iter().flatten().map(|topic| topic.summary()).collect();
                if let Some(mut all) = gather.add(summaries) {
                    all.sort_by(|a, b| a.topic.cmp(&b.topic));
                    self.effects.outbox.outcome(client, slot, Outcome::Topics(all));
                }
                return;
            }
            ShardRequest::Stats(slot, gather) => {
                let now = self.now;
                let stats = self.topics.iter().flatten().map(|topic| topic.stats(now)).collect();
                if let Some(mut all) = gather.add(stats) {
                    all.sort_by(|a, b| a.topic.cmp(&b.topic));
                    self.answer_stats(client, slot, all);
                }
                return;
            }
        };
        let changes = !matches!(op, Op::Check { .. } | Op::Stats(_) | Op::Prefetch(_) | Op::Resume | Op::Topics);
        if let Some(reason) = self.shared.failure().filter(|_| changes) {
            self.effects.outbox.outcome(client, slot, Outcome::Refused(Refusal::Unavailable(reason)));
            return;
        }
        let outcome = match op {
            Op::Publish { topic, event, confirm } => return self.publish(client, slot, topic, &event, confirm),
            Op::Check { topic } if self.is_unknown(&topic) => Outcome::Refused(Refusal::UnknownTopic(topic)),
            Op::Check { .. } => Outcome::Known,
            Op::Subscribe { topic, name, prefetch } => return self.subscribe(client, slot, topic, name, prefetch),
            Op::Unsubscribe { topic, name } => self.unsubscribe(client, &topic, name.as_ref()),
            Op::Detach { topic } => self.detach(client, &topic),
            Op::Ack { topic, ids } => return self.acknowledge(client, slot, topic, &ids),
            Op::AckAll { topic } => return self.acknowledge_all(client, slot, topic),
            Op::Nack { topic, id, delay_ms } => return self.requeue(client, slot, topic, id, delay_ms),
            Op::Terminate { topic, id, note } => return self.terminate(client, slot, topic, id, note),
            Op::Peek { topic, subscription, most } => {
                return self.peek(client, slot, &topic, subscription.as_ref(), most);
            }
            Op::Purge { topic, subscription } => return self.purge(client, slot, &topic, subscription.as_ref()),
            Op::Redrive { topic, most } => return self.redrive(client, slot, topic, most),
            Op::Touch { topic, id } => match self.attachment(client, &topic) {
                None => Outcome::Refused(Refusal::NotSubscribed(topic)),
                Some((at, Attachment { sub, consumer, .. })) => {
                    let found = self.with(at, |topic, now| topic.touch(sub, consumer, id, now)).unwrap_or(false);
                    self.schedule(at, sub);
                    Outcome::Settled { found }
                }
            },
            Op::Prefetch(prefetch) => {
                for (at, attachment) in self.attachments(client) {
                    let Attachment { sub, consumer, .. } = attachment;
                    self.with(at, |topic, _| topic.set_prefetch(sub, consumer, prefetch));
                    self.pump(at, sub);
                }
                return;
            }
            Op::Resume => return self.resume(client),
            Op::Stats(Some(topic)) => match self.by_name.get(&topic).and_then(|at| self.topics[*at].as_ref()) {
                None => Outcome::Refused(Refusal::NoSuchTopic(topic)),
                Some(topic) => {
                    let stats = vec![topic.stats(self.now)];
                    return self.answer_stats(client, slot, stats);
                }
            },
            // Questions about all topics come as gathers.
            Op::Stats(None) | Op::Topics => return,
        };
        self.effects.outbox.outcome(client, slot, outcome);
    }

    pub(super) fn answer_stats(&mut self, client: ClientId, slot: Slot, topics: Vec<TopicStats>) {
        let stats = Stats {
            version: self.shared.version,
            uptime_ms: self.shared.clock.uptime_ms(),
            connections: self.shared.connections.load(Ordering::Relaxed),
            topics,
        };
        self.effects.outbox.outcome(client, slot, Outcome::Stats(Box::new(stats)));
    }

    /// The topic's place; makes the topic if the configuration lets its use make it.
    pub(super) fn topic(&mut self, name: &TopicName) -> Result<TopicAt, Refusal> {
        if let Some(at) = self.by_name.get(name) {
            return Ok(*at);
        }
        if self.is_unknown(name) {
            return Err(Refusal::UnknownTopic(name.clone()));
        }
        self.make_topic(name, self.policies.of(name))
    }

    /// Whether there is no such topic, and its use does not make it.
    fn is_unknown(&self, name: &TopicName) -> bool {
        let policies = &self.policies;
        !self.by_name.contains_key(name) && !policies.of(name).auto_create && !policies.names(name)
    }

    /// Makes a topic that is not there.
    pub(super) fn make_topic(&mut self, name: &TopicName, policy: TopicPolicy) -> Result<TopicAt, Refusal> {
        if self.shared.topics.take().is_err() {
            self.forget_idle_topics();
            self.shared.topics.take().map_err(|most| Refusal::TooMany(format!("there are {most} topics already")))?;
        }
        let nothing_on_its_way =
            self.turns.is_empty() && self.loads.is_empty() && self.errands.is_empty() && self.effects.keys.is_empty();
        let topic = Some(Box::new(Topic::new(name.clone(), policy)));
        let at = match if nothing_on_its_way { self.vacant.pop() } else { None } {
            Some(at) => {
                self.topics[at] = topic;
                at
            }
            None => {
                self.topics.push(topic);
                self.topics.len() - 1
            }
        };
        self.by_name.insert(name.clone(), at);
        Ok(at)
    }

    /// Puts other rules in force, for the topics that are there and for those to come.
    pub(super) fn set_policies(&mut self, policies: Policies) {
        self.policies = policies;
        for at in 0..self.topics.len() {
            let Some(topic) = self.topics[at].as_ref() else { continue };
            let policy = self.policies.of(topic.name());
            if policy == *topic.policy() {
                continue;
            }
            self.with(at, |topic, _| topic.set_policy(policy));
            for sub in self.topics[at].as_ref().map(|topic| topic.hungry()).unwrap_or_default() {
                self.pump(at, sub);
            }
        }
    }

    /// Makes room for new topics by forgetting those that have neither subscriptions nor events.
    pub(super) fn forget_idle_topics(&mut self) {
        for (at, slot) in self.topics.iter_mut().enumerate() {
            if let Some(topic) = slot.take_if(|topic| topic.is_idle()) {
                self.by_name.remove(topic.name());
                self.vacant.push(at);
                self.shared.topics.give_back();
            }
        }
    }

    pub(super) fn attachment(&self, client: ClientId, topic: &TopicName) -> Option<(TopicAt, Attachment)> {
        let at = self.by_name.get(topic).copied()?;
        self.clients.get(&client)?.attachments.get(&at).map(|attachment| (at, *attachment))
    }

    pub(super) fn attachments(&self, client: ClientId) -> Vec<(TopicAt, Attachment)> {
        let attachments = self.clients.get(&client).map(|client| &client.attachments);
        attachments.into_iter().flatten().map(|(at, attachment)| (*at, *attachment)).collect()
    }
}
