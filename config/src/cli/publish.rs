//! `herald pub`: publishes one event, or one for each line of standard input.

use std::collections::HashSet;

use futures_util::FutureExt as _;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, BufReader};
use tokio::sync::mpsc;
use transport_client::{Client, Confirmation, Error, Event, Level, Outcome, PendingConfirmation, TopicName};

use super::exit::{DONE, FAILED, Status};
use super::remote::{Remote, explain};
use crate::error_chain;
use crate::output::{Output, OutputError, message};

/// Publish events to a topic, and print a confirmation for each
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  herald pub tweets '{\"priority\":3,\"msg\":\"hello\"}'\n  \
                        herald pub tweets '{\"id\":\"042\",\"msg\":{\"any\":\"JSON\"},\"ttl_ms\":60000}'\n  \
                        jq -c '{msg: .}' things.json | herald pub things -\n\n\
                        Exit status: 0 if all were confirmed, 1 if one was refused.")]
pub(super) struct Args {
    /// The topic
    topic: String,
    /// The event, a JSON object with id, priority, msg, ttl_ms, delay_ms, all optional; `-` reads one a line
    #[arg(allow_hyphen_values = true)]
    event: String,
    /// Print confirmations as JSON lines
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
}

/// The most lines that wait for a confirmation; as many as the client itself allows.
const PIPELINE: usize = 1024;

/// The longest line that is read, in bytes; no broker takes one that long.
const MAX_LINE: usize = 256 << 20;

pub(super) async fn run(args: Args) -> anyhow::Result<Status> {
    let topic = TopicName::new(&args.topic).map_err(explain)?;
    let client = Client::connect(args.remote.config("herald pub")?).await.map_err(explain)?;
    let mut printer =
        Printer { topic: topic.clone(), json: args.json, output: Output::stdout(), confirmed: 0, refused: 0 };
    if args.event == "-" {
        let (sender, mut sent) = mpsc::channel(PIPELINE);
        let reading = tokio::spawn(read(BufReader::new(tokio::io::stdin()), client.clone(), topic, sender));
        while let Some((line, answer)) = next(&mut sent, &mut printer).await? {
            let answer = answer.confirmed(&mut printer.output).await?;
            printer.print(Some(line), answer)?;
        }
        reading.await??;
        printer.output.flush()?;
        message(&format!("herald: {} confirmed, {} refused", printer.confirmed, printer.refused));
    } else {
        let published = match parse(&args.event, &mut HashSet::new()) {
            Ok(event) => client.publish(&topic, event).await,
            Err(error) => Err(error),
        };
        printer.print(None, published)?;
    }
    printer.output.flush()?;
    let _what_is_confirmed_is_safe = client.close().await;
    Ok(if printer.refused > 0 { FAILED } else { DONE })
}

/// A line that was sent, or could not be.
enum Sent {
    Pending(PendingConfirmation),
    Failed(Error),
}

impl Sent {
    /// Waits for the confirmation. If that takes time, what is printed so far is flushed first.
    async fn confirmed(self, output: &mut Output) -> Result<Result<Confirmation, Error>, OutputError> {
        match self {
            Self::Failed(error) => Ok(Err(error)),
            Self::Pending(mut pending) => match (&mut pending).now_or_never() {
                Some(answer) => Ok(answer),
                None => {
                    output.flush()?;
                    Ok(pending.await)
                }
            },
        }
    }
}

/// The next line that was read; flushes before it waits for more input.
async fn next(
    sent: &mut mpsc::Receiver<(u64, Sent)>,
    printer: &mut Printer,
) -> Result<Option<(u64, Sent)>, OutputError> {
    match sent.try_recv() {
        Ok(one) => Ok(Some(one)),
        Err(_) => {
            printer.output.flush()?;
            Ok(sent.recv().await)
        }
    }
}

/// The most unknown keys that are reported; events whose keys are data have no end of them.
const MAX_NOTED: usize = 16;

/// Parses an event, and reports each key that is not an event's, once.
fn parse(text: &str, noted: &mut HashSet<String>) -> Result<Event, Error> {
    let (event, others) = Event::parse_noting(text)?;
    for key in others {
        if noted.len() < MAX_NOTED && noted.insert(key.clone()) {
            message(&format!(
                "herald: warning: {key:?} is no key of an event, and is left out: the keys are id, priority, msg, ttl_ms, delay_ms"
            ));
        }
    }
    Ok(event)
}

/// Publishes line by line; empty lines are skipped.
async fn read(
    mut input: impl AsyncBufRead + Unpin,
    client: Client,
    topic: TopicName,
    sender: mpsc::Sender<(u64, Sent)>,
) -> anyhow::Result<()> {
    let mut bytes = Vec::new();
    let mut noted = HashSet::new();
    for number in 1_u64.. {
        bytes.clear();
        if !read_line(&mut input, &mut bytes).await? {
            break;
        }
        let text = match std::str::from_utf8(&bytes) {
            Ok(text) if text.trim().is_empty() => continue,
            Ok(text) if text.len() < MAX_LINE => parse(text, &mut noted),
            Ok(_) => Err(Error::TooLarge { bytes: bytes.len(), limit: MAX_LINE }),
            Err(_) => Err(Error::Invalid("the line is not UTF-8".to_owned())),
        };
        let sent = match text {
            Ok(event) => client.send(&topic, event).await,
            Err(error) => Err(error),
        };
        let sent = match sent {
            Ok(pending) => Sent::Pending(pending),
            Err(error) => Sent::Failed(error),
        };
        if sender.send((number, sent)).await.is_err() {
            // The printer has ended.
            break;
        }
    }
    Ok(())
}

/// Reads one line. One longer than [`MAX_LINE`] is cut there and its rest skipped. Returns false at the end of the input.
async fn read_line(input: &mut (impl AsyncBufRead + Unpin), line: &mut Vec<u8>) -> std::io::Result<bool> {
    let mut any = false;
    loop {
        let chunk = input.fill_buf().await?;
        if chunk.is_empty() {
            return Ok(any);
        }
        any = true;
        let end = chunk.iter().position(|byte| *byte == b'\n');
        let part = &chunk[..end.unwrap_or(chunk.len())];
        let room = MAX_LINE - line.len();
        line.extend_from_slice(&part[..part.len().min(room)]);
        let used = end.map_or(chunk.len(), |end| end + 1);
        input.consume(used);
        if end.is_some() {
            return Ok(true);
        }
    }
}

struct Printer {
    topic: TopicName,
    json: bool,
    output: Output,
    confirmed: u64,
    refused: u64,
}

impl Printer {
    /// Prints a confirmation, or the error on standard error.
    ///
    /// # Errors
    /// When the output fails, or nothing further can be published.
    fn print(&mut self, line: Option<u64>, answer: Result<Confirmation, Error>) -> anyhow::Result<()> {
        match answer {
            Ok(confirmation) => {
                self.confirmed += 1;
                Ok(self.output.line(&confirmed(&self.topic, &confirmation, self.json))?)
            }
            Err(error @ (Error::Refused { .. } | Error::Invalid(_) | Error::TooLarge { .. })) => {
                self.refused += 1;
                // Flushed first, so that both streams keep the order of events where they share a terminal.
                self.output.flush()?;
                let place = line.map(|line| format!("line {line}: ")).unwrap_or_default();
                message(&format!("herald: {place}{}", error_chain(&error)));
                Ok(())
            }
            Err(error) => {
                self.output.flush()?;
                Err(explain(error))
            }
        }
    }
}

/// The confirmation as a line of the protocol, or as JSON.
fn confirmed(topic: &TopicName, confirmation: &Confirmation, json: bool) -> String {
    let outcome = match confirmation.outcome {
        Outcome::Published => "published",
        Outcome::Replaced => "replaced",
        Outcome::Dropped => "dropped",
        Outcome::AlreadyThere => "already-there",
        _ => "accepted",
    };
    let level = confirmation.level.map(|level| match level {
        Level::Memory => "memory",
        Level::Written => "written",
        Level::Synced => "synced",
        _ => "unknown",
    });
    let id = confirmation.id.as_str();
    if json {
        serde_json::json!({ "outcome": outcome, "topic": topic.as_str(), "id": id, "level": level }).to_string()
    } else {
        let level = level.map(|level| format!(" {level}")).unwrap_or_default();
        format!("{outcome} {topic} {id}{level}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_read_with_either_ending_and_without_a_last_one() {
        let mut input = BufReader::with_capacity(3, &b"one\r\n\ntwo\nthree"[..]);
        let mut lines = Vec::new();
        let mut line = Vec::new();
        while read_line(&mut input, &mut line).await.unwrap() {
            lines.push(String::from_utf8(std::mem::take(&mut line)).unwrap());
        }
        assert_eq!(lines, ["one\r", "", "two", "three"]);
    }
}
