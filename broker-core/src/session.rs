//! A session: one client, on any transport, as a state machine without I/O, tasks or a clock.
//!
//! A connection feeds it bytes and link events, sends the requests that it makes to the engine, and writes its output:
//!
//! ```text
//!   client ── bytes ──> framer ── line ──> commands ── Request ──> engine
//!   client <── output ── reply queue <──── asks <──── Outcome ──── engine
//!              output <──────────────────────────── deliveries ─── engine
//! ```
//!
//! | to find | look in |
//! | --- | --- |
//! | how a command is executed | [`commands`] |
//! | who may execute it | [`access`]; the table itself is [`needs`](crate::protocol::command::Command::needs) |
//! | how an outcome becomes a reply | [`asks`] |
//! | why replies keep the order of their commands, and deliveries their place | [`reply_queue`] |
//! | `hello` and its options; tokens | [`hello`], [`authentication`] |
//! | the bytes to be written | [`output`] |

mod access;
mod asks;
mod authentication;
mod commands;
pub mod hello;
pub mod output;
mod reply_queue;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;

use bytes::{Buf, BufMut as _, BytesMut};
use uuid::Uuid;

use crate::auth::Tokens;
use crate::engine::{Gauge, LinkEvent, Op, Outcome, Request, Slot};
use crate::name::TopicName;
use crate::protocol::command::CommandWords;
use crate::protocol::foreign::{Foreign, Opening, write_bad_request};
use crate::protocol::framer::{Frame, Framer};
use crate::protocol::reply;
use crate::storage::Level;
use access::Access;
use asks::Ask;
use authentication::Claim;
use hello::Options;
use output::Output;
use reply_queue::ReplyQueue;

/// The number of unanswered commands at which reading from the client pauses.
const MAX_UNANSWERED: usize = 16_384;

/// The bytes of unanswered commands, and of replies that wait for earlier ones, at which reading from the client pauses.
const MAX_UNANSWERED_BYTES: usize = 4 << 20;

/// The bytes of unwritten output at which commands are no longer executed: five bytes of input can cause a thousand times as many
/// of output.
const MAX_OUTPUT_BYTES: usize = 256 << 10;

/// The longest line before authentication, in bytes, so that an unauthenticated client cannot fill a buffer of the full length.
const MAX_STRANGERS_LINE: usize = 16 << 10;

/// The settings that sessions use.
#[derive(Debug, Clone)]
pub struct SessionSettings {
    /// The broker's version, for the answer to `hello`.
    pub version: &'static str,
    /// The longest line, its ending not counted, in bytes.
    pub max_line_bytes: usize,
    /// The longest delivery, its line ending not counted, in bytes: [`Engine::max_output_line_bytes`](crate::engine::Engine).
    pub max_output_line_bytes: usize,
    /// The short forms of commands.
    pub words: CommandWords,
    /// The tokens and their rights.
    pub tokens: Arc<Tokens>,
}

impl Default for SessionSettings {
    fn default() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            max_line_bytes: 1 << 20,
            max_output_line_bytes: 1 << 20,
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
    /// Its id in the answer to `hello`.
    id: String,
    options: Options,
    access: Access,
    /// A `hello` whose token must be checked before the next line is executed.
    claim: Option<Claim>,
    framer: Framer,
    opening: Opening,
    foreign: Option<Foreign>,
    /// The topics that the session is attached to, as far as the engine has answered.
    attached: HashSet<TopicName>,
    /// The topic of the last command that named one.
    topic: Option<TopicName>,
    replies: ReplyQueue,
    requests: Vec<Request>,
    output: Output,
    gauge: Arc<Gauge>,
    /// The [cost](crate::engine::Delivery::cost) of the deliveries in the output, as counted by the gauge.
    delivered: usize,
    quitting: bool,
    ended: bool,
    /// The engine has closed the link: no request can be sent.
    engine_gone: bool,
    turned_away: bool,
}

impl Session {
    /// Starts a session with the greeting in its output. `level` is the engine's, `gauge` belongs to its link.
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
            opening: Opening::default(),
            foreign: None,
            attached: HashSet::new(),
            replies: ReplyQueue::default(),
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

    /// Takes all of `input`, and executes the complete lines in it while there is room for their output.
    pub fn input(&mut self, input: &mut BytesMut) {
        if self.quitting {
            input.clear();
            return;
        }
        if let Some(foreign) = self.opening.bytes(input) {
            input.clear();
            self.refuse(foreign);
            return;
        }
        loop {
            self.framer.push(input);
            self.work();
            if let Some(answers) = self.framer.take_answers().filter(|_| !self.quitting) {
                // Negotiation is not a line, so it may overtake the replies to earlier lines.
                self.output.text().put_slice(&answers.negotiation);
                for _ in 0..answers.pongs {
                    self.say(|out| reply::line(out, "pong"));
                }
            }
            if input.is_empty() {
                return;
            }
        }
    }

    /// Marks the end of the client's input. An unfinished line is not executed; unanswered commands still get their replies.
    pub fn end_of_input(&mut self) {
        self.ended = true;
    }

    /// Ends the session because the engine has closed the link, as when the broker reopens its storage. Unanswered commands get no
    /// reply; the client is told to connect again.
    pub fn engine_gone(&mut self) {
        self.requests.clear();
        if std::mem::replace(&mut self.engine_gone, true) {
            return;
        }
        if self.replies.is_mid_line() {
            self.output.text().put_slice(reply::LINE_END);
        }
        self.replies = ReplyQueue::default();
        self.quitting = true;
        reply::engine_gone(self.output.text());
    }

    /// Takes an event of the link.
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
                    if let Some(delivery) = self.replies.hold_back(delivery) {
                        self.output.delivery(&delivery);
                    }
                }
            }
            LinkEvent::Removed { topic, subscription } => {
                self.attached.remove(&topic);
                let mut out = BytesMut::new();
                reply::removed(&mut out, &topic, &subscription);
                // Like a delivery, it must not overtake a reply that the engine gave before it.
                if let Some(text) = self.replies.hold_back_text(out) {
                    self.output.text().put_slice(&text);
                }
            }
        }
        self.work();
    }

    /// Whether more input may be read. If not, link events or written output will make room.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        !self.ended && self.has_room()
    }

    fn has_room(&self) -> bool {
        !self.quitting
            && self.claim.is_none()
            && self.replies.len() < MAX_UNANSWERED
            && self.replies.weight() < MAX_UNANSWERED_BYTES
            && self.output.remaining() < MAX_OUTPUT_BYTES
    }

    // ---- Out ----

    /// Takes the requests for the link, in order.
    #[must_use]
    pub fn take_requests(&mut self) -> Vec<Request> {
        std::mem::take(&mut self.requests)
    }

    /// The bytes to be written to the client.
    pub fn output(&mut self) -> &mut Output {
        &mut self.output
    }

    /// Marks all output as written, which makes room for further deliveries and commands.
    pub fn output_written(&mut self) {
        let delivered = std::mem::take(&mut self.delivered);
        let held_back = self.replies.held_back();
        self.delivered = held_back;
        if delivered > held_back && self.gauge.written(delivered - held_back) {
            self.request(0, Op::Resume);
        }
        self.work();
    }

    /// Whether the session is over: the client has quit or ended its input, and every command has been answered.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        let waits = !self.replies.is_empty() || !self.requests.is_empty() || self.claim.is_some();
        (self.quitting || self.ended) && !waits
    }

    /// Whether the session ended because its token was wrong, missing or revoked.
    #[must_use]
    pub fn is_turned_away(&self) -> bool {
        self.turned_away
    }

    /// The foreign protocol that ended the session, if one did.
    #[must_use]
    pub fn foreign(&self) -> Option<Foreign> {
        self.foreign
    }

    /// The client's name, if it has given one.
    #[must_use]
    pub fn client(&self) -> Option<&str> {
        self.options.client.as_deref()
    }

    // ---- Within ----

    /// Executes complete lines while there is room for their output.
    fn work(&mut self) {
        if self.output.remaining() < MAX_OUTPUT_BYTES
            && let Some((slot, op)) = self.replies.next_part()
        {
            self.request(slot, op);
        }
        // Moved out, so that a line can stay borrowed from it while it is executed.
        let mut framer = std::mem::replace(&mut self.framer, Framer::new(0));
        let limit = framer.limit();
        while self.has_room()
            && let Some(frame) = framer.next_frame()
        {
            let foreign = match frame {
                Frame::Line(line) => self.opening.line(line),
                Frame::TooLong | Frame::NotUtf8 => self.opening.unreadable_line(),
            };
            match (foreign, frame) {
                (Some(foreign), _) => self.refuse(foreign),
                (None, Frame::Line(line)) => self.line(line),
                (None, Frame::TooLong) => self.say(|out| reply::line_too_long(out, limit)),
                (None, Frame::NotUtf8) => self.say(reply::not_utf8),
            }
        }
        self.framer = framer;
    }

    /// Ends the session of a client that speaks another protocol. None of its input is executed.
    fn refuse(&mut self, foreign: Foreign) {
        if foreign == Foreign::Http {
            self.say(|out| write_bad_request(out, "Herald's line protocol"));
        }
        self.foreign = Some(foreign);
        self.quitting = true;
    }

    /// Sends a request whose outcome becomes the reply to `ask`.
    fn ask(&mut self, ask: Ask, op: Op) {
        let slot = self.replies.push(ask);
        self.request(slot, op);
    }

    fn request(&mut self, slot: Slot, op: Op) {
        if !self.engine_gone {
            self.requests.push(Request { slot, op });
        }
    }

    /// Queues a reply that needs no answer from the engine.
    fn say(&mut self, write: impl FnOnce(&mut BytesMut)) {
        if self.replies.is_empty() {
            write(self.output.text());
            return;
        }
        let mut text = BytesMut::new();
        write(&mut text);
        self.replies.push_ready(text);
    }

    /// Turns an outcome into the reply of its slot, without the topics that the session may not see.
    fn outcome(&mut self, slot: Slot, mut outcome: Outcome) {
        match &mut outcome {
            Outcome::Topics(topics) => topics.retain(|topic| self.access.may_see(&topic.topic)),
            Outcome::TopicsPage { topics, .. } => topics.retain(|topic| self.access.may_see(&topic.topic)),
            Outcome::StatsPage { stats, .. } => stats.topics.retain(|topic| self.access.may_see(&topic.topic)),
            Outcome::Stats(stats) => stats.topics.retain(|topic| self.access.may_see(&topic.topic)),
            _ => {}
        }
        let (level, attached) = (self.level, &mut self.attached);
        let render = |ask: &mut Ask, out: &mut BytesMut| {
            match (&*ask, &outcome) {
                (Ask::Subscribe(topic), Outcome::Subscribed) => {
                    attached.insert(topic.clone());
                }
                (Ask::Unsubscribe(topic), Outcome::Unsubscribed)
                | (Ask::Detach(topic) | Ask::Withdraw(topic), Outcome::Detached) => {
                    attached.remove(topic);
                }
                _ => {}
            }
            ask.answer(outcome, level, out)
        };
        self.replies.resolve(slot, &mut self.output, render);
    }
}
