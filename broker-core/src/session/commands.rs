//! Executes commands: checks access, answers what needs no engine, and asks the engine for the rest.

use std::sync::Arc;

use super::Session;
use super::asks::{Ask, PEEK_BYTES, Peek};
use super::authentication::Claim;
use super::hello::{Answer, Options};
use crate::engine::Op;
use crate::letter::bounded_note;
use crate::name::{IdKey, TopicName};
use crate::protocol::command::{Command, Right, parse};
use crate::protocol::event::parse_event;
use crate::protocol::{help, reply};

/// The detached topics that an answer to `hello` names, at most.
const MAX_DETACHED: usize = 100;

impl Session {
    /// Parses a line, checks the right that its command needs, and executes it.
    ///
    /// An invalid line needs authentication like a command: an unauthenticated client learns nothing else.
    pub(super) fn line(&mut self, text: &str) {
        let command = parse(text, &self.settings.words, &mut self.topic);
        let right = command.as_ref().map_or(Right::Authenticated, Command::needs);
        if let Err(denied) = self.access.check(right) {
            self.say(|out| denied.write(out));
            return;
        }
        match command {
            Ok(command) => {
                self.opening.pass();
                self.execute(command);
            }
            Err(error) => self.say(|out| reply::command_error(out, &error)),
        }
    }

    fn execute(&mut self, command: Command<'_>) {
        let quiet = self.options.quiet;
        match command {
            Command::Hello { options } => self.hello(options),
            Command::Publish { topic, event } => match parse_event(topic.as_str(), event) {
                // An unknown topic is reported before a malformed event, and only the engine knows the topics.
                Err(reason) => self.ask(Ask::BadEvent(reason.into()), Op::Check { topic }),
                Ok(event) => {
                    let confirm = self.options.confirm;
                    let ask = Ask::Publish { topic: topic.clone(), payload: event.payload.clone(), confirm };
                    self.ask(ask, Op::Publish { topic, event, confirm });
                }
            },
            Command::Subscribe { topic, name } => {
                let prefetch = self.options.prefetch;
                self.ask(Ask::Subscribe(topic.clone()), Op::Subscribe { topic, name, prefetch });
            }
            Command::Unsubscribe { topic, name } => {
                self.ask(Ask::Unsubscribe(topic.clone()), Op::Unsubscribe { topic, name });
            }
            Command::Detach { topic } => self.ask(Ask::Detach(topic.clone()), Op::Detach { topic }),
            Command::Acknowledge { topic, ids } => {
                let keys = ids.iter().map(|id| IdKey::of(id)).collect();
                let ids = ids.join(" ").into_boxed_str();
                self.ask(Ask::Acknowledge { ids, quiet }, Op::Ack { topic, ids: keys });
            }
            Command::AcknowledgeAll { topic } => self.ask(Ask::AcknowledgeAll { quiet }, Op::AckAll { topic }),
            Command::Nack { topic, id, delay_ms } => {
                let ask = Ask::Settle { word: "requeued", id: Box::from(id), note: 0, quiet };
                self.ask(ask, Op::Nack { topic, id: IdKey::of(id), delay_ms });
            }
            Command::Touch { topic, id } => {
                let ask = Ask::Settle { word: "touched", id: Box::from(id), note: 0, quiet: false };
                self.ask(ask, Op::Touch { topic, id: IdKey::of(id) });
            }
            Command::Terminate { topic, id, note } => {
                let text = note.map(bounded_note);
                let note = text.as_ref().map_or(0, |text| text.len());
                let ask = Ask::Settle { word: "terminated", id: Box::from(id), note, quiet: false };
                self.ask(ask, Op::Terminate { topic, id: IdKey::of(id), note: text });
            }
            Command::Peek { topic, name, most, after } => {
                let peek =
                    Peek { topic, subscription: name, most, bytes: PEEK_BYTES, begun: false, pages: after.is_some() };
                let request = peek.request(after);
                self.ask(Ask::Peek(Box::new(peek)), request);
            }
            Command::Purge { topic, name } => self.ask(Ask::Purge, Op::Purge { topic, subscription: name }),
            Command::Redrive { topic, most } => self.ask(Ask::Redrive, Op::Redrive { topic, most }),
            Command::Topics => {
                self.ask(Ask::All { stats: false, begun: false, listed: false }, Op::TopicsAfter(None));
            }
            Command::Stats { topic: None } => {
                self.ask(Ask::All { stats: true, begun: false, listed: false }, Op::StatsAfter(None));
            }
            Command::Stats { topic } => self.ask(Ask::Stats, Op::Stats(topic)),
            Command::Help => {
                let settings = Arc::clone(&self.settings);
                self.say(|out| help::write(out, &settings.words));
            }
            Command::Ping => self.say(|out| reply::line(out, "pong")),
            Command::Quit => {
                self.say(|out| reply::line(out, "bye"));
                self.quitting = true;
            }
        }
    }

    fn hello(&mut self, json: &str) {
        match self.options.changed_by(json) {
            Err(reason) => self.say(|out| reply::invalid_hello(out, &reason)),
            Ok((options, Some(token))) if self.access.checks_tokens() => self.claim = Some(Claim { token, options }),
            Ok(_) if self.access.is_locked() => self.say(reply::authentication_required),
            // Where no token is required, any token is accepted.
            Ok((options, _)) => self.apply(options),
        }
    }

    /// Detaches the topics that the current token may not subscribe to, and returns them. That includes subscriptions that the engine
    /// has not answered yet: it executes the requests about a topic in order, so the detach follows.
    fn withdraw(&mut self) -> Vec<TopicName> {
        let mut topics: Vec<TopicName> = self.attached.iter().chain(self.replies.subscribing()).cloned().collect();
        topics.retain(|topic| !self.access.may_subscribe(topic));
        topics.sort_unstable();
        topics.dedup();
        for topic in &topics {
            self.ask(Ask::Withdraw(topic.clone()), Op::Detach { topic: topic.clone() });
        }
        topics
    }

    /// Applies the options of a `hello` and answers it.
    ///
    /// The answer waits until these topics are detached, so every delivery under the old rights precedes it.
    pub(super) fn apply(&mut self, options: Options) {
        let withdrawn = self.withdraw();
        let detached: Vec<&str> = withdrawn.iter().take(MAX_DETACHED).map(TopicName::as_str).collect();
        if options.prefetch != self.options.prefetch {
            self.request(0, Op::Prefetch(options.prefetch));
        }
        self.options = options;
        let answer = Answer {
            server: "herald",
            version: self.settings.version,
            protocol: 1,
            session: &self.id,
            max_line_bytes: self.settings.max_line_bytes,
            max_output_line_bytes: self.settings.max_output_line_bytes,
            detached: &detached,
            detached_more: withdrawn.len().checked_sub(MAX_DETACHED).filter(|more| *more > 0),
        };
        let answer = serde_json::to_string(&answer).expect("strings and numbers");
        self.say(|out| reply::line(out, format_args!("hello {answer}")));
    }
}
