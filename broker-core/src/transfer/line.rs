//! The lines of an export. They are written by hand, which copies each payload once and makes equal contents equal bytes, and
//! read by serde, whose errors say what was expected.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::export::Totals;
use crate::event::{Millis, Payload, write_int, write_json_string};
use crate::name::{SubscriptionName, TopicName};

/// The first line.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HeaderLine<'a> {
    #[serde(borrow)]
    pub(super) herald: Cow<'a, str>,
    pub(super) version: u64,
    #[serde(borrow)]
    pub(super) topic: Option<Cow<'a, str>>,
}

/// Any other line.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Line<'a> {
    #[serde(borrow)]
    Topic(TopicLine<'a>),
    Subscription(SubscriptionLine<'a>),
    Event(Box<EventLine<'a>>),
    Cursor(CursorLine<'a>),
    End(Totals),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TopicLine<'a> {
    #[serde(borrow)]
    pub(super) name: Cow<'a, str>,
    pub(super) last_seq: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SubscriptionLine<'a> {
    #[serde(borrow)]
    pub(super) topic: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) name: Cow<'a, str>,
    pub(super) since: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventLine<'a> {
    #[serde(borrow)]
    pub(super) topic: Cow<'a, str>,
    pub(super) priority: i32,
    pub(super) seq: u64,
    pub(super) published_at: u64,
    pub(super) due_at: Option<u64>,
    pub(super) expires_at: Option<u64>,
    pub(super) insert: Option<u32>,
    #[serde(borrow)]
    pub(super) holders: Vec<HolderLine<'a>>,
    #[serde(borrow)]
    pub(super) payload: Option<&'a RawValue>,
    pub(super) text: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HolderLine<'a> {
    #[serde(borrow)]
    pub(super) subscription: Cow<'a, str>,
    /// Present if the event is to be delivered to it again.
    pub(super) deliveries: Option<u32>,
    pub(super) due_at: Option<u64>,
    pub(super) grace_ms: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CursorLine<'a> {
    #[serde(borrow)]
    pub(super) source: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) value: Cow<'a, str>,
}

pub(super) fn push_header(out: &mut Vec<u8>, topic: Option<&TopicName>) {
    out.extend_from_slice(br#"{"herald":"export","version":"#);
    push_u64(out, super::VERSION);
    if let Some(topic) = topic {
        push_name(out, br#","topic":"#, topic.as_str());
    }
    out.extend_from_slice(b"}\n");
}

pub(super) fn push_topic(out: &mut Vec<u8>, topic: &TopicName, last_seq: u64) {
    push_name(out, br#"{"topic":{"name":"#, topic.as_str());
    out.extend_from_slice(br#","last_seq":"#);
    push_u64(out, last_seq);
    out.extend_from_slice(b"}}\n");
}

pub(super) fn push_subscription(out: &mut Vec<u8>, topic: &TopicName, name: &SubscriptionName, since: u64) {
    push_name(out, br#"{"subscription":{"topic":"#, topic.as_str());
    push_name(out, br#","name":"#, name.as_str());
    out.extend_from_slice(br#","since":"#);
    push_u64(out, since);
    out.extend_from_slice(b"}}\n");
}

/// The fields of an event's line beside its payload and its holders.
pub(super) struct EventHead<'a> {
    pub(super) topic: &'a TopicName,
    pub(super) priority: i32,
    pub(super) seq: u64,
    pub(super) published_at: Millis,
    pub(super) expires_at: Option<Millis>,
    pub(super) due_at: Option<Millis>,
}

/// The state of an event that waits to be delivered to a subscription again.
#[derive(Debug, Clone, Copy)]
pub(super) struct RedeliveryState {
    pub(super) deliveries: u32,
    pub(super) due_at: Option<Millis>,
    pub(super) grace_ms: u64,
}

/// Writes an event's line. Returns `None`, and writes nothing, if the payload is not UTF-8.
pub(super) fn push_event<'h>(
    out: &mut Vec<u8>,
    head: &EventHead<'_>,
    holders: impl Iterator<Item = (&'h SubscriptionName, Option<RedeliveryState>)>,
    payload: &Payload,
) -> Option<()> {
    let text = std::str::from_utf8(payload.bytes()).ok()?;
    push_name(out, br#"{"event":{"topic":"#, head.topic.as_str());
    out.extend_from_slice(br#","priority":"#);
    write_int(out, i64::from(head.priority));
    out.extend_from_slice(br#","seq":"#);
    push_u64(out, head.seq);
    out.extend_from_slice(br#","published_at":"#);
    push_u64(out, head.published_at.0);
    push_time(out, br#","due_at":"#, head.due_at);
    push_time(out, br#","expires_at":"#, head.expires_at);
    if payload.insert_at() as usize + 1 != payload.len() {
        out.extend_from_slice(br#","insert":"#);
        push_u64(out, u64::from(payload.insert_at()));
    }
    out.extend_from_slice(br#","holders":["#);
    for (n, (name, redelivery)) in holders.enumerate() {
        if n > 0 {
            out.push(b',');
        }
        push_name(out, br#"{"subscription":"#, name.as_str());
        if let Some(RedeliveryState { deliveries, due_at, grace_ms }) = redelivery {
            out.extend_from_slice(br#","deliveries":"#);
            push_u64(out, u64::from(deliveries));
            push_time(out, br#","due_at":"#, due_at);
            if grace_ms > 0 {
                out.extend_from_slice(br#","grace_ms":"#);
                push_u64(out, grace_ms);
            }
        }
        out.push(b'}');
    }
    let is_object_on_a_line =
        text.starts_with('{') && text.ends_with('}') && memchr::memchr3(b'\n', b'\r', 0, text.as_bytes()).is_none();
    if is_object_on_a_line && serde_json::from_str::<&RawValue>(text).is_ok() {
        out.extend_from_slice(br#"],"payload":"#);
        out.extend_from_slice(payload.bytes());
    } else {
        out.extend_from_slice(br#"],"text":"#);
        write_json_string(out, text);
    }
    out.extend_from_slice(b"}}\n");
    Some(())
}

pub(super) fn push_cursor(out: &mut Vec<u8>, source: &str, value: &str) {
    push_name(out, br#"{"cursor":{"source":"#, source);
    push_name(out, br#","value":"#, value);
    out.extend_from_slice(b"}}\n");
}

pub(super) fn push_end(out: &mut Vec<u8>, totals: &Totals) {
    out.extend_from_slice(br#"{"end":"#);
    out.extend_from_slice(serde_json::to_string(totals).unwrap_or_default().as_bytes());
    out.extend_from_slice(b"}\n");
}

fn push_name(out: &mut Vec<u8>, before: &[u8], name: &str) {
    out.extend_from_slice(before);
    write_json_string(out, name);
}

fn push_time(out: &mut Vec<u8>, before: &[u8], time: Option<Millis>) {
    if let Some(time) = time {
        out.extend_from_slice(before);
        push_u64(out, time.0);
    }
}

fn push_u64(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(number.to_string().as_bytes());
}
