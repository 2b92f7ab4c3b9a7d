//! The end of a turn, and what happens when its batch is written, safe, or neither.

use tokio::sync::mpsc;

use super::super::turn::{Effects, Outbox, Progress, TopicAt};
use super::Shard;
use crate::engine::{LinkEvent, Outcome, Refusal};
use crate::event::Millis;
use crate::queue::Topic;
use crate::storage::{Batch, Storage, StorageError};

impl<S: Storage + ?Sized> Shard<S> {
    /// Submits what the turn has changed, and lets out what may leave.
    pub(super) fn end_turn(&mut self) {
        if !self.undecided.is_empty() {
            self.decide();
        }
        self.touched.sort_unstable();
        self.touched.dedup();
        let touched = std::mem::take(&mut self.touched);
        for at in &touched {
            if let Some(topic) = &mut self.topics[*at] {
                topic.drain_changes(&mut self.mutations);
            }
        }
        self.stay_in_budget();
        self.submit_turn();
        // After the batch, because what the other topic's shard stores for these comes after it.
        for at in touched {
            self.send_letters(at);
            self.schedule_own(at);
        }
    }

    fn submit_turn(&mut self) {
        let effects = std::mem::take(&mut self.effects);
        if self.shared.failure().is_some() {
            self.mutations.clear();
            self.refuse(effects);
            return;
        }
        if !self.mutations.is_empty() {
            let mutations = std::mem::take(&mut self.mutations);
            let commit = self.storage.submit(Batch { mutations });
            self.turns.push(commit, effects);
        } else {
            debug_assert!(effects.keys.is_empty() && effects.visible.is_empty(), "a stored event is a mutation");
            for (reply, outcomes) in effects.publishers {
                let _the_publisher_has_gone = reply.send(Ok(outcomes));
            }
            for done in effects.rewrites {
                let _the_storage_has_gone = done.send(Ok(()));
            }
            effects.answers.into_iter().for_each(|answer| answer());
            if let Some(outbox) = self.turns.follow(effects.outbox) {
                self.send(outbox);
            }
        }
    }

    pub(super) fn progress(&mut self, progress: Progress) {
        match progress {
            Progress::Written(places, outbox, answers) => {
                for ((at, key), place) in places {
                    if let Some(topic) = &mut self.topics[at] {
                        topic.set_place(key, place);
                        self.touched.push(at);
                    }
                }
                self.send(outbox);
                answers.into_iter().for_each(|answer| answer());
            }
            Progress::Safe(effects) => {
                self.send(effects.confirms);
                for (reply, outcomes) in effects.publishers {
                    let _the_publisher_has_gone = reply.send(Ok(outcomes));
                }
                for done in effects.rewrites {
                    let _the_storage_has_gone = done.send(Ok(()));
                }
                for (at, seq) in effects.visible {
                    self.show(at, seq);
                }
                self.unpark();
            }
            Progress::Failed(error, effects) => {
                self.shared.fail(&error);
                self.refuse(effects);
                self.unpark();
            }
        }
    }

    /// Answers what will not be stored. What it would have delivered is not delivered.
    pub(super) fn refuse(&mut self, effects: Effects) {
        let Some(reason) = self.shared.failure() else { return };
        let mut outbox = Outbox::default();
        for (client, events) in effects.outbox.into_events().chain(effects.confirms.into_events()) {
            for event in events {
                let LinkEvent::Outcomes(outcomes) = event else { continue };
                for (slot, outcome) in outcomes {
                    let outcome = match outcome {
                        Outcome::Topics(_) | Outcome::Stats(_) | Outcome::Peeked(_) | Outcome::Refused(_) => outcome,
                        _ => Outcome::Refused(Refusal::Unavailable(reason.clone())),
                    };
                    outbox.outcome(client, slot, outcome);
                }
            }
        }
        self.send(outbox);
        for (reply, _) in effects.publishers {
            let _the_publisher_has_gone = reply.send(Err(reason.clone()));
        }
        for done in effects.rewrites {
            let _the_storage_has_gone = done.send(Err(StorageError::closed()));
        }
    }

    pub(super) fn send(&mut self, outbox: Outbox) {
        for (id, events) in outbox.into_events() {
            let Some(client) = self.clients.get(&id) else { continue };
            if let Err(mpsc::error::TrySendError::Full(_)) = client.events.try_send(events) {
                tracing::warn!(client = %client.name, "a client that does not take its output is cut off");
                self.disconnect(id);
            }
        }
    }

    /// Drops payloads from memory when they cost more than they may.
    pub(super) fn stay_in_budget(&mut self) {
        debug_assert_eq!(
            self.memory,
            self.topics.iter().flatten().map(|topic| topic.memory()).sum(),
            "what is in memory is counted as it comes and goes"
        );
        let topics = &mut self.topics;
        self.memory.stay_within(self.budget, |excess| {
            let largest = topics.iter_mut().flatten().max_by_key(|topic| topic.memory().payloads);
            largest.map_or(0, |topic| topic.evict(excess))
        });
    }

    /// Does something with a topic of this turn.
    pub(super) fn with<T>(&mut self, at: TopicAt, f: impl FnOnce(&mut Topic, Millis) -> T) -> Option<T> {
        let topic = self.topics[at].as_mut()?;
        let before = topic.memory();
        let result = f(topic, self.now);
        self.memory.change(before, topic.memory());
        self.touched.push(at);
        Some(result)
    }
}
