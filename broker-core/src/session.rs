//! A session: one client, on any transport, as a state machine. Bytes and link events go in; requests and output come out.
//!
//! Replies leave in the order of their commands: every command takes a slot in [`pending`], and what is ready leaves when all
//! before it has left. Deliveries leave at once, but never before a reply that the engine gave before them.

mod access;
mod claim;
pub mod hello;
pub mod output;
mod pending;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::{Buf, BufMut, BytesMut};
use uuid::Uuid;

use crate::auth::Tokens;
use crate::engine::{Gauge, LinkEvent, Op, Outcome, Refusal, Request, Slot};
use crate::name::{IdKey, TopicName};
use crate::protocol::command::{Command, CommandWords, parse};
use crate::protocol::event::parse_event;
use crate::protocol::framer::{Frame, Framer};
use crate::protocol::{help, reply};
use crate::storage::Level;
use access::Access;
use claim::Claim;
use hello::Options;
use output::Output;
use pending::{Ask, Pending};

/// Commands that may be unanswered before no more are read from the client.
const MAX_UNANSWERED: usize = 16_384;

/// Bytes of unanswered commands, and of answers that wait for earlier ones, after which no more are read from the client.
const MAX_UNANSWERED_BYTES: usize = 4 << 20;

/// Bytes of output that wait to be written before no more commands are executed: a line of five bytes can ask for a thousand.
const MAX_OUTPUT_BYTES: usize = 256 << 10;

/// The longest line of a client that has to give a token first: strangers get no buffer of the full length.
const MAX_STRANGERS_LINE: usize = 16 << 10;

/// What sessions need to know of the configuration.
#[derive(Debug, Clone)]
pub struct SessionSettings {
    /// The broker's version, for the answer to `hello`.
    pub version: &'static str,
    /// The longest line, its ending not counted, in bytes.
    pub max_line_bytes: usize,
    /// The short forms of commands.
    pub words: CommandWords,
    /// Who may do what.
    pub tokens: Arc<Tokens>,
}

impl Default for SessionSettings {
    fn default() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            max_line_bytes: 1 << 20,
            words: CommandWords::default(),
            tokens: Arc::default(),
        }
    }
}

/// One client's session.
#[derive(Debug)]
pub struct Session {
    settings: Arc<SessionSettings>,
    level: Level,
    /// Names it in the answer to `hello`.
    id: String,
    options: Options,
    access: Access,
    /// A `hello` whose token has to be checked before anything else happens.
    claim: Option<Claim>,
    framer: Framer,
    /// The topic of the last command that named one.
    topic: Option<TopicName>,
    pending: Pending,
    requests: Vec<Request>,
    output: Output,
    gauge: Arc<Gauge>,
    /// What deliveries in the output count in the gauge.
    delivered: usize,
    quitting: bool,
    ended: bool,
    /// There is nobody to ask any more.
    engine_gone: bool,
    turned_away: bool,
}

impl Session {
    /// A session that has greeted. `level` is the engine's, `gauge` that of its link.
    #[must_use]
    pub fn new(settings: Arc<SessionSettings>, level: Level, gauge: Arc<Gauge>) -> Self {
        let access = Access::new(Arc::clone(&settings.tokens));
        let longest = if access.is_locked() { MAX_STRANGERS_LINE } else { usize::MAX };
        let mut session = Self {
            framer: Framer::new(settings.max_line_bytes.min(longest)),
            settings,
            access,
            claim: None,
            level,
            id: Uuid::now_v7().simple().to_string(),
            options: Options::default(),
            pending: Pending::default(),
            topic: None,
            requests: Vec::new(),
            output: Output::default(),
            gauge,
            delivered: 0,
            quitting: false,
            ended: false,
            engine_gone: false,
            turned_away: false,
        };
        session.say(|out| reply::line(out, reply::GREETING));
        session
    }

    // ---- In ----

    /// Takes all of `input`.
    pub fn input(&mut self, input: &mut BytesMut) {
        if self.quitting {
            input.clear();
            return;
        }
        self.framer.push(input);
        self.work();
    }

    /// The client sends no more. A line without its ending is not executed; what is unanswered still will be.
    pub fn end_of_input(&mut self) {
        self.ended = true;
    }

    /// The engine has closed the link, although the broker goes on: what is unanswered will not be answered. The client is told
    /// to connect again, and the session is finished once that has been written.
    pub fn engine_gone(&mut self) {
        self.requests.clear();
        if std::mem::replace(&mut self.engine_gone, true) {
            return;
        }
        self.pending = Pending::default();
        self.quitting = true;
        reply::engine_gone(self.output.text());
    }

    /// Takes what comes out of the link.
    pub fn event(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Outcomes(outcomes) => {
                for (slot, outcome) in outcomes {
                    self.outcome(slot, outcome);
                }
            }
            LinkEvent::Deliveries(deliveries) => {
                self.output.make_room_for(&deliveries);
                for delivery in deliveries {
                    self.delivered += delivery.cost();
                    if let Some(delivery) = self.pending.hold_back(delivery) {
                        self.output.delivery(&delivery);
                    }
                }
            }
            LinkEvent::Removed { topic, subscription } => {
                let mut out = BytesMut::new();
                reply::removed(&mut out, &topic, &subscription);
                // As with deliveries: not before what was said before it.
                if let Some(text) = self.pending.hold_back_text(out) {
                    self.output.text().put_slice(&text);
                }
            }
        }
        self.work();
    }

    /// Whether there is room for more input. If not, events will make some.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        !self.ended && self.has_room()
    }

    fn has_room(&self) -> bool {
        !self.quitting
            && self.claim.is_none()
            && self.pending.len() < MAX_UNANSWERED
            && self.pending.weight() < MAX_UNANSWERED_BYTES
            && self.output.remaining() < MAX_OUTPUT_BYTES
    }

    // ---- Out ----

    /// Requests for the link, in order.
    #[must_use]
    pub fn take_requests(&mut self) -> Vec<Request> {
        std::mem::take(&mut self.requests)
    }

    /// What is to be written to the client.
    pub fn output(&mut self) -> &mut Output {
        &mut self.output
    }

    /// All output has been written to the client.
    pub fn output_written(&mut self) {
        let delivered = std::mem::take(&mut self.delivered);
        let held_back = self.pending.held_back();
        self.delivered = held_back;
        if delivered > held_back && self.gauge.written(delivered - held_back) {
            self.request(0, Op::Resume);
        }
        // There is room again.
        self.work();
    }

    /// Whether nothing more is to come: the client has quit or ended, and everything has been answered.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        let waits = !self.pending.is_empty() || !self.requests.is_empty() || self.claim.is_some();
        (self.quitting || self.ended) && !waits
    }

    /// Whether it ended because of a token that was wrong, missing or taken back.
    #[must_use]
    pub fn is_turned_away(&self) -> bool {
        self.turned_away
    }

    /// The client's name, if it has given one.
    #[must_use]
    pub fn client(&self) -> Option<&str> {
        self.options.client.as_deref()
    }

    // ---- Commands ----

    /// Executes complete lines while there is room for what they cause.
    fn work(&mut self) {
        // Taken out, so that lines can stay where they are while they are executed.
        let mut framer = std::mem::replace(&mut self.framer, Framer::new(0));
        let limit = framer.limit();
        while self.has_room()
            && let Some(frame) = framer.next_frame()
        {
            match frame {
                Frame::Line(line) => self.line(line),
                Frame::TooLong => self.say(|out| reply::line_too_long(out, limit)),
                Frame::NotUtf8 => self.say(reply::not_utf8),
            }
        }
        self.framer = framer;
    }

    fn line(&mut self, text: &str) {
        let quiet = self.options.quiet;
        match parse(text, &self.settings.words, &mut self.topic) {
            Ok(Command::Hello { options }) => self.hello(options),
            _ if self.access.is_locked() => self.say(reply::authentication_required),
            Err(error) => self.say(|out| reply::command_error(out, &error)),
            Ok(Command::Publish { topic, .. }) if !self.access.may_publish(&topic) => {
                self.say(|out| reply::not_allowed(out, "publish to", &topic));
            }
            Ok(Command::Subscribe { topic, .. } | Command::Unsubscribe { topic, .. })
                if !self.access.may_subscribe(&topic) =>
            {
                self.say(|out| reply::not_allowed(out, "subscribe to", &topic));
            }
            Ok(Command::Peek { topic, .. } | Command::Purge { topic, .. } | Command::Redrive { topic, .. })
                if !self.access.may_subscribe(&topic) =>
            {
                self.say(|out| reply::not_allowed(out, "subscribe to", &topic));
            }
            Ok(Command::Peek { topic, .. }) if !self.access.may_operate() => {
                self.say(|out| reply::not_allowed(out, "peek into", &topic));
            }
            Ok(Command::Purge { topic, .. }) if !self.access.may_operate() => {
                self.say(|out| reply::not_allowed(out, "purge", &topic));
            }
            Ok(Command::Redrive { topic, .. }) if !self.access.may_operate() => {
                self.say(|out| reply::not_allowed(out, "redrive", &topic));
            }
            Ok(Command::Stats { topic: Some(topic) }) if !self.access.may_see(topic.as_str()) => {
                self.say(|out| reply::not_allowed(out, "subscribe to", &topic));
            }
            Ok(Command::Publish { topic, event }) => match parse_event(topic.as_str(), event) {
                // An error of the topic comes first, and the engine knows whether there is one.
                Err(reason) => self.ask(Ask::BadEvent(reason.into()), Op::Check { topic }),
                Ok(event) => {
                    let confirm = self.options.confirm;
                    let ask = Ask::Publish { topic: topic.clone(), payload: event.payload.clone(), confirm };
                    self.ask(ask, Op::Publish { topic, event, confirm });
                }
            },
            Ok(Command::Subscribe { topic, name }) => {
                let prefetch = self.options.prefetch;
                self.ask(Ask::Subscribe(topic.clone()), Op::Subscribe { topic, name, prefetch });
            }
            Ok(Command::Unsubscribe { topic, name }) => {
                self.ask(Ask::Unsubscribe(topic.clone()), Op::Unsubscribe { topic, name });
            }
            Ok(Command::Detach { topic }) => self.ask(Ask::Detach(topic.clone()), Op::Detach { topic }),
            Ok(Command::Acknowledge { topic, ids }) => {
                let keys = ids.iter().map(|id| IdKey::of(id)).collect();
                let ids = ids.join(" ").into_boxed_str();
                self.ask(Ask::Acknowledge { ids, quiet }, Op::Ack { topic, ids: keys });
            }
            Ok(Command::AcknowledgeAll { topic }) => self.ask(Ask::AcknowledgeAll { quiet }, Op::AckAll { topic }),
            Ok(Command::Requeue { topic, id, delay_ms }) => {
                let ask = Ask::Settle { word: "requeued", id: Box::from(id), quiet };
                self.ask(ask, Op::Nack { topic, id: IdKey::of(id), delay_ms });
            }
            Ok(Command::Touch { topic, id }) => {
                let ask = Ask::Settle { word: "touched", id: Box::from(id), quiet: false };
                self.ask(ask, Op::Touch { topic, id: IdKey::of(id) });
            }
            Ok(Command::Terminate { topic, id, reason }) => {
                let ask = Ask::Settle { word: "terminated", id: Box::from(id), quiet: false };
                self.ask(ask, Op::Terminate { topic, id: IdKey::of(id), note: reason.map(Box::from) });
            }
            Ok(Command::Peek { topic, name, most }) => {
                self.ask(Ask::Peek, Op::Peek { topic, subscription: name, most });
            }
            Ok(Command::Purge { topic, name }) => self.ask(Ask::Purge, Op::Purge { topic, subscription: name }),
            Ok(Command::Redrive { topic, most }) => self.ask(Ask::Redrive, Op::Redrive { topic, most }),
            Ok(Command::Topics) => self.ask(Ask::Topics, Op::Topics),
            Ok(Command::Stats { topic }) => self.ask(Ask::Stats, Op::Stats(topic)),
            Ok(Command::Help) => {
                let settings = Arc::clone(&self.settings);
                self.say(|out| help::write(out, &settings.words));
            }
            Ok(Command::Ping) => self.say(|out| reply::line(out, "pong")),
            Ok(Command::Quit) => {
                self.say(|out| reply::line(out, "bye"));
                self.quitting = true;
            }
        }
    }

    fn hello(&mut self, json: &str) {
        match self.options.changed_by(json) {
            Err(reason) => self.say(|out| reply::invalid_hello(out, &reason)),
            Ok((options, Some(token))) if self.access.asks_for_tokens() => self.claim = Some(Claim { token, options }),
            Ok(_) if self.access.is_locked() => self.say(reply::authentication_required),
            // Where nobody is asked for a token, whatever it is, it is right.
            Ok((options, _)) => self.apply(options),
        }
    }

    fn apply(&mut self, options: Options) {
        if options.prefetch != self.options.prefetch {
            self.request(0, Op::Prefetch(options.prefetch));
        }
        self.options = options;
        let answer = hello::Answer {
            server: "herald",
            version: self.settings.version,
            protocol: 1,
            session: &self.id,
            max_line_bytes: self.settings.max_line_bytes,
        };
        let answer = serde_json::to_string(&answer).expect("strings and numbers");
        self.say(|out| reply::line(out, format_args!("hello {answer}")));
    }

    /// Sends a request whose outcome will be answered in its turn.
    fn ask(&mut self, ask: Ask, op: Op) {
        let slot = self.pending.push(ask);
        self.request(slot, op);
    }

    fn request(&mut self, slot: Slot, op: Op) {
        if !self.engine_gone {
            self.requests.push(Request { slot, op });
        }
    }

    /// Says something in its turn.
    fn say(&mut self, write: impl FnOnce(&mut BytesMut)) {
        if self.pending.is_empty() {
            write(self.output.text());
            return;
        }
        let mut text = BytesMut::new();
        write(&mut text);
        self.pending.push_ready(text);
    }

    // ---- Outcomes ----

    fn outcome(&mut self, slot: Slot, mut outcome: Outcome) {
        match &mut outcome {
            Outcome::Topics(topics) => topics.retain(|topic| self.access.may_see(&topic.topic)),
            Outcome::Stats(stats) => stats.topics.retain(|topic| self.access.may_see(&topic.topic)),
            _ => {}
        }
        let level = self.level;
        let render = |ask: &Ask, out: &mut BytesMut| render(ask, outcome, level, out);
        self.pending.resolve(slot, &mut self.output, render);
    }
}

/// Puts an outcome in words.
fn render(ask: &Ask, outcome: Outcome, level: Level, out: &mut BytesMut) {
    match (ask, outcome) {
        (Ask::Publish { payload, .. }, Outcome::Refused(Refusal::DuplicateId)) => {
            reply::duplicate_id(out, &payload.id());
        }
        (_, Outcome::Refused(refusal)) => reply::refused(out, &refusal),
        (Ask::BadEvent(reason), Outcome::Known) => reply::invalid_event(out, reason),
        (Ask::Publish { topic, payload, confirm: true }, Outcome::Published { replaced }) => {
            let word = if replaced { "replaced" } else { "published" };
            out.put_slice(word.as_bytes());
            for part in [topic.as_str(), &payload.id(), level.as_str()] {
                out.put_u8(b' ');
                out.put_slice(part.as_bytes());
            }
            out.put_slice(reply::LINE_END);
        }
        (Ask::Publish { topic, payload, confirm: true }, Outcome::Dropped) => {
            reply::line(out, format_args!("dropped {topic} {}", payload.id()));
        }
        (Ask::Peek, Outcome::Peeked(deliveries)) => {
            for delivery in deliveries {
                delivery.payload.write(delivery.redelivered, out);
                out.put_slice(reply::LINE_END);
            }
            reply::line(out, "end of peek");
        }
        (Ask::Purge, Outcome::Purged(count)) => reply::line(out, format_args!("purged {count}")),
        (Ask::Redrive, Outcome::Redriven(count)) => reply::line(out, format_args!("redriven {count}")),
        (Ask::Subscribe(topic), Outcome::Subscribed) => {
            reply::line(out, format_args!("successfully subscribed to topic {topic}"));
        }
        (Ask::Unsubscribe(topic), Outcome::Unsubscribed) => {
            reply::line(out, format_args!("successfully unsubscribe from topic {topic}"));
        }
        (Ask::Detach(topic), Outcome::Detached) => reply::line(out, format_args!("detached from topic {topic}")),
        (Ask::Acknowledge { ids, quiet }, Outcome::Acknowledged { found, idle }) => {
            for (id, found) in ids.split(' ').zip(found) {
                let word: &[u8] = match (found, quiet) {
                    (false, _) => b"no_event_error: ",
                    (true, false) => b"acknowledged from logs ev_id=",
                    (true, true) => continue,
                };
                out.put_slice(word);
                out.put_slice(id.as_bytes());
                out.put_slice(reply::LINE_END);
            }
            no_message(out, idle, *quiet);
        }
        (Ask::AcknowledgeAll { quiet }, Outcome::AcknowledgedAll { count, idle }) => {
            if !quiet {
                reply::line(out, format_args!("acknowledged {count} events"));
            }
            no_message(out, idle, *quiet);
        }
        (Ask::Settle { word, id, quiet }, Outcome::Settled { found }) => {
            if found && *quiet {
                return;
            }
            out.put_slice(if found { word.as_bytes() } else { b"no_event_error:" });
            out.put_slice(if found { b" ev_id=" } else { b" " });
            out.put_slice(id.as_bytes());
            out.put_slice(reply::LINE_END);
        }
        (Ask::Topics, Outcome::Topics(topics)) => json(out, &topics),
        (Ask::Stats, Outcome::Stats(stats)) => json(out, &stats),
        // A publish without confirmation is answered by silence.
        _ => {}
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
