//! Commands that are not answered yet, in order, with what has to wait behind their answers.

use std::collections::VecDeque;

use bytes::{BufMut, BytesMut};

use super::output::Output;
use crate::engine::{Delivery, Slot};
use crate::event::Payload;
use crate::name::TopicName;

/// What is needed to put an outcome in words.
#[derive(Debug)]
pub(super) enum Ask {
    Publish {
        topic: TopicName,
        payload: Payload,
        confirm: bool,
    },
    /// What is wrong with an event.
    BadEvent(Box<str>),
    Subscribe(TopicName),
    Unsubscribe(TopicName),
    Detach(TopicName),
    /// The ids with a blank between each two. A copy, since slices of a read pin the whole of it.
    Acknowledge {
        ids: Box<str>,
        quiet: bool,
    },
    AcknowledgeAll {
        quiet: bool,
    },
    Settle {
        word: &'static str,
        id: Box<str>,
        quiet: bool,
    },
    Peek,
    Purge,
    Redrive,
    Topics,
    Stats,
}

/// What a `peek` weighs until its answer is there, in bytes: it may be 16 MiB, and one at a time is enough.
const PEEK: usize = 4 << 20;

/// What `topics` and `stats` weigh until their answers are there, in bytes: these may be large.
const FIGURES: usize = 1 << 20;

impl Ask {
    /// About how many bytes it keeps or will cause, for the limit on what is unanswered.
    fn weight(&self) -> usize {
        match self {
            Self::Publish { payload, .. } => payload.len(),
            Self::BadEvent(reason) => reason.len(),
            // "a " becomes a key of 16 bytes in the request and an answer of up to 30 and the id.
            Self::Acknowledge { ids, .. } => 32 * ids.len(),
            Self::Settle { id, .. } => id.len(),
            Self::Topics | Self::Stats => FIGURES,
            Self::Peek => PEEK,
            Self::Subscribe(_)
            | Self::Unsubscribe(_)
            | Self::Detach(_)
            | Self::AcknowledgeAll { .. }
            | Self::Purge
            | Self::Redrive => 0,
        }
    }
}

#[derive(Debug)]
enum Entry {
    /// The engine has not answered.
    Asked(Ask),
    /// The answer waits for those before it, and what follows it with it.
    Ready(BytesMut, Vec<After>),
}

#[derive(Debug)]
enum After {
    Delivery(Delivery),
    Text(BytesMut),
}

/// The unanswered commands of a session.
#[derive(Debug, Default)]
pub(super) struct Pending {
    entries: VecDeque<Entry>,
    /// The slot of the first entry.
    base: Slot,
    /// The latest slot that the engine has answered, if any: what comes from it now comes after that answer.
    answered: Option<Slot>,
    held_back: usize,
    weight: usize,
}

impl Pending {
    /// About how many bytes its commands and answers take, in bytes.
    pub(super) fn weight(&self) -> usize {
        self.weight
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What the deliveries that are held back count in the gauge.
    pub(super) fn held_back(&self) -> usize {
        self.held_back
    }

    pub(super) fn push(&mut self, ask: Ask) -> Slot {
        self.weight += ask.weight();
        self.entries.push_back(Entry::Asked(ask));
        self.base + self.entries.len() as Slot - 1
    }

    /// Adds something that needs no answer from the engine.
    pub(super) fn push_ready(&mut self, text: BytesMut) {
        self.weight += text.len();
        self.entries.push_back(Entry::Ready(text, Vec::new()));
    }

    /// Takes a command's answer; whatever can leave now goes to `output`.
    pub(super) fn resolve(&mut self, slot: Slot, output: &mut Output, render: impl FnOnce(&Ask, &mut BytesMut)) {
        self.answered = self.answered.max(Some(slot));
        let index = slot.checked_sub(self.base).and_then(|index| usize::try_from(index).ok());
        let Some(entry) = index.and_then(|index| self.entries.get_mut(index)) else { return };
        let Entry::Asked(ask) = entry else { return };
        self.weight -= ask.weight();
        if index == Some(0) {
            render(ask, output.text());
            self.entries.pop_front();
            self.base += 1;
            self.flush(output);
        } else {
            let mut text = BytesMut::new();
            render(ask, &mut text);
            self.weight += text.len();
            *entry = Entry::Ready(text, Vec::new());
        }
    }

    fn flush(&mut self, output: &mut Output) {
        while let Some(Entry::Ready(..)) = self.entries.front() {
            let Some(Entry::Ready(text, after)) = self.entries.pop_front() else { return };
            self.base += 1;
            self.weight -= text.len();
            output.text().put_slice(&text);
            for after in after {
                match after {
                    After::Delivery(delivery) => {
                        self.held_back -= delivery.cost();
                        output.delivery(&delivery);
                    }
                    After::Text(text) => output.text().put_slice(&text),
                }
            }
        }
        if self.entries.is_empty() {
            // An idle session keeps no ring.
            self.entries.shrink_to(64);
        }
    }

    /// Where something that the engine has just said has to wait, if anywhere.
    fn behind(&mut self) -> Option<&mut Vec<After>> {
        let index = usize::try_from(self.answered?.checked_sub(self.base)?).ok()?;
        match self.entries.get_mut(index) {
            Some(Entry::Ready(_, after)) => Some(after),
            _ => None,
        }
    }

    /// Holds a delivery back behind an answer that came before it and has not left. Returns it if there is none.
    pub(super) fn hold_back(&mut self, delivery: Delivery) -> Option<Delivery> {
        let cost = delivery.cost();
        let Some(after) = self.behind() else { return Some(delivery) };
        after.push(After::Delivery(delivery));
        self.held_back += cost;
        None
    }

    /// The same for a text.
    pub(super) fn hold_back_text(&mut self, text: BytesMut) -> Option<BytesMut> {
        match self.behind() {
            Some(after) => {
                after.push(After::Text(text));
                None
            }
            None => Some(text),
        }
    }
}
