//! Commands that wait for the engine. Each keeps the parts of its reply that the outcome does not contain.

use bytes::{BufMut, BytesMut};

use crate::engine::{Delivery, Found, Op, Outcome, Refusal};
use crate::event::{EventKey, Payload};
use crate::name::{SubscriptionName, TopicName};
use crate::protocol::reply;
use crate::storage::Level;

/// A command that waits for its outcome.
#[derive(Debug)]
pub(super) enum Ask {
    Publish {
        topic: TopicName,
        payload: Payload,
        confirm: bool,
    },
    /// A publish of a malformed event, with the reason. The engine is asked only whether the topic exists.
    BadEvent(Box<str>),
    Subscribe(TopicName),
    Unsubscribe(TopicName),
    Detach(TopicName),
    /// A topic that a new token does not allow is detached. The `hello` that brought the token answers for it.
    Withdraw(TopicName),
    /// The ids, separated by blanks. A copy: slices would pin the whole read buffer.
    Acknowledge {
        ids: Box<str>,
        quiet: bool,
    },
    AcknowledgeAll {
        quiet: bool,
    },
    /// `nack`, `touch` or `term`; `word` begins the reply of success.
    Settle {
        word: &'static str,
        id: Box<str>,
        /// The bytes of the note with it.
        note: usize,
        quiet: bool,
    },
    /// Boxed: the entries of all commands are as large as the largest.
    Peek(Box<Peek>),
    Purge,
    Redrive,
    /// All topics, or their stats.
    All {
        stats: bool,
        /// A part of the answer has been written.
        begun: bool,
        /// There is a topic in it.
        listed: bool,
    },
    /// The stats of one topic.
    Stats,
}

/// The part of a peek that is not answered yet.
#[derive(Debug)]
pub(super) struct Peek {
    pub(super) topic: TopicName,
    pub(super) subscription: Option<SubscriptionName>,
    /// Events, at most.
    pub(super) most: usize,
    /// Bytes of events after which it ends.
    pub(super) bytes: usize,
    pub(super) begun: bool,
    /// Whether its end says where it stopped, if there may be more.
    pub(super) pages: bool,
}

/// Bytes of events after which a peek ends: ten of the largest, with a margin.
pub(super) const PEEK_BYTES: usize = 16 << 20;

/// The weight of an unanswered `peek`, `topics` or `stats`, in bytes: one part of its answer.
const PART: usize = 1 << 20;

/// The weight of any command beside its arguments: the entry here, and the request with the engine.
const COMMAND: usize = 128;

impl Ask {
    /// The approximate bytes that it holds or will cause, for the limit on unanswered commands.
    pub(super) fn weight(&self) -> usize {
        // Every variant is named, and every argument weighed: a new command cannot be forgotten.
        COMMAND
            + match self {
                Self::Publish { topic: _, payload, confirm: _ } => payload.len(),
                Self::BadEvent(reason) => reason.len(),
                // The two bytes "a " become a key of 16 bytes in the request and a reply of 30 bytes plus the id.
                Self::Acknowledge { ids, quiet: _ } => 32 * ids.len(),
                Self::Settle { word: _, id, note, quiet: _ } => id.len() + note,
                Self::All { stats: _, begun: _, listed: _ } | Self::Stats | Self::Peek(_) => PART,
                // Names have 255 bytes at most, and are shared.
                Self::Subscribe(_)
                | Self::Unsubscribe(_)
                | Self::Detach(_)
                | Self::Withdraw(_)
                | Self::AcknowledgeAll { quiet: _ }
                | Self::Purge
                | Self::Redrive => 0,
            }
    }

    /// Whether its answer has been written up to the middle of a line.
    pub(super) fn is_mid_line(&self) -> bool {
        matches!(self, Self::All { begun: true, .. })
    }

    /// Writes the reply to this command, or a part of it; returns the request for the next part.
    pub(super) fn answer(&mut self, outcome: Outcome, level: Level, out: &mut BytesMut) -> Option<Op> {
        match (self, outcome) {
            (Self::Peek(peek), Outcome::Peeked { deliveries, next }) => return peek.part(&deliveries, next, out),
            // Its subscription was removed between two parts.
            (Self::Peek(peek), Outcome::Refused(_)) if peek.begun => reply::line(out, "end of peek"),
            (Self::All { stats: false, begun, listed }, Outcome::TopicsPage { topics, next }) => {
                if !std::mem::replace(begun, true) {
                    out.put_u8(b'[');
                }
                list(topics, listed, out);
                out.put_slice(if next.is_some() { &b""[..] } else { b"]\r\n" });
                return next.map(|last| Op::TopicsAfter(Some(last)));
            }
            (Self::All { stats: true, begun, listed }, Outcome::StatsPage { mut stats, next }) => {
                let topics = std::mem::take(&mut stats.topics);
                if !std::mem::replace(begun, true) {
                    let head = serde_json::to_string(&stats).expect("strings and numbers");
                    // The list of topics comes last.
                    out.put_slice(head.strip_suffix("]}").unwrap_or(&head).as_bytes());
                }
                list(topics, listed, out);
                out.put_slice(if next.is_some() { &b""[..] } else { b"]}\r\n" });
                return next.map(|last| Op::StatsAfter(Some(last)));
            }
            (Self::Publish { payload, .. }, Outcome::Refused(Refusal::DuplicateId)) => {
                reply::duplicate_id(out, &payload.id());
            }
            (Self::Withdraw(_), _) => {}
            (_, Outcome::Refused(refusal)) => reply::refused(out, &refusal),
            (Self::BadEvent(reason), Outcome::Known) => reply::invalid_event(out, reason),
            (Self::Publish { topic, payload, confirm: true }, Outcome::Published { replaced }) => {
                let word = if replaced { "replaced" } else { "published" };
                out.put_slice(word.as_bytes());
                for part in [topic.as_str(), &payload.id(), level.as_str()] {
                    out.put_u8(b' ');
                    out.put_slice(part.as_bytes());
                }
                out.put_slice(reply::LINE_END);
            }
            (Self::Publish { topic, payload, confirm: true }, Outcome::Dropped) => {
                reply::line(out, format_args!("dropped {topic} {}", payload.id()));
            }
            (Self::Purge, Outcome::Purged(count)) => reply::line(out, format_args!("purged {count}")),
            (Self::Redrive, Outcome::Redriven(count)) => reply::line(out, format_args!("redriven {count}")),
            (Self::Subscribe(topic), Outcome::Subscribed) => {
                reply::line(out, format_args!("successfully subscribed to topic {topic}"));
            }
            (Self::Unsubscribe(topic), Outcome::Unsubscribed) => {
                reply::line(out, format_args!("successfully unsubscribe from topic {topic}"));
            }
            (Self::Detach(topic), Outcome::Detached) => reply::line(out, format_args!("detached from topic {topic}")),
            (Self::Acknowledge { ids, quiet }, Outcome::Acknowledged { found, idle }) => {
                for (id, found) in ids.split(' ').zip(found) {
                    let word: &[u8] = match (found, *quiet) {
                        (Found::NotHeld, _) => b"no_event_error: ",
                        (Found::NoLongerHeld, _) => {
                            reply::line(out, format_args!("error: event {id} is no longer held here"));
                            continue;
                        }
                        (Found::Settled, false) => b"acknowledged from logs ev_id=",
                        (Found::Settled, true) => continue,
                    };
                    out.put_slice(word);
                    out.put_slice(id.as_bytes());
                    out.put_slice(reply::LINE_END);
                }
                no_message(out, idle, *quiet);
            }
            (Self::AcknowledgeAll { quiet }, Outcome::AcknowledgedAll { count, idle }) => {
                if !*quiet {
                    reply::line(out, format_args!("acknowledged {count} events"));
                }
                no_message(out, idle, *quiet);
            }
            (Self::Settle { quiet: true, .. }, Outcome::Settled { found: true }) => {}
            (Self::Settle { word, id, .. }, Outcome::Settled { found }) => {
                out.put_slice(if found { word.as_bytes() } else { b"no_event_error:" });
                out.put_slice(if found { b" ev_id=" } else { b" " });
                out.put_slice(id.as_bytes());
                out.put_slice(reply::LINE_END);
            }
            (Self::All { stats: false, .. }, Outcome::Topics(topics)) => json(out, &topics),
            (Self::All { stats: true, .. } | Self::Stats, Outcome::Stats(stats)) => json(out, &stats),
            // A publish without confirmation has no reply.
            _ => {}
        }
        None
    }
}

impl Peek {
    /// Writes a part of the answer; returns the request for the next one.
    fn part(&mut self, deliveries: &[Delivery], next: Option<EventKey>, out: &mut BytesMut) -> Option<Op> {
        for delivery in deliveries {
            delivery.payload.write(delivery.redelivered, out);
            out.put_slice(reply::LINE_END);
            self.bytes = self.bytes.saturating_sub(delivery.payload.len());
        }
        self.most = self.most.saturating_sub(deliveries.len());
        self.begun = true;
        match next {
            Some(after) if self.most > 0 && self.bytes > 0 => return Some(self.request(Some(after))),
            Some(EventKey { priority, seq }) if self.pages => {
                reply::line(out, format_args!("end of peek after {}:{}", priority.0, seq.0));
            }
            _ => reply::line(out, "end of peek"),
        }
        None
    }

    /// The request for the events after `after`.
    pub(super) fn request(&self, after: Option<EventKey>) -> Op {
        let (topic, subscription) = (self.topic.clone(), self.subscription.clone());
        Op::Peek { topic, subscription, most: self.most, after }
    }
}

/// Writes the next items of a JSON array.
fn list<T: serde::Serialize>(items: Vec<T>, listed: &mut bool, out: &mut BytesMut) {
    for item in items {
        if std::mem::replace(listed, true) {
            out.put_u8(b',');
        }
        serde_json::to_writer(out.writer(), &item).expect("strings and numbers, written to memory");
    }
}

fn no_message(out: &mut BytesMut, idle: bool, quiet: bool) {
    if idle && !quiet {
        reply::line(out, "no available message");
    }
}

fn json(out: &mut BytesMut, value: &impl serde::Serialize) {
    serde_json::to_writer(out.writer(), value).expect("strings and numbers, written to memory");
    out.put_slice(reply::LINE_END);
}
