//! Whose answer a line is: acknowledgements in quiet mode. Pure.
//!
//! A subscription's connection asks for `replies: "quiet"`, so a good `acknowledge` is answered with nothing and a bad one
//! with an error. To know when silence means success, each command is followed by `ping`. Replies come in the order of
//! the commands, so every line before the `pong` that is not a delivery answers this one command: a [`Window`]. Errors
//! name the event (`no_event_error: <id>`), ids are distinct within a window, and a whole-line error (`error: …`) can be
//! about nothing else. Two short lines for as many acknowledgements as fit one command are less than a verbose reply
//! for each, and exact, which errors without a fence would not be: two acknowledgements of one id, one of them
//! refused, could not be told apart.

use std::collections::{HashSet, VecDeque};

use bytes::BytesMut;
use tokio::sync::oneshot;

use crate::error::Error;
use crate::name::{EventId, TopicName};

/// The most bytes of a command line with many ids; the broker's own limit applies if it is lower.
const LINE_BYTES: usize = 32 * 1024;

/// The outcome of an acknowledgement, or of another way to settle a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Settled {
    /// The broker has settled the delivery.
    Done,
    /// No event with this id is in flight here (for an acknowledgement: or waiting). It has been settled before, or was requeued
    /// and is in flight to another consumer.
    NotInFlight,
    /// The connection that the event came over is gone. A durable subscription gets it again, unless the answer alone
    /// was lost; that of a subscription without a name is gone with the connection.
    ConnectionLost,
}

/// How to settle a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Op {
    Ack,
    /// With the delay in milliseconds.
    Nack(Option<u64>),
    Touch,
    /// With a reason that has no line break.
    Term(Option<String>),
}

/// One delivery to settle.
#[derive(Debug)]
pub(crate) struct Settle {
    pub(crate) op: Op,
    pub(crate) id: EventId,
    pub(crate) connection: u64,
    /// The receiver of the outcome, if one waits for it.
    pub(crate) answer: Option<oneshot::Sender<Result<Settled, Error>>>,
}

impl Settle {
    pub(crate) fn answer(self, result: Result<Settled, Error>) {
        match self.answer {
            // An error here is a caller who has stopped waiting.
            Some(answer) => drop(answer.send(result)),
            None => match result {
                Ok(Settled::Done) => {}
                Ok(settled) => {
                    tracing::debug!(id = %self.id, ?settled, "an acknowledgement without effect");
                }
                Err(error) => {
                    tracing::warn!(id = %self.id, %error, "an acknowledgement was refused");
                }
            },
        }
    }
}

/// Why the subscription's connection is given up on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leave {
    /// `unsubscribe`: and with it everything that waits.
    Unsubscribe,
    /// `detach`: a durable subscription goes on without us.
    Detach,
    /// `quit` alone.
    Close,
}

/// A command on its way, until its `pong`.
#[derive(Debug, Default)]
pub(crate) struct Window {
    settles: Vec<Settle>,
    ids: HashSet<EventId>,
    missing: HashSet<EventId>,
    refused: Option<String>,
    flush: Option<oneshot::Sender<Result<(), Error>>>,
    pub(crate) leaves: bool,
}

impl Window {
    /// The next command: takes as many acknowledgements from the front of `waiting` as go into one line, or one of
    /// anything else, and writes it with its fence. `waiting` is not empty.
    pub(crate) fn open(waiting: &mut VecDeque<Settle>, topic: &TopicName, limit: usize, out: &mut BytesMut) -> Self {
        let mut window = Self::default();
        let Some(first) = waiting.pop_front() else {
            return Self::fence(out);
        };
        let start = out.len();
        let put = |out: &mut BytesMut, text: &str| out.extend_from_slice(text.as_bytes());
        let word = match first.op {
            Op::Ack => "acknowledge ",
            Op::Nack(_) => "nack ",
            Op::Touch => "touch ",
            Op::Term(_) => "term ",
        };
        put(out, word);
        put(out, topic.as_str());
        put(out, " ");
        put(out, first.id.as_str());
        match &first.op {
            Op::Nack(Some(delay)) => put(out, &format!(" {delay}")),
            Op::Term(Some(reason)) => {
                put(out, " ");
                put(out, reason);
            }
            Op::Ack | Op::Nack(None) | Op::Touch | Op::Term(None) => {}
        }
        let many = first.op == Op::Ack;
        window.add(first);
        let limit = limit.min(LINE_BYTES);
        while many
            && let Some(next) = waiting.front()
            && next.op == Op::Ack
            && out.len() - start + 1 + next.id.as_str().len() <= limit
            && !window.ids.contains(&next.id)
            && let Some(next) = waiting.pop_front()
        {
            put(out, " ");
            put(out, next.id.as_str());
            window.add(next);
        }
        put(out, "\nping\n");
        window
    }

    /// A fence alone.
    pub(crate) fn fence(out: &mut BytesMut) -> Self {
        out.extend_from_slice(b"ping\n");
        Self::default()
    }

    /// A fence that reports to `answer` once everything before it is answered.
    pub(crate) fn flush(answer: oneshot::Sender<Result<(), Error>>, out: &mut BytesMut) -> Self {
        Self { flush: Some(answer), ..Self::fence(out) }
    }

    /// The command that gives the subscription up, if it takes one, with its fence.
    pub(crate) fn leave(command: Option<&str>, out: &mut BytesMut) -> Self {
        if let Some(command) = command {
            out.extend_from_slice(command.as_bytes());
            out.extend_from_slice(b"\n");
        }
        Self { leaves: true, ..Self::fence(out) }
    }

    fn add(&mut self, settle: Settle) {
        self.ids.insert(settle.id.clone());
        self.settles.push(settle);
    }

    /// `no_event_error: <id>`. False if the window has no such id.
    pub(crate) fn on_no_event(&mut self, id: &str) -> bool {
        match self.settles.iter().find(|settle| settle.id.as_str() == id) {
            Some(settle) => {
                self.missing.insert(settle.id.clone());
                true
            }
            None => false,
        }
    }

    /// `error: <reason>`.
    pub(crate) fn on_error(&mut self, reason: &str) {
        self.refused.get_or_insert_with(|| reason.to_owned());
    }

    /// `pong`: everybody hears. Returns what a window that leaves has to say.
    pub(crate) fn on_pong(self) -> Result<(), Error> {
        let refused = self.refused.map(|reason| Error::Refused { reason });
        for settle in self.settles {
            let result = match &refused {
                _ if self.missing.contains(&settle.id) => Ok(Settled::NotInFlight),
                Some(error) => Err(error.clone()),
                None => Ok(Settled::Done),
            };
            settle.answer(result);
        }
        if let Some(flush) = self.flush {
            let _ = flush.send(Ok(()));
        }
        refused.map_or(Ok(()), Err)
    }

    /// No `pong` will come. Returns what was asked for; a flush is over, since everything before it is over, too.
    pub(crate) fn on_lost(self) -> Vec<Settle> {
        if let Some(flush) = self.flush {
            let _ = flush.send(Ok(()));
        }
        self.settles
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Answer = oneshot::Receiver<Result<Settled, Error>>;

    fn settle(op: Op, id: &str) -> (Settle, Answer) {
        let (answer, receiver) = oneshot::channel();
        (Settle { op, id: EventId::new(id).unwrap(), connection: 1, answer: Some(answer) }, receiver)
    }

    fn queue(all: &[(Op, &str)]) -> (VecDeque<Settle>, Vec<Answer>) {
        all.iter().map(|(op, id)| settle(op.clone(), id)).unzip()
    }

    fn open(waiting: &mut VecDeque<Settle>, limit: usize) -> (Window, String) {
        let mut out = BytesMut::new();
        let window = Window::open(waiting, &TopicName::new("t").unwrap(), limit, &mut out);
        (window, String::from_utf8(out.to_vec()).unwrap())
    }

    #[test]
    fn acknowledgements_share_a_line_and_everything_else_has_its_own() {
        let (mut waiting, _answers) = queue(&[
            (Op::Ack, "1"),
            (Op::Ack, "2"),
            (Op::Nack(Some(50)), "3"),
            (Op::Nack(None), "4"),
            (Op::Touch, "5"),
            (Op::Term(Some("bad day".to_owned())), "6"),
            (Op::Ack, "7"),
        ]);
        let mut lines = String::new();
        while !waiting.is_empty() {
            lines += &open(&mut waiting, 1000).1;
        }
        let expected =
            ["acknowledge t 1 2", "nack t 3 50", "nack t 4", "touch t 5", "term t 6 bad day", "acknowledge t 7"];
        assert_eq!(lines, expected.map(|line| format!("{line}\nping\n")).concat());
    }

    #[test]
    fn an_id_given_twice_and_a_full_line_begin_a_new_window() {
        let (mut waiting, _answers) = queue(&[(Op::Ack, "1"), (Op::Ack, "2"), (Op::Ack, "1")]);
        assert_eq!(open(&mut waiting, 1000).1, "acknowledge t 1 2\nping\n");
        assert_eq!(open(&mut waiting, 1000).1, "acknowledge t 1\nping\n");
        let (mut waiting, _answers) = queue(&[(Op::Ack, "1"), (Op::Ack, "2"), (Op::Ack, "3")]);
        assert_eq!(open(&mut waiting, "acknowledge t 1 2".len()).1, "acknowledge t 1 2\nping\n");
        assert_eq!(waiting.len(), 1);
    }

    #[test]
    fn an_error_reaches_the_one_it_names_and_nobody_else() {
        let (mut waiting, mut answers) = queue(&[(Op::Ack, "1"), (Op::Ack, "2")]);
        let (mut window, _) = open(&mut waiting, 1000);
        assert!(window.on_no_event("2"));
        assert!(!window.on_no_event("9"));
        assert!(window.on_pong().is_ok());
        assert_eq!(answers[0].try_recv().unwrap().unwrap(), Settled::Done);
        assert_eq!(answers[1].try_recv().unwrap().unwrap(), Settled::NotInFlight);
    }

    #[test]
    fn a_refused_line_is_refused_for_all_of_its_ids() {
        let (mut waiting, mut answers) = queue(&[(Op::Ack, "1"), (Op::Ack, "2")]);
        let (mut window, _) = open(&mut waiting, 1000);
        window.on_error("not a topic t subscriber");
        assert!(window.on_pong().is_err());
        for answer in &mut answers {
            let answer = answer.try_recv().unwrap();
            assert!(
                matches!(&answer, Err(Error::Refused { reason }) if reason.starts_with("not a topic")),
                "{answer:?}"
            );
        }
    }
}
