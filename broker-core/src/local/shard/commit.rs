//! The end of a turn: submitting its batch, and releasing its effects stage by stage.
//!
//! The rules for what may leave when are in [`turn`](crate::local::turn).

use super::Shard;
use crate::engine::{LinkEvent, Outcome, Refusal};
use crate::local::message::{Peer, PublishReply, RewriteReply, ShardMessage};
use crate::local::turn::{Effects, Outbox, Progress, ReplyTo, WhenDurable, WhenWritten};
use crate::storage::{Batch, Place, Storage, StorageError};

impl<S: Storage + ?Sized> Shard<S> {
    /// Submits the changes of the turn, and releases what may leave immediately.
    pub(super) fn end_turn(&mut self) {
        if !self.idle.is_empty() {
            self.resume_idle_searches();
        }
        let touched = self.queues.turn.take_touched();
        for at in &touched {
            self.queues.drain_changes(*at);
            self.note_deliveries(*at);
        }
        if self.shared.topics.is_exceeded() {
            self.queues.forget_topics();
        }
        self.queues.report_forgettable();
        debug_assert!(self.queues.topics.is_counted(), "every change of a topic is counted");
        self.queues.topics.stay_in_budget();
        self.record_deliveries();
        self.submit_turn();
        // Letters follow the batch, because the batch in which another shard settles their events has to come after it.
        for at in touched {
            self.send_letters(at);
            self.queues.schedule_topic(at);
        }
        self.ask_for_room();
    }

    /// Asks the other shards to forget topics, once each: a full inbox is asked again after the next turn.
    fn ask_for_room(&mut self) {
        if !std::mem::take(&mut self.queues.wants_room) {
            return;
        }
        for peer in self.peers.iter().filter_map(Peer::upgrade) {
            self.queues.wants_room |= peer.try_send(ShardMessage::ForgetTopics).is_err();
        }
    }

    fn submit_turn(&mut self) {
        let (mutations, effects) = self.queues.turn.take();
        if self.shared.failure().is_some() {
            self.refuse_effects(effects);
        } else if !mutations.is_empty() {
            let commit = self.storage.submit(Batch { mutations });
            self.commits.push(commit, effects);
        } else {
            let Effects { written, durable } = effects;
            debug_assert!(written.keys.is_empty() && durable.visible.is_empty(), "a stored event is a mutation");
            if written.drains {
                self.queues.draining.set_under_way(false);
            }
            answer_waiting(durable.publishers, durable.rewrites);
            written.answers.into_iter().for_each(|answer| answer());
            if let Some(outbox) = self.commits.follow(written.outbox) {
                self.send(outbox);
            }
        }
    }

    /// Releases the effects of a stage that has completed.
    pub(super) fn progress(&mut self, progress: Progress) {
        match progress {
            Progress::Written(places, effects) => self.written(places, effects),
            Progress::Durable(effects) => self.durable(effects),
            Progress::Failed(error, effects) => {
                self.shared.fail(&error);
                self.refuse_effects(effects);
                self.unpark();
            }
        }
    }

    fn written(&mut self, places: Vec<Place>, effects: WhenWritten) {
        let mut placed = effects.keys.into_iter().zip(places).peekable();
        while let Some(((at, key), place)) = placed.next() {
            // Events of one topic usually follow each other.
            self.queues.with(at, |topic, _| {
                topic.set_place(key, place);
                while let Some(((_, key), place)) = placed.next_if(|((next, _), _)| *next == at) {
                    topic.set_place(key, place);
                }
            });
        }
        if effects.drains {
            self.queues.draining.set_under_way(false);
        }
        self.send(effects.outbox);
        effects.answers.into_iter().for_each(|answer| answer());
    }

    fn durable(&mut self, effects: WhenDurable) {
        self.send(effects.confirms);
        answer_waiting(effects.publishers, effects.rewrites);
        for (at, seq) in effects.visible {
            self.show(at, seq);
        }
        self.unpark();
    }

    /// Answers the requests of a turn that will not be stored, and drops its deliveries. Outcomes that do not depend on the storage
    /// stay as they are. Other shards learn of the failure because their answers are dropped.
    fn refuse_effects(&mut self, effects: Effects) {
        let Some(reason) = self.shared.failure() else { return };
        let Effects { written, durable } = effects;
        if written.drains {
            self.queues.draining.set_under_way(false);
        }
        let mut outbox = Outbox::default();
        for (client, events) in written.outbox.into_events().chain(durable.confirms.into_events()) {
            for event in events {
                let LinkEvent::Outcomes(outcomes) = event else { continue };
                for (slot, outcome) in outcomes {
                    let outcome = match outcome {
                        Outcome::Topics(_)
                        | Outcome::TopicsPage { .. }
                        | Outcome::Stats(_)
                        | Outcome::StatsPage { .. }
                        | Outcome::Peeked { .. }
                        | Outcome::Refused(_) => outcome,
                        _ => Outcome::Refused(Refusal::Unavailable(reason.clone())),
                    };
                    outbox.outcome(ReplyTo { client, slot }, outcome);
                }
            }
        }
        self.send(outbox);
        for (reply, _) in durable.publishers {
            let _the_publisher_has_gone = reply.send(Err(reason.clone()));
        }
        for done in durable.rewrites {
            let _the_storage_has_gone = done.send(Err(StorageError::closed()));
        }
    }

    /// Passes output on to the clients' links. A client that lets its link fill up is disconnected.
    fn send(&mut self, outbox: Outbox) {
        for (client, events) in outbox.into_events() {
            if let Err(name) = self.clients.send(client, events) {
                tracing::warn!(client = %name, "client disconnected: it does not read its output");
                self.disconnect(client);
            }
        }
    }
}

/// Answers publishers within the process and the storage's own requests.
fn answer_waiting(publishers: Vec<(PublishReply, Vec<Outcome>)>, rewrites: Vec<RewriteReply>) {
    for (reply, outcomes) in publishers {
        let _the_publisher_has_gone = reply.send(Ok(outcomes));
    }
    for done in rewrites {
        let _the_storage_has_gone = done.send(Ok(()));
    }
}
