//! Acknowledgements whose answer has to report whether the consumer is idle.
//!
//! The answer is *no available message* if nothing is in flight on the consumer and nothing is deliverable now. Behind many events that
//! are not yet due, this takes a search of several turns. The acknowledgement has already taken effect; only its answer waits here. It
//! leaves when the search ends, or when a delivery to the consumer shows that the consumer is not idle.

use super::Shard;
use crate::engine::Outcome;
use crate::event::Millis;
use crate::local::topics::TopicAt;
use crate::local::turn::ReplyTo;
use crate::queue::{ClientId, ConsumerId, SubscriptionId, Topic};
use crate::storage::Storage;

/// An acknowledgement that has taken effect and is not answered yet.
pub(super) struct Unanswered {
    pub(super) to: ReplyTo,
    pub(super) at: TopicAt,
    pub(super) sub: SubscriptionId,
    pub(super) consumer: ConsumerId,
    /// [`Outcome::Acknowledged`] or [`Outcome::AcknowledgedAll`], with `idle` to be filled in.
    pub(super) outcome: Outcome,
}

/// The unanswered acknowledgements, in order.
#[derive(Default)]
pub(super) struct IdleAnswers(Vec<Unanswered>);

impl IdleAnswers {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn push(&mut self, answer: Unanswered) {
        self.0.push(answer);
    }

    fn take(&mut self) -> Vec<Unanswered> {
        std::mem::take(&mut self.0)
    }

    /// Takes the answers of one client about one subscription.
    fn take_of(&mut self, client: ClientId, at: TopicAt, sub: SubscriptionId) -> Vec<Unanswered> {
        let is_its = |one: &Unanswered| one.to.client == client && one.at == at && one.sub == sub;
        let (taken, others) = self.take().into_iter().partition(is_its);
        self.0 = others;
        taken
    }
}

impl<S: Storage + ?Sized> Shard<S> {
    /// Answers an acknowledgement if `idle` is known; otherwise the answer waits.
    pub(super) fn answer_or_wait(&mut self, mut answer: Unanswered, idle: Option<bool>) {
        let Some(known) = idle else { return self.idle.push(answer) };
        if let Outcome::Acknowledged { idle, .. } | Outcome::AcknowledgedAll { idle, .. } = &mut answer.outcome {
            *idle = known;
        }
        self.queues.turn.reply(answer.to, answer.outcome);
    }

    /// Answers a client's acknowledgements ahead of the delivery that they made room for.
    pub(super) fn answer_before_delivery(&mut self, client: ClientId, at: TopicAt, sub: SubscriptionId) {
        for answer in self.idle.take_of(client, at, sub) {
            self.answer_or_wait(answer, Some(false));
        }
    }

    /// Resumes the searches that answers wait for, one slice for each subscription, and answers those that have finished.
    pub(super) fn resume_idle_searches(&mut self) {
        let mut unfinished = None;
        for answer in self.idle.take() {
            let Unanswered { to, at, sub, consumer, .. } = answer;
            let attachment = self.clients.attachment(to.client, at);
            let is_attached = attachment.is_some_and(|now| now.sub == sub && now.consumer == consumer);
            let idle = if !is_attached {
                Some(false)
            } else if unfinished == Some((at, sub)) {
                None
            } else {
                self.queues.with(at, |topic, now| is_idle(topic, sub, consumer, now)).unwrap_or(Some(false))
            };
            if idle.is_none() {
                unfinished = Some((at, sub));
            }
            self.answer_or_wait(answer, idle);
        }
    }
}

/// Whether nothing is in flight on the consumer and nothing is deliverable now; `None`: the search has to continue in another turn.
pub(super) fn is_idle(topic: &mut Topic, sub: SubscriptionId, consumer: ConsumerId, now: Millis) -> Option<bool> {
    if topic.in_flight_of(sub, consumer) > 0 {
        return Some(false);
    }
    topic.is_deliverable(sub, now).map(|deliverable| !deliverable)
}
