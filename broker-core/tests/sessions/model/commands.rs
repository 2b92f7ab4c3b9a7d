//! The effect of each command.

use serde_json::Value;

use super::{Checked, Late, Model};
use crate::script::{MAX_LINE, NO_OPERATION, NO_TEXT};
use crate::seen::{Expect, Seen};

impl Model {
    /// Executes a client's line and all its consequences. `alone` if it was sent by itself.
    pub(crate) fn line(&mut self, connection: usize, line: &str, seen: &mut Seen, alone: bool) -> Checked {
        if line.contains(NO_TEXT) {
            return seen.reply(connection, &Expect::line("error: line is not valid UTF-8"));
        }
        let line = &line.replace(NO_OPERATION, "");
        if line.len() > MAX_LINE {
            return seen.reply(connection, &Expect::line(format!("error: line exceeds {MAX_LINE} bytes")));
        }
        self.do_line(connection, line, seen)?;
        let mut words = line.split_ascii_whitespace().map(str::to_ascii_lowercase);
        let answers_first = ["sub", "subscribe", "ack", "acknowledge", "nack", "term", "touch"];
        match (words.next(), words.next()) {
            (Some(verb), Some(topic)) if alone && answers_first.contains(&verb.as_str()) => {
                seen.replies_come_first(connection, &topic)
            }
            _ => Ok(()),
        }
    }

    fn do_line(&mut self, connection: usize, line: &str, seen: &mut Seen) -> Checked {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let Some(verb) = words.first().map(|verb| verb.to_ascii_lowercase()) else { return Ok(()) };
        let verb = match verb.as_str() {
            "publish" => "pub",
            "subscribe" => "sub",
            "unsubscribe" => "unsub",
            "acknowledge" => "ack",
            other => other,
        };
        let say = |seen: &mut Seen, text: String| seen.reply(connection, &Expect::Line(text));
        // Everything after the second word, unchanged.
        let rest = || {
            let trimmed = line.trim();
            let (_, rest) = trimmed.split_once([' ', '\t']).unwrap_or_default();
            let (_, rest) = rest.trim_start().split_once([' ', '\t']).unwrap_or_default();
            rest.trim_start().to_owned()
        };
        if words.get(1) == Some(&".bad") {
            return seen.reply(connection, &Expect::Begins(r#"error: invalid topic name ".bad": "#.to_owned()));
        }
        if matches!(verb, "sub" | "unsub" | "purge") && words.get(2) == Some(&".bad") {
            return seen.reply(connection, &Expect::Begins(r#"error: invalid subscription name ".bad": "#.to_owned()));
        }
        match (verb, &words[1..]) {
            ("pub", [topic, _, ..]) => self.publish(connection, topic, &rest(), seen),
            ("sub", [topic]) => self.subscribe(connection, topic, None, seen),
            ("sub", [topic, name]) => self.subscribe(connection, topic, Some(name), seen),
            ("unsub", [topic]) => self.unsubscribe(connection, topic, None, seen),
            ("unsub", [topic, name]) => self.unsubscribe(connection, topic, Some(name), seen),
            ("detach", [topic]) => {
                self.let_go(topic, connection);
                say(seen, format!("detached from topic {topic}"))?;
                self.settle(seen)
            }
            ("ack", [topic, ids @ ..]) if !ids.is_empty() => self.acknowledge(connection, topic, ids, seen),
            ("nack", [topic, id]) => self.nack(connection, topic, id, 0, seen),
            ("nack", [topic, id, delay]) => match delay.parse() {
                Ok(delay) => self.nack(connection, topic, id, delay, seen),
                Err(_) => seen.reply(connection, &Expect::Begins(format!(r#"error: invalid delay "{delay}": "#))),
            },
            ("touch", [topic, id]) => self.touch(connection, topic, id, seen),
            ("term", [topic, id, note @ ..]) => {
                let note = (!note.is_empty()).then(|| note.join(" "));
                self.terminate(connection, topic, id, note, seen)
            }
            ("peek", [topic, words @ ..]) if words.len() < 3 => self.peek(connection, topic, words, seen),
            ("purge", [topic]) => self.purge(connection, topic, None, seen),
            ("purge", [topic, name]) => self.purge(connection, topic, Some(name), seen),
            ("redrive", [topic]) => self.redrive(connection, topic, usize::MAX, seen),
            ("redrive", [topic, most]) => match most.parse() {
                Ok(0) | Err(_) => {
                    seen.reply(connection, &Expect::Begins(format!(r#"error: invalid number of events "{most}": "#)))
                }
                Ok(most) => self.redrive(connection, topic, most, seen),
            },
            ("topics", []) => seen.reply(connection, &self.topics_line()),
            ("stats", []) => seen.reply(connection, &self.stats_line(None)),
            ("stats", [topic]) => seen.reply(connection, &self.stats_line(Some(topic))),
            ("ping", []) => say(seen, "pong".to_owned()),
            ("quit", []) => {
                say(seen, "bye".to_owned())?;
                self.lose(connection, seen)
            }
            ("hello", [_, ..]) => self.hello(connection, line, seen),
            (
                "pub" | "sub" | "unsub" | "detach" | "ack" | "nack" | "touch" | "term" | "peek" | "purge" | "redrive"
                | "topics" | "stats" | "ping" | "quit" | "hello",
                _,
            ) => seen.reply(connection, &Expect::Begins("error: usage: ".to_owned())),
            _ => seen.reply(connection, &Expect::Begins("error: unknown command: \"".to_owned())),
        }
    }

    fn hello(&mut self, connection: usize, line: &str, seen: &mut Seen) -> Checked {
        let json = line.trim().split_once([' ', '\t']).map_or("", |(_, json)| json.trim());
        let fields: Value = serde_json::from_str(json).unwrap_or_default();
        let prefetch = fields.get("prefetch").map(|value| value.as_u64().filter(|n| (1..=65_535).contains(n)));
        let replies =
            fields.get("replies").map(|value| value.as_str().filter(|word| ["quiet", "verbose"].contains(word)));
        let confirm = fields.get("confirm").map(Value::as_bool);
        let known = ["client", "token", "prefetch", "replies", "confirm"];
        let is_good = fields.as_object().is_some_and(|fields| fields.keys().all(|key| known.contains(&key.as_str())))
            && prefetch != Some(None)
            && replies != Some(None)
            && confirm != Some(None);
        if !is_good {
            return seen.reply(connection, &Expect::Begins("error: hello: ".to_owned()));
        }
        let Some(options) = self.connections[connection].as_mut() else { return Ok(()) };
        if let Some(Some(prefetch)) = prefetch {
            options.prefetch = usize::try_from(prefetch).map_err(|error| error.to_string())?;
        }
        if let Some(Some(replies)) = replies {
            options.quiet = replies == "quiet";
        }
        if let Some(Some(confirm)) = confirm {
            options.confirm = confirm;
        }
        seen.reply(connection, &Expect::Begins(r#"hello {"server":"herald","version":""#.to_owned()))?;
        self.settle(seen)
    }

    fn subscribe(&mut self, connection: usize, name: &str, to: Option<&str>, seen: &mut Seen) -> Checked {
        let topic = self.topics.entry(name.to_owned()).or_default();
        if let Some(at) = topic.of(connection) {
            let attached = topic.subscriptions[at].as_ref().and_then(|subscription| subscription.name.clone());
            if attached.as_deref() != to {
                let attached = attached.map_or_else(|| "its own".to_owned(), |name| format!("\"{name}\""));
                let error = format!("error: already subscribed to topic {name} as {attached}; unsub or detach first");
                return seen.reply(connection, &Expect::Line(error));
            }
        } else {
            let at = to.and_then(|to| topic.named(to)).unwrap_or_else(|| topic.add(to.map(str::to_owned)));
            self.subscription(name, at).attached.push(connection);
            seen.comes_first(connection, &format!("successfully subscribed to topic {name}"), name)?;
        }
        seen.reply(connection, &Expect::line(format!("successfully subscribed to topic {name}")))?;
        self.settle(seen)
    }

    fn unsubscribe(&mut self, connection: usize, name: &str, from: Option<&str>, seen: &mut Seen) -> Checked {
        let at = self.topics.get(name).and_then(|topic| match from {
            Some(from) => topic.named(from),
            None => topic.of(connection),
        });
        let removed = at.and_then(|at| self.remove(name, at)).unwrap_or_default();
        seen.reply(connection, &Expect::line(format!("successfully unsubscribe from topic {name}")))?;
        for other in removed.attached.into_iter().filter(|other| *other != connection) {
            let subscription = removed.name.as_deref().unwrap_or_default();
            let told = format!("error: subscription \"{subscription}\" of topic {name} was removed");
            seen.reply(other, &Expect::Line(told))?;
        }
        Ok(())
    }

    /// The connection's subscription to the topic, or the error that there is none.
    fn own(&self, connection: usize, topic: &str, seen: &mut Seen) -> Result<Option<usize>, String> {
        let own = self.topics.get(topic).and_then(|topic| topic.of(connection));
        if own.is_none() {
            seen.reply(connection, &Expect::line(format!("error: not a topic {topic} subscriber")))?;
        }
        Ok(own)
    }

    fn acknowledge(&mut self, connection: usize, topic: &str, ids: &[&str], seen: &mut Seen) -> Checked {
        let Some(at) = self.own(connection, topic, seen)? else { return Ok(()) };
        let quiet = self.connections[connection].as_ref().is_some_and(|options| options.quiet);
        let mut answers: Vec<String> = Vec::new();
        let mut made_room = false;
        if *ids == ["*"] {
            let count = self.subscription(topic, at).acknowledge(|held| held.is_in_flight_on(connection));
            made_room = count > 0;
            answers.extend((!quiet).then(|| format!("acknowledged {count} events")));
        } else {
            for id in ids {
                match self.acknowledge_one(connection, topic, at, id) {
                    Ok(was_in_flight) => {
                        made_room |= was_in_flight;
                        answers.extend((!quiet).then(|| format!("acknowledged from logs ev_id={id}")));
                    }
                    Err(answer) => answers.push(answer),
                }
            }
        }
        for answer in answers {
            seen.reply(connection, &Expect::Line(answer))?;
        }
        let (policy, now) = (self.policy(topic), self.now);
        let subscription = self.subscription(topic, at);
        let idle = subscription.in_flight_on(connection) == 0 && subscription.next(&policy, now).is_none();
        if made_room && idle && !quiet {
            seen.reply(connection, &Expect::line("no available message"))?;
        }
        self.settle(seen)
    }

    /// Acknowledges an event. Returns whether it was in flight on the connection, or the answer that there is none.
    fn acknowledge_one(&mut self, connection: usize, topic: &str, at: usize, id: &str) -> Result<bool, String> {
        let subscription = self.subscription(topic, at);
        if let Some(held) = subscription.flight(connection, id) {
            let sequence = subscription.events[held].sequence;
            subscription.acknowledge(|held| held.sequence == sequence);
            return Ok(true);
        }
        let is_elsewhere = subscription.events.iter().any(|held| held.id == id && !held.waits());
        if !is_elsewhere {
            // What has been delivered and came back; of several, the one delivered first.
            let came_back = subscription.events.iter().filter(|held| held.id == id && held.deliveries > 0);
            if let Some(sequence) = came_back.min_by_key(|held| held.order).map(|held| held.sequence) {
                subscription.acknowledge(|held| held.sequence == sequence);
                let late = |late: &Late| late.connection == connection && late.sequence == sequence;
                if let Some(late) = subscription.late.iter().position(late) {
                    subscription.late.remove(late);
                }
                return Ok(false);
            }
        }
        // A delivery that has timed out may be acknowledged once, if its event has been acknowledged since.
        let late = |late: &Late| late.connection == connection && late.id == id;
        if let Some(late) = subscription.late.iter().position(|one| late(one) && one.acknowledged) {
            subscription.late.remove(late);
            return Ok(false);
        }
        if !is_elsewhere {
            subscription.late.retain(|one| !late(one));
        }
        Err(if subscription.refused.insert((connection, id.to_owned())) {
            format!("no_event_error: {id}")
        } else {
            format!("error: event {id} is no longer held here")
        })
    }

    /// Finds the event in flight on the connection under an id, or expects the reply that there is none.
    fn in_flight(
        &mut self,
        connection: usize,
        topic: &str,
        id: &str,
        seen: &mut Seen,
    ) -> Result<Option<(usize, usize)>, String> {
        let Some(at) = self.own(connection, topic, seen)? else { return Ok(None) };
        let flight = self.subscription(topic, at).flight(connection, id);
        if flight.is_none() {
            seen.reply(connection, &Expect::line(format!("no_event_error: {id}")))?;
        }
        Ok(flight.map(|flight| (at, flight)))
    }

    fn nack(&mut self, connection: usize, topic: &str, id: &str, delay: u64, seen: &mut Seen) -> Checked {
        let Some((at, held)) = self.in_flight(connection, topic, id, seen)? else { return Ok(()) };
        let due = if delay > 0 { self.now + delay + 1 } else { 0 };
        self.come_back(topic, at, held, due);
        if self.connections[connection].as_ref().is_some_and(|options| !options.quiet) {
            seen.reply(connection, &Expect::line(format!("requeued ev_id={id}")))?;
        }
        self.settle(seen)
    }

    fn touch(&mut self, connection: usize, topic: &str, id: &str, seen: &mut Seen) -> Checked {
        let Some((at, held)) = self.in_flight(connection, topic, id, seen)? else { return Ok(()) };
        let (timeout, now) = (self.policy(topic).ack_timeout_ms, self.now);
        if let Some(flight) = &mut self.subscription(topic, at).events[held].flight {
            flight.deadline = (timeout > 0).then(|| now + timeout);
        }
        seen.reply(connection, &Expect::line(format!("touched ev_id={id}")))
    }

    fn terminate(
        &mut self,
        connection: usize,
        topic: &str,
        id: &str,
        note: Option<String>,
        seen: &mut Seen,
    ) -> Checked {
        let Some((at, held)) = self.in_flight(connection, topic, id, seen)? else { return Ok(()) };
        self.die(topic, at, held, "terminated", note);
        seen.reply(connection, &Expect::line(format!("terminated ev_id={id}")))?;
        self.settle(seen)
    }
}
