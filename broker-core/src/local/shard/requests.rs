//! The table of requests: which function carries out which operation.

use super::Shard;
use crate::engine::{Op, Outcome, Refusal, Request};
use crate::local::message::ShardRequest;
use crate::local::topics::TopicAt;
use crate::local::turn::ReplyTo;
use crate::name::TopicName;
use crate::policy::Policies;
use crate::queue::{ClientId, Topic};
use crate::storage::Storage;

use super::clients::Attachment;

impl<S: Storage + ?Sized> Shard<S> {
    /// Carries out a request.
    pub(super) fn request(&mut self, client: ClientId, request: ShardRequest) {
        let Request { slot, op } = match request {
            ShardRequest::One(request) => request,
            ShardRequest::Topics(slot, gather) => return self.topics(ReplyTo { client, slot }, &gather),
            ShardRequest::Stats(slot, gather) => return self.stats(ReplyTo { client, slot }, &gather),
        };
        let to = ReplyTo { client, slot };
        let needs_storage = !matches!(op, Op::Check { .. } | Op::Stats(_) | Op::Prefetch(_) | Op::Resume | Op::Topics);
        if let Some(reason) = self.shared.failure().filter(|_| needs_storage) {
            return self.refuse(to, Refusal::Unavailable(reason));
        }
        match op {
            Op::Publish { topic, event, confirm } => self.publish(to, &topic, &event, confirm),
            Op::Check { topic } => self.check(to, topic),
            Op::Subscribe { topic, name, prefetch } => self.subscribe(to, &topic, name, prefetch),
            Op::Unsubscribe { topic, name } => self.unsubscribe(to, &topic, name.as_ref()),
            Op::Detach { topic } => self.detach(to, &topic),
            Op::Ack { topic, ids } => self.acknowledge(to, topic, &ids),
            Op::AckAll { topic } => self.acknowledge_all(to, topic),
            Op::Nack { topic, id, delay_ms } => self.nack(to, topic, id, delay_ms),
            Op::Terminate { topic, id, note } => self.terminate(to, topic, id, note),
            Op::Touch { topic, id } => self.touch(to, topic, id),
            Op::Peek { topic, subscription, most, after } => self.peek(to, &topic, subscription.as_ref(), most, after),
            Op::Purge { topic, subscription } => self.purge(to, &topic, subscription.as_ref()),
            Op::Redrive { topic, most } => self.redrive(to, topic, most),
            Op::Prefetch(prefetch) => self.set_prefetch(client, prefetch),
            Op::Resume => self.resume(client),
            Op::Stats(Some(topic)) => self.topic_stats(to, topic),
            // Questions about all topics arrive as gathers.
            Op::Stats(None) | Op::Topics | Op::TopicsAfter(_) | Op::StatsAfter(_) => {}
        }
    }

    /// Refuses a request.
    pub(super) fn refuse(&mut self, to: ReplyTo, refusal: Refusal) {
        self.queues.turn.reply(to, Outcome::Refused(refusal));
    }

    fn check(&mut self, to: ReplyTo, topic: TopicName) {
        if self.queues.is_unknown(&topic) {
            self.refuse(to, Refusal::UnknownTopic(topic));
        } else {
            self.queues.turn.reply(to, Outcome::Known);
        }
    }

    /// The client's attachment to a subscription of `topic`.
    pub(super) fn attachment(&self, client: ClientId, topic: &TopicName) -> Option<Attachment> {
        self.clients.attachment(client, self.queues.topics.find(topic)?)
    }

    /// Replaces the policies of all topics, existing and future.
    pub(super) fn set_policies(&mut self, policies: Policies) {
        self.queues.policies = policies;
        for at in self.queues.topics.places() {
            let Some(topic) = self.queues.topics.get(at) else { continue };
            let policy = self.queues.policies.of(topic.name());
            if policy == *topic.policy() {
                continue;
            }
            self.queues.with(at, |topic, _| topic.set_policy(policy));
            self.pump_hungry(at);
            // Those without consumers, too: their waiting events may have used up their deliveries.
            for sub in self.queues.topics.get(at).map(Topic::subscription_ids).unwrap_or_default() {
                self.queues.schedule(at, sub);
            }
        }
    }

    /// Delivers to the subscriptions of a topic whose consumers can take more.
    pub(super) fn pump_hungry(&mut self, at: TopicAt) {
        for sub in self.queues.topics.get(at).map(Topic::hungry).unwrap_or_default() {
            self.pump(at, sub);
        }
    }
}
