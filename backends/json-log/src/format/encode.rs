//! Encodes mutations to lines.

use broker_core::event::{EventKey, Millis, Seq, write_json_string};
use broker_core::name::{SubscriptionName, TopicName};
use broker_core::storage::{Holder, Mutation, Redelivery, StoredEvent};

use super::decode::names_of;
use super::{KIND, MAX_KEYS, MAX_LINE_BYTES, VERSION, seal};
use crate::error::JsonLogError;

/// The position of an event's line in the buffer that it was encoded to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: usize,
    /// The length, line ending included.
    pub(crate) len: usize,
}

/// The most subscriptions whose settlements are gathered at once.
const MAX_GROUPS: usize = 32;

/// Turns batches into lines, and reuses its scratch space between them.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    plan: Vec<Planned>,
    /// The keys of settle and forget lines, each with its group.
    keys: Vec<(usize, EventKey)>,
    /// The groups being gathered, each by the first mutation of its topic and subscription.
    groups: Vec<usize>,
    /// The index of the first key of the groups being gathered.
    gathered_from: usize,
}

/// A planned line. It holds indexes, not references, so that the plan's memory can be reused.
#[derive(Debug)]
enum Planned {
    /// A whole mutation.
    Whole(usize),
    /// Some of the gathered keys, for the topic and subscription of a mutation.
    Keys { mutation: usize, from: usize, to: usize },
    /// Some of the events of a `Redeliver`.
    Redelivery { mutation: usize, from: usize, to: usize },
}

impl Encoder {
    /// Appends the lines of a batch and the spans of its events; returns the number of lines, 0 if there is nothing to write.
    ///
    /// # Errors
    /// When an event is too long for a line. The caller must then truncate `out` and `spans` to their former lengths.
    pub(crate) fn batch(
        &mut self,
        out: &mut Vec<u8>,
        number: u64,
        mutations: &[Mutation],
        spans: &mut Vec<Span>,
    ) -> Result<u64, JsonLogError> {
        self.lay_out(mutations);
        let lines = self.plan.len() as u64;
        for (n, planned) in self.plan.iter().enumerate() {
            let start = out.len();
            out.extend_from_slice(br#"{"batch":"#);
            push_u64(out, number);
            push_left(out, b",", lines - 1 - n as u64);
            match *planned {
                Planned::Whole(mutation) => push_mutation(out, &mutations[mutation])?,
                Planned::Keys { mutation, from, to } => push_keys(out, &mutations[mutation], &self.keys[from..to]),
                Planned::Redelivery { mutation, from, to } => push_redeliver(out, &mutations[mutation], from..to),
            }
            seal(out, start);
            let len = out.len() - start;
            if len > MAX_LINE_BYTES {
                let (bytes, limit) = (len as u64, MAX_LINE_BYTES as u64);
                return Err(JsonLogError::TooLarge { what: "an event with its record", bytes, limit });
            }
            if let Planned::Whole(mutation) = planned
                && matches!(mutations[*mutation], Mutation::Publish(_) | Mutation::Rewrite { .. })
            {
                spans.push(Span { start, len });
            }
        }
        Ok(lines)
    }

    /// Plans the lines before any is encoded, because each states how many follow.
    ///
    /// The settlements of one subscription share a line even if other mutations lie between them. They move behind those mutations,
    /// but never behind one that changes their meaning. A batch is atomic, so settling later within it makes no difference.
    fn lay_out(&mut self, mutations: &[Mutation]) {
        self.plan.clear();
        self.keys.clear();
        self.gathered_from = 0;
        for (n, mutation) in mutations.iter().enumerate() {
            match mutation {
                Mutation::Release { .. } => {}
                Mutation::Publish(_) | Mutation::Topic { .. } | Mutation::Cursor { .. } => {
                    self.plan.push(Planned::Whole(n));
                }
                Mutation::Subscribe { .. } => {
                    self.end_groups();
                    // Written twice: every event of the subscription depends on this record, and any single line can be damaged.
                    self.plan.push(Planned::Whole(n));
                    self.plan.push(Planned::Whole(n));
                }
                Mutation::Unsubscribe { .. } | Mutation::Rewrite { .. } => {
                    self.end_groups();
                    self.plan.push(Planned::Whole(n));
                }
                Mutation::Settle { topic, subscription, events } => {
                    let known = self.groups.iter().rposition(|m| {
                        matches!(&mutations[*m], Mutation::Settle { topic: t, subscription: s, .. }
                            if t == topic && s == subscription)
                    });
                    let group = known.unwrap_or_else(|| {
                        if self.groups.len() == MAX_GROUPS {
                            self.end_groups();
                        }
                        self.groups.push(n);
                        self.groups.len() - 1
                    });
                    self.keys.extend(events.iter().map(|key| (group, *key)));
                }
                Mutation::Forget { events, .. } => {
                    self.end_groups();
                    self.groups.push(n);
                    self.keys.extend(events.iter().map(|key| (0, *key)));
                    self.end_groups();
                }
                Mutation::Redeliver { events, .. } => {
                    self.end_groups();
                    for from in (0..events.len()).step_by(MAX_KEYS) {
                        let to = events.len().min(from + MAX_KEYS);
                        self.plan.push(Planned::Redelivery { mutation: n, from, to });
                    }
                }
            }
        }
        self.end_groups();
    }

    fn end_groups(&mut self) {
        let mut from = self.gathered_from;
        self.keys[from..].sort_unstable_by_key(|(group, key)| (*group, key.priority, key.seq));
        while let Some((group, _)) = self.keys.get(from) {
            let longest = &self.keys[from..self.keys.len().min(from + MAX_KEYS)];
            let to = from + longest.partition_point(|(other, _)| other == group);
            self.plan.push(Planned::Keys { mutation: self.groups[*group], from, to });
            from = to;
        }
        self.groups.clear();
        self.gathered_from = self.keys.len();
    }
}

/// Appends the header of a segment; `left` lines of the catalogue follow.
pub(crate) fn encode_header(out: &mut Vec<u8>, header: &super::Header, left: u64) {
    let start = out.len();
    out.extend_from_slice(br#"{"herald":""#);
    out.extend_from_slice(KIND.as_bytes());
    out.extend_from_slice(br#"","version":"#);
    push_u64(out, VERSION);
    for (key, value) in [
        (&br#","segment":"#[..], header.segment),
        (br#","created":"#, header.created.0),
        (br#","oldest":"#, header.oldest),
        (br#","next_batch":"#, header.next_batch),
    ] {
        out.extend_from_slice(key);
        push_u64(out, value);
    }
    push_left(out, b",", left);
    // In every other line a key follows `left`, and so the comma after it.
    out.pop();
    seal(out, start);
}

/// A line of the catalogue.
#[derive(Debug, Clone, Copy)]
pub(crate) enum CatalogueLine<'a> {
    Topic { topic: &'a TopicName, last_seq: Seq },
    Subscription { topic: &'a TopicName, subscription: &'a SubscriptionName, since: Seq },
    Cursor { source: &'a str, value: &'a str },
}

/// Appends a line of the catalogue; `left` others follow.
pub(crate) fn encode_catalogue_line(out: &mut Vec<u8>, line: CatalogueLine<'_>, left: u64) {
    let start = out.len();
    push_left(out, b"{", left);
    match line {
        CatalogueLine::Topic { topic, last_seq } => push_topic(out, topic, last_seq),
        CatalogueLine::Subscription { topic, subscription, since } => push_subscribe(out, topic, subscription, since),
        CatalogueLine::Cursor { source, value } => push_cursor(out, source, value),
    }
    seal(out, start);
}

/// Appends the record that the segments up to `through` are gone, as a batch of its own.
pub(crate) fn encode_freed(out: &mut Vec<u8>, batch: u64, through: u64) {
    let start = out.len();
    out.extend_from_slice(br#"{"batch":"#);
    push_u64(out, batch);
    push_left(out, b",", 0);
    out.extend_from_slice(br#""freed":{"through":"#);
    push_u64(out, through);
    out.push(b'}');
    seal(out, start);
}

/// Appends the note that lines before the next one are gone: `lines` of them were moved to the file `moved_to`.
pub(crate) fn encode_repaired(out: &mut Vec<u8>, frame: super::Frame, lines: u64, moved_to: &str) {
    let start = out.len();
    out.extend_from_slice(br#"{"batch":"#);
    push_u64(out, frame.batch);
    push_left(out, b",", frame.left);
    out.extend_from_slice(br#""repaired":{"lines":"#);
    push_u64(out, lines);
    if lines > 0 {
        out.extend_from_slice(br#","moved_to":"#);
        write_json_string(out, moved_to);
    }
    out.push(b'}');
    seal(out, start);
}

/// Appends a line unchanged; `body` is the part that its checksum covers.
pub(crate) fn encode_again(out: &mut Vec<u8>, body: &[u8]) {
    let start = out.len();
    out.extend_from_slice(body);
    seal(out, start);
}

fn push_left(out: &mut Vec<u8>, before: &[u8], left: u64) {
    out.extend_from_slice(before);
    out.extend_from_slice(br#""left":"#);
    push_u64(out, left);
    out.push(b',');
}

fn push_mutation(out: &mut Vec<u8>, mutation: &Mutation) -> Result<(), JsonLogError> {
    match mutation {
        Mutation::Publish(event) => push_event(out, event, None)?,
        Mutation::Rewrite { event, holders } => push_event(out, event, Some(holders))?,
        Mutation::Topic { topic, last_seq } => push_topic(out, topic, *last_seq),
        Mutation::Subscribe { topic, subscription, since } => push_subscribe(out, topic, subscription, *since),
        Mutation::Unsubscribe { topic, subscription } => {
            push_names(out, br#""unsubscribe":{"#, topic, Some(subscription));
            out.push(b'}');
        }
        Mutation::Cursor { source, value } => push_cursor(out, source, value),
        // Planned as keys, as redeliveries, or not at all.
        Mutation::Settle { .. } | Mutation::Redeliver { .. } | Mutation::Forget { .. } | Mutation::Release { .. } => {}
    }
    Ok(())
}

fn push_event(out: &mut Vec<u8>, event: &StoredEvent, holders: Option<&[Holder]>) -> Result<(), JsonLogError> {
    let payload = event.payload.bytes();
    out.extend_from_slice(br#""seq":"#);
    push_u64(out, event.key.seq.0);
    out.extend_from_slice(br#","at":"#);
    push_u64(out, event.published_at.0);
    push_time(out, br#","expires":"#, event.expires_at);
    push_time(out, br#","due":"#, event.due_at);
    if event.payload.insert_at() as usize + 1 != payload.len() {
        out.extend_from_slice(br#","insert":"#);
        push_u64(out, u64::from(event.payload.insert_at()));
    }
    // The payload of every event encoded by the broker begins with both.
    if names_of(payload) != Some((event.topic.as_str().as_bytes(), event.key.priority)) {
        out.extend_from_slice(br#","topic":""#);
        out.extend_from_slice(event.topic.as_str().as_bytes());
        out.extend_from_slice(br#"","priority":"#);
        push_i64(out, i64::from(event.key.priority.0));
    }
    if let Some(holders) = holders {
        push_holders(out, holders);
    }
    let is_object_on_a_line =
        payload.starts_with(b"{") && payload.ends_with(b"}") && memchr::memchr2(b'\n', 0, payload).is_none();
    if is_object_on_a_line {
        out.extend_from_slice(br#","event":"#);
        out.extend_from_slice(payload);
    } else {
        let text = std::str::from_utf8(payload)
            .map_err(|_| JsonLogError::NotText { topic: event.topic.as_str().to_owned(), seq: event.key.seq.0 })?;
        out.extend_from_slice(br#","text":"#);
        write_json_string(out, text);
    }
    Ok(())
}

fn push_holders(out: &mut Vec<u8>, holders: &[Holder]) {
    out.extend_from_slice(br#","holders":["#);
    for (n, holder) in holders.iter().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        out.extend_from_slice(br#"{"subscription":""#);
        out.extend_from_slice(holder.subscription.as_str().as_bytes());
        out.push(b'"');
        if holder.deliveries > 0 {
            out.extend_from_slice(br#","deliveries":"#);
            push_u64(out, u64::from(holder.deliveries));
        }
        push_time(out, br#","due":"#, holder.due_at);
        if holder.grace_ms > 0 {
            out.extend_from_slice(br#","grace":"#);
            push_u64(out, holder.grace_ms);
        }
        out.push(b'}');
    }
    out.push(b']');
}

fn push_topic(out: &mut Vec<u8>, topic: &TopicName, last_seq: Seq) {
    out.extend_from_slice(br#""topic":{"name":""#);
    out.extend_from_slice(topic.as_str().as_bytes());
    out.extend_from_slice(br#"","last_seq":"#);
    push_u64(out, last_seq.0);
    out.push(b'}');
}

fn push_subscribe(out: &mut Vec<u8>, topic: &TopicName, subscription: &SubscriptionName, since: Seq) {
    push_names(out, br#""subscribe":{"#, topic, Some(subscription));
    out.extend_from_slice(br#","since":"#);
    push_u64(out, since.0);
    out.push(b'}');
}

fn push_cursor(out: &mut Vec<u8>, source: &str, value: &str) {
    out.extend_from_slice(br#""cursor":{"source":"#);
    write_json_string(out, source);
    out.extend_from_slice(br#","value":"#);
    write_json_string(out, value);
    out.push(b'}');
}

/// Appends the names at the start of a record. They contain no character that JSON escapes.
fn push_names(out: &mut Vec<u8>, before: &[u8], topic: &TopicName, subscription: Option<&SubscriptionName>) {
    out.extend_from_slice(before);
    out.extend_from_slice(br#""topic":""#);
    out.extend_from_slice(topic.as_str().as_bytes());
    if let Some(subscription) = subscription {
        out.extend_from_slice(br#"","subscription":""#);
        out.extend_from_slice(subscription.as_str().as_bytes());
    }
    out.push(b'"');
}

/// Appends the body of a settle or forget line for sorted keys.
fn push_keys(out: &mut Vec<u8>, mutation: &Mutation, keys: &[(usize, EventKey)]) {
    match mutation {
        Mutation::Settle { topic, subscription, .. } => push_names(out, br#""settle":{"#, topic, Some(subscription)),
        Mutation::Forget { topic, .. } => push_names(out, br#""forget":{"#, topic, None),
        _ => return,
    }
    out.extend_from_slice(br#","events":{"#);
    for (n, run) in keys.chunk_by(|a, b| a.1.priority == b.1.priority).enumerate() {
        if n > 0 {
            out.push(b',');
        }
        out.push(b'"');
        push_i64(out, i64::from(run[0].1.priority.0));
        out.extend_from_slice(br#"":["#);
        for (n, range) in run.chunk_by(|a, b| a.1.seq.0.checked_add(1) == Some(b.1.seq.0)).enumerate() {
            if n > 0 {
                out.push(b',');
            }
            push_range(out, range);
        }
        out.push(b']');
    }
    out.extend_from_slice(b"}}");
}

/// Appends consecutive sequences, as a range if that is shorter.
fn push_range(out: &mut Vec<u8>, range: &[(usize, EventKey)]) {
    if let [(_, first), _, .., (_, last)] = range {
        out.push(b'[');
        push_u64(out, first.seq.0);
        out.push(b',');
        push_u64(out, last.seq.0);
        out.push(b']');
        return;
    }
    for (n, (_, key)) in range.iter().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        push_u64(out, key.seq.0);
    }
}

fn push_redeliver(out: &mut Vec<u8>, mutation: &Mutation, part: std::ops::Range<usize>) {
    let Mutation::Redeliver { topic, subscription, events } = mutation else { return };
    push_names(out, br#""requeue":{"#, topic, Some(subscription));
    out.extend_from_slice(br#","events":["#);
    for (n, Redelivery { key, deliveries, due_at, grace_ms }) in events[part].iter().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        out.push(b'[');
        push_i64(out, i64::from(key.priority.0));
        out.push(b',');
        push_u64(out, key.seq.0);
        out.push(b',');
        push_u64(out, u64::from(*deliveries));
        push_time(out, b",", *due_at);
        if *grace_ms > 0 {
            out.extend_from_slice(if due_at.is_some() { b"," } else { b",null," });
            push_u64(out, *grace_ms);
        }
        out.push(b']');
    }
    out.extend_from_slice(b"]}");
}

fn push_time(out: &mut Vec<u8>, key: &[u8], time: Option<Millis>) {
    if let Some(time) = time {
        out.extend_from_slice(key);
        push_u64(out, time.0);
    }
}

fn push_i64(out: &mut Vec<u8>, n: i64) {
    if n < 0 {
        out.push(b'-');
    }
    push_u64(out, n.unsigned_abs());
}

fn push_u64(out: &mut Vec<u8>, n: u64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    let mut rest = n;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}
