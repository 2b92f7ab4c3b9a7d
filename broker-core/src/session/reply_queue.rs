//! Keeps replies in the order of their commands, and deliveries behind the replies that precede them.
//!
//! A client may send many commands before it reads a reply (pipelining). Replies carry no number; only their order tells which command
//! they answer. The engine answers out of order: an `ack` is answered once it is written, a confirmed publish only once it is
//! synced, and topics belong to different shards. Each command therefore takes the next slot when it is read, the engine's outcome
//! names that slot, and a reply leaves once every slot before it has left:
//!
//! ```text
//!   slot    7        8          9          10
//!        Asked    Ready      Ready      Asked         8 and 9 wait for 7
//!                 "pong"     "detached …"
//!                            └ a delivery that the engine sent after answering 9
//! ```
//!
//! A delivery need not wait for commands that the engine has not answered: it is held back only behind the latest answer that
//! the engine gave before it, for example the `successfully subscribed` that it belongs to.

use std::collections::VecDeque;

use bytes::{BufMut, BytesMut};

use super::asks::Ask;
use super::output::Output;
use crate::engine::{Delivery, Op, Slot};
use crate::name::TopicName;

#[derive(Debug)]
enum Entry {
    /// The engine has not answered yet.
    Asked(Ask),
    /// The engine has answered a part. Once the client has read it, the next part is requested. Held output leaves after the last
    /// part, because the lines of a peek look like deliveries.
    Partial(Box<Partial>),
    /// The reply is complete and waits for those before it. Held output leaves with it.
    Ready(BytesMut, Vec<Held>),
}

/// A partial answer. Boxed, because every confirmation moves its entry.
#[derive(Debug)]
struct Partial {
    ask: Ask,
    text: BytesMut,
    /// The request for the next part, until it is sent.
    next: Option<Op>,
    held: Vec<Held>,
}

/// Output that is held back behind a reply.
#[derive(Debug)]
enum Held {
    Delivery(Delivery),
    Text(BytesMut),
}

/// The commands whose replies have not left. The first entry is never an [`Entry::Ready`]: that leaves at once.
#[derive(Debug, Default)]
pub(super) struct ReplyQueue {
    entries: VecDeque<Entry>,
    /// The slot of the first entry.
    base: Slot,
    /// The latest slot that the engine has answered. Any other output that it sends now belongs after that answer.
    answered: Option<Slot>,
    held_back: usize,
    weight: usize,
}

impl ReplyQueue {
    /// The approximate size of the queued commands and replies, in bytes.
    pub(super) fn weight(&self) -> usize {
        self.weight
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The [`Delivery::cost`] of all deliveries that are held back.
    pub(super) fn held_back(&self) -> usize {
        self.held_back
    }

    /// Queues a command that the engine is asked about, and returns its slot.
    pub(super) fn push(&mut self, ask: Ask) -> Slot {
        self.weight += ask.weight();
        self.entries.push_back(Entry::Asked(ask));
        self.base + self.entries.len() as Slot - 1
    }

    /// Queues a reply that needs no answer from the engine.
    pub(super) fn push_ready(&mut self, text: BytesMut) {
        self.weight += text.len();
        self.entries.push_back(Entry::Ready(text, Vec::new()));
    }

    /// The topics of subscriptions that the engine has not answered.
    pub(super) fn subscribing(&self) -> impl Iterator<Item = &TopicName> {
        self.entries.iter().filter_map(|entry| match entry {
            Entry::Asked(Ask::Subscribe(topic)) => Some(topic),
            _ => None,
        })
    }

    /// Renders the reply of `slot`, or a part of it, and moves every reply that can leave now to `output`. `render` returns the
    /// request for the next part.
    pub(super) fn resolve(
        &mut self,
        slot: Slot,
        output: &mut Output,
        render: impl FnOnce(&mut Ask, &mut BytesMut) -> Option<Op>,
    ) {
        self.answered = self.answered.max(Some(slot));
        let index = slot.checked_sub(self.base).and_then(|index| usize::try_from(index).ok());
        let Some(entry) = index.and_then(|index| self.entries.get_mut(index)) else { return };
        let (mut ask, held) = match std::mem::replace(entry, Entry::Ready(BytesMut::new(), Vec::new())) {
            Entry::Asked(ask) => (ask, Vec::new()),
            // Its text has left: the next part is requested only then.
            Entry::Partial(part) => (part.ask, part.held),
            ready @ Entry::Ready(..) => {
                *entry = ready;
                return;
            }
        };
        let weight = ask.weight();
        let mut text = BytesMut::new();
        let first = index == Some(0);
        let next = render(&mut ask, if first { output.text() } else { &mut text });
        match next {
            Some(next) => *entry = Entry::Partial(Box::new(Partial { ask, text, next: Some(next), held })),
            None => {
                self.weight -= weight;
                self.weight += text.len();
                *entry = Entry::Ready(text, held);
            }
        }
        self.flush(output);
    }

    /// Takes the request for the next part of the first reply. To be sent once the client has read the part before.
    pub(super) fn next_part(&mut self) -> Option<(Slot, Op)> {
        match self.entries.front_mut() {
            Some(Entry::Partial(part)) => part.next.take().map(|op| (self.base, op)),
            _ => None,
        }
    }

    /// Whether the output ends within a line.
    pub(super) fn is_mid_line(&self) -> bool {
        matches!(self.entries.front(), Some(Entry::Partial(part)) if part.ask.is_mid_line())
    }

    fn flush(&mut self, output: &mut Output) {
        while let Some(Entry::Ready(..)) = self.entries.front() {
            let Some(Entry::Ready(text, held)) = self.entries.pop_front() else { return };
            self.base += 1;
            self.weight -= text.len();
            output.text().put_slice(&text);
            for held in held {
                match held {
                    Held::Delivery(delivery) => {
                        self.held_back -= delivery.cost();
                        output.delivery(&delivery);
                    }
                    Held::Text(text) => output.text().put_slice(&text),
                }
            }
        }
        if let Some(Entry::Partial(part)) = self.entries.front_mut() {
            output.text().put_slice(&std::mem::take(&mut part.text));
        }
        if self.entries.is_empty() {
            // An idle session does not keep the capacity that a burst needed.
            self.entries.shrink_to(64);
        }
    }

    /// The list that engine output must join, or `None` if it may leave at once.
    fn behind(&mut self) -> Option<&mut Vec<Held>> {
        let index = usize::try_from(self.answered?.checked_sub(self.base)?).ok()?;
        match self.entries.get_mut(index) {
            Some(Entry::Ready(_, held)) => Some(held),
            Some(Entry::Partial(part)) => Some(&mut part.held),
            _ => None,
        }
    }

    /// Holds `delivery` back if a reply that precedes it has not left; returns it if it may leave at once.
    pub(super) fn hold_back(&mut self, delivery: Delivery) -> Option<Delivery> {
        let cost = delivery.cost();
        let Some(held) = self.behind() else { return Some(delivery) };
        held.push(Held::Delivery(delivery));
        self.held_back += cost;
        None
    }

    /// Holds `text` back if a reply that precedes it has not left; returns it if it may leave at once.
    pub(super) fn hold_back_text(&mut self, text: BytesMut) -> Option<BytesMut> {
        match self.behind() {
            Some(held) => {
                held.push(Held::Text(text));
                None
            }
            None => Some(text),
        }
    }
}
