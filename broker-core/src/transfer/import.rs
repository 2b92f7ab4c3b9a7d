//! Turns lines into mutations, in the order of the file. Every inconsistency is an error that names the line and what was
//! expected, since a file that was edited, cut or concatenated must not become a broker's state.

use std::collections::{HashMap, HashSet};

use serde::Deserialize;

use super::export::Totals;
use super::line::{CursorLine, EventLine, HeaderLine, HolderLine, Line, SubscriptionLine, TopicLine};
use super::progress::{IMPORT_CURSOR, Progress};
use crate::event::{EventKey, Millis, Payload, Priority, Seq};
use crate::name::{SubscriptionName, TopicName};
use crate::plain_words;
use crate::storage::{Holder, Mutation, Redelivery, StoredEvent};

/// The reason that a file cannot be imported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct ImportError {
    /// The line, counted from 1.
    pub line: u64,
    /// The error, and what was expected instead.
    pub what: String,
}

/// The result of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// Mutations to be stored, unless an earlier run has stored them.
    Mutations(Vec<Mutation>),
    /// The last line. Its counts and checksum agree with the lines before it.
    End(Totals),
}

#[derive(Debug, Default)]
struct TopicState {
    last_seq: u64,
    /// The sequence of the latest event.
    latest: u64,
    subscriptions: HashMap<SubscriptionName, u64>,
}

/// Checks the lines of an export one by one. Its memory grows with the number of names, not of events.
#[derive(Debug)]
pub struct Importer {
    totals: Totals,
    crc: crc32fast::Hasher,
    topics: HashMap<TopicName, TopicState>,
    sources: HashSet<String>,
    only: Option<TopicName>,
    ended: bool,
}

impl Default for Importer {
    fn default() -> Self {
        Self {
            totals: Totals::default(),
            crc: crc32fast::Hasher::new(),
            topics: HashMap::new(),
            sources: HashSet::new(),
            only: None,
            ended: false,
        }
    }
}

impl Importer {
    /// The progress to be committed with the lines parsed so far.
    #[must_use]
    pub fn progress(&self) -> Progress {
        Progress { lines: self.totals.lines, crc32: self.crc.clone().finalize(), finished: self.ended }
    }

    /// The totals so far.
    #[must_use]
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Takes the next line, without its ending.
    ///
    /// # Errors
    /// [`ImportError`]. The import has to stop: nothing after it can be trusted.
    pub fn line(&mut self, line: &[u8]) -> Result<Parsed, ImportError> {
        let parsed = self.parse(line).map_err(|what| self.error(what))?;
        if matches!(parsed, Parsed::Mutations(_)) {
            self.totals.lines += 1;
            self.crc.update(line);
            self.crc.update(b"\n");
        }
        Ok(parsed)
    }

    /// Checks that the file is complete, at its end.
    ///
    /// # Errors
    /// When the last line is missing.
    pub fn end(&self) -> Result<(), ImportError> {
        if self.ended {
            return Ok(());
        }
        Err(self.error(if self.totals.lines == 0 {
            "the file is empty: expected the first line of an export, {\"herald\":\"export\",…}".to_owned()
        } else {
            "the file ends here: expected more lines, the last one {\"end\":…}; it was cut off, or is still being written"
                .to_owned()
        }))
    }

    fn error(&self, what: String) -> ImportError {
        ImportError { line: self.totals.lines + 1 + u64::from(self.ended), what }
    }

    fn parse(&mut self, line: &[u8]) -> Result<Parsed, String> {
        if self.ended {
            return Err("there is more after the last line of the export".to_owned());
        }
        if self.totals.lines == 0 {
            return self.header(line).map(|()| Parsed::Mutations(Vec::new()));
        }
        let mutations = match read::<Line<'_>>(line, "a line of an export")? {
            Line::Topic(line) => vec![self.topic(&line)?],
            Line::Subscription(line) => vec![self.subscription(&line)?],
            Line::Event(line) => self.event(*line)?,
            Line::Cursor(line) => vec![self.cursor(line)?],
            Line::End(totals) => {
                self.check_end(&totals)?;
                self.ended = true;
                return Ok(Parsed::End(totals));
            }
        };
        Ok(Parsed::Mutations(mutations))
    }

    fn header(&mut self, line: &[u8]) -> Result<(), String> {
        let expected = "the first line of an export, {\"herald\":\"export\",\"version\":1}";
        let header: HeaderLine<'_> = read(line, expected)?;
        if header.herald != "export" {
            return Err(format!("a file of the kind \"{}\": expected {expected}", header.herald));
        }
        if header.version != super::VERSION {
            let known = super::VERSION;
            return Err(format!("format version {}: this release reads version {known}", header.version));
        }
        self.only = header.topic.map(|topic| topic_name(&topic)).transpose()?;
        Ok(())
    }

    fn topic(&mut self, line: &TopicLine<'_>) -> Result<Mutation, String> {
        let topic = topic_name(&line.name)?;
        if self.only.as_ref().is_some_and(|only| *only != topic) {
            return Err(format!("topic {topic} in an export of another topic"));
        }
        if self.totals.events + self.totals.cursors > 0 {
            return Err(format!("topic {topic} after events or cursors: expected all topics before them"));
        }
        let state = TopicState { last_seq: line.last_seq, ..TopicState::default() };
        if self.topics.insert(topic.clone(), state).is_some() {
            return Err(format!("topic {topic} for the second time"));
        }
        self.totals.topics += 1;
        Ok(Mutation::Topic { topic, last_seq: Seq(line.last_seq) })
    }

    fn known(&mut self, name: &str) -> Result<(TopicName, &mut TopicState), String> {
        let topic = topic_name(name)?;
        match self.topics.get_mut(&topic) {
            Some(state) => Ok((topic, state)),
            None => Err(format!("topic {topic} is unknown: expected its line before this one")),
        }
    }

    fn subscription(&mut self, line: &SubscriptionLine<'_>) -> Result<Mutation, String> {
        if self.totals.events + self.totals.cursors > 0 {
            return Err("a subscription after events or cursors: expected all subscriptions before them".to_owned());
        }
        let subscription = subscription_name(&line.name)?;
        let (topic, state) = self.known(&line.topic)?;
        if line.since > state.last_seq {
            let (since, last_seq) = (line.since, state.last_seq);
            return Err(format!("since is {since}: expected at most {last_seq}, the last_seq of topic {topic}"));
        }
        if state.subscriptions.insert(subscription.clone(), line.since).is_some() {
            return Err(format!("subscription {subscription} of topic {topic} for the second time"));
        }
        self.totals.subscriptions += 1;
        Ok(Mutation::Subscribe { topic, subscription, since: Seq(line.since) })
    }

    fn event(&mut self, line: EventLine<'_>) -> Result<Vec<Mutation>, String> {
        if self.totals.cursors > 0 {
            return Err("an event after cursors: expected all events before them".to_owned());
        }
        let (topic, state) = self.known(&line.topic)?;
        let seq = line.seq;
        if seq <= state.latest || seq > state.last_seq {
            let (latest, last_seq) = (state.latest, state.last_seq);
            return Err(format!("seq is {seq}: expected one above {latest} and up to {last_seq} in topic {topic}"));
        }
        state.latest = seq;
        let payload = payload(&line)?;
        let key = EventKey { priority: Priority(line.priority), seq: Seq(seq) };
        let event = StoredEvent {
            topic: topic.clone(),
            key,
            published_at: Millis(line.published_at),
            expires_at: line.expires_at.map(Millis),
            due_at: line.due_at.map(Millis),
            payload,
        };
        let mut holders = Vec::with_capacity(line.holders.len());
        let mut seen = HashSet::with_capacity(line.holders.len());
        let mut redeliveries = Vec::new();
        for holder in &line.holders {
            let HolderLine { subscription, deliveries, due_at, grace_ms } = holder;
            let grace_ms = grace_ms.unwrap_or_default();
            let subscription = subscription_name(subscription)?;
            match state.subscriptions.get(&subscription) {
                None => return Err(format!("holder {subscription} is no subscription of topic {topic}")),
                Some(since) if *since >= seq => {
                    return Err(format!("holder {subscription} was made at {since}, after event {seq}"));
                }
                Some(_) => {}
            }
            if !seen.insert(subscription.clone()) {
                return Err(format!("holder {subscription} for the second time"));
            }
            let due_at = due_at.map(Millis);
            if let Some(deliveries) = *deliveries {
                // `Rewrite` cannot tell a holder with no deliveries and no delay from one that the event never came back to, so this
                // one takes a mutation of its own.
                if deliveries == 0 && due_at.is_none() {
                    let events = vec![Redelivery { key, deliveries, due_at, grace_ms }];
                    redeliveries.push(Mutation::Redeliver {
                        topic: topic.clone(),
                        subscription: subscription.clone(),
                        events,
                    });
                }
            } else if due_at.is_some() || grace_ms > 0 {
                let what = if due_at.is_some() { "due_at" } else { "grace_ms" };
                return Err(format!("holder {subscription} has a {what}: expected deliveries as well"));
            }
            holders.push(Holder { subscription, deliveries: deliveries.unwrap_or_default(), due_at, grace_ms });
        }
        if holders.is_empty() {
            return Err("holders is empty: expected at least one subscription".to_owned());
        }
        let older = state.subscriptions.values().filter(|since| **since < seq).count();
        let plain =
            holders.len() == older && holders.iter().all(|holder| holder.deliveries == 0 && holder.due_at.is_none());
        let mut mutations = vec![if plain { Mutation::Publish(event) } else { Mutation::Rewrite { event, holders } }];
        mutations.append(&mut redeliveries);
        self.totals.events += 1;
        Ok(mutations)
    }

    fn cursor(&mut self, line: CursorLine<'_>) -> Result<Mutation, String> {
        let (source, value) = (line.source.into_owned(), line.value.into_owned());
        if source == IMPORT_CURSOR {
            return Err(format!("the source is called {source}: that name is reserved"));
        }
        if !self.sources.insert(source.clone()) {
            return Err(format!("the cursor of source {source} for the second time"));
        }
        self.totals.cursors += 1;
        Ok(Mutation::Cursor { source, value })
    }

    fn check_end(&self, said: &Totals) -> Result<(), String> {
        let found = Totals { crc32: format!("{:08x}", self.crc.clone().finalize()), ..self.totals.clone() };
        let (crc32, counts) = (&found.crc32, |totals: &Totals| Totals { crc32: String::new(), ..totals.clone() });
        if counts(&found) != counts(said) {
            let say = |totals: &Totals| {
                let Totals { lines, topics, subscriptions, events, cursors, .. } = totals;
                format!(
                    "{lines} lines with {topics} topics, {subscriptions} subscriptions, {events} events, {cursors} cursors"
                )
            };
            return Err(format!("the file holds {}: expected {}", say(&found), say(said)));
        }
        if *crc32 != said.crc32 {
            return Err(format!("the lines have the checksum {crc32}: expected {}; the file is damaged", said.crc32));
        }
        Ok(())
    }
}

fn read<'a, T: Deserialize<'a>>(line: &'a [u8], expected: &str) -> Result<T, String> {
    serde_json::from_slice(line).map_err(|error| {
        // The parser sees one line only, which it calls line 1.
        let text = plain_words(&error.to_string());
        let text = text.split(" at line 1 ").collect::<Vec<_>>().join(" at ");
        format!("expected {expected}: {text}")
    })
}

fn topic_name(name: &str) -> Result<TopicName, String> {
    TopicName::new(name).map_err(|error| format!("invalid topic name {name:?}: {error}"))
}

fn subscription_name(name: &str) -> Result<SubscriptionName, String> {
    SubscriptionName::new(name).map_err(|error| format!("invalid subscription name {name:?}: {error}"))
}

/// The parts of a payload that must agree with its line.
#[derive(Deserialize)]
struct Names<'a> {
    #[serde(borrow)]
    topic: std::borrow::Cow<'a, str>,
    priority: i32,
}

fn payload(line: &EventLine<'_>) -> Result<Payload, String> {
    let bytes = match (line.payload, &line.text) {
        (Some(raw), None) => {
            let text = raw.get();
            let names: Names<'_> =
                serde_json::from_str(text).map_err(|error| format!("payload: {}", plain_words(&error.to_string())))?;
            if names.topic != line.topic || names.priority != line.priority {
                return Err(format!(
                    "the payload is of topic {} with priority {}: expected topic {} with priority {}",
                    names.topic, names.priority, line.topic, line.priority
                ));
            }
            text.as_bytes()
        }
        (None, Some(text)) => text.as_bytes(),
        _ => return Err("expected either payload or text".to_owned()),
    };
    let end = u32::try_from(bytes.len().saturating_sub(1)).unwrap_or(u32::MAX);
    let insert = line.insert.unwrap_or(end);
    Payload::from_parts(bytes, insert).ok_or_else(|| format!("insert is {insert}: expected at most {end}"))
}
