//! NATS JetStream: publishes with an inbox each in a pipeline, one durable consumer for each subscription, acknowledgements of all
//! up to the last (`AckAll`). The stream keeps what is acknowledged (`limits`), which is its cheapest mode.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bench::Error;
use bench::connection::Opening;
use bench::event::Events;
use bench::process::Process;
use bench::target::{Confirmation, Consumer, Delivered, Opened, Order, Publisher, Target};
use memchr::memchr;

use crate::local::{START, launch, version};

/// A nats-server.
pub(crate) struct JetStream {
    program: PathBuf,
    version: String,
    /// `sync_interval: always`, instead of the default of two minutes.
    sync_always: bool,
    dir: PathBuf,
    addr: Option<SocketAddr>,
    process: Option<Process>,
}

impl JetStream {
    pub(crate) fn new(program: PathBuf, sync_always: bool) -> Self {
        let version = version(&program, &["--version"]);
        Self { program, version, sync_always, dir: PathBuf::new(), addr: None, process: None }
    }

    fn serve(&mut self) -> Result<(), Error> {
        let (process, addr) = launch("nats-server", |addr| {
            let sync = if self.sync_always { "sync_interval: always" } else { "" };
            let config =
                format!("listen: \"{addr}\"\njetstream {{\nstore_dir: \"js\"\nmax_file_store: 64GB\n{sync}\n}}\n");
            std::fs::write(self.dir.join("nats.conf"), config).map_err(Error::io("cannot write nats.conf"))?;
            let mut command = Command::new(&self.program);
            command.current_dir(&self.dir).args(["-c", "nats.conf"]);
            Ok(command)
        })?;
        (self.process, self.addr) = (Some(process), Some(addr));
        // It listens before JetStream is ready.
        let began = Instant::now();
        loop {
            let answer = self.open().and_then(|mut connection| request(&mut connection, "$JS.API.INFO", ""));
            match answer {
                Ok(answer) if !answer.contains("\"error\"") => return Ok(()),
                Err(error) if began.elapsed() > START => return Err(error),
                _ => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    fn open(&self) -> Result<Opening, Error> {
        let addr = self.addr.ok_or_else(|| Error::Options("nats-server is not running".into()))?;
        let mut connection = Opening::connect(addr)?;
        connection.line()?;
        connection.send(
            b"CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true}\r\nPING\r\n",
        )?;
        match connection.line()?.as_str() {
            "PONG" => Ok(connection),
            line => Err(Error::Protocol(line.to_owned())),
        }
    }
}

/// Asks the server something, and waits for its answer.
fn request(connection: &mut Opening, subject: &str, body: &str) -> Result<String, Error> {
    let sent = format!("SUB _INBOX.r 9\r\nUNSUB 9 1\r\nPUB {subject} _INBOX.r {}\r\n{body}\r\n", body.len());
    connection.send(sent.as_bytes())?;
    loop {
        let answer = connection.receive(|input| {
            let Some(end) = memchr(b'\n', input) else { return Ok(None) };
            // Between the answers the server asks how long the way is.
            let Some(message) = Message::parse(&input[..end])? else { return Ok(Some((None, end + 1))) };
            let body = input.get(end + 1..end + 1 + message.len).filter(|_| input.len() >= end + 3 + message.len);
            Ok(body.map(|body| (Some(String::from_utf8_lossy(body).into_owned()), end + 3 + message.len)))
        })?;
        match answer {
            Some(answer) => return Ok(answer),
            None => connection.send(b"PONG\r\n")?,
        }
    }
}

fn accepted(answer: String) -> Result<(), Error> {
    if answer.contains("\"error\"") { Err(Error::Protocol(answer)) } else { Ok(()) }
}

impl Target for JetStream {
    fn name(&self) -> &'static str {
        "NATS JetStream"
    }

    fn version(&self) -> String {
        self.version.clone()
    }

    fn level(&self) -> String {
        if self.sync_always { "synced".into() } else { "written".into() }
    }

    fn notes(&self) -> String {
        if self.sync_always { "sync_interval always".into() } else { "synced every 2 min".into() }
    }

    fn order(&self) -> Order {
        Order::Fifo
    }

    fn start(&mut self, dir: &Path) -> Result<(), Error> {
        dir.clone_into(&mut self.dir);
        self.serve()
    }

    fn restart(&mut self) -> Result<Option<Duration>, Error> {
        self.process = None;
        let began = Instant::now();
        self.serve()?;
        Ok(Some(began.elapsed()))
    }

    fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    fn prepare(&mut self, subscriptions: usize, prefetch: usize) -> Result<(), Error> {
        let mut connection = self.open()?;
        let stream = "{\"name\":\"B\",\"subjects\":[\"b\"],\"retention\":\"limits\",\"storage\":\"file\",\"discard\":\"old\",\"num_replicas\":1}";
        accepted(request(&mut connection, "$JS.API.STREAM.CREATE.B", stream)?)?;
        for subscription in 0..subscriptions {
            let consumer = format!(
                "{{\"stream_name\":\"B\",\"config\":{{\"durable_name\":\"c{subscription}\",\"deliver_subject\":\"d.{subscription}\",\
                 \"deliver_policy\":\"all\",\"ack_policy\":\"all\",\"max_ack_pending\":{prefetch},\"ack_wait\":3600000000000}}}}"
            );
            let subject = format!("$JS.API.CONSUMER.DURABLE.CREATE.B.c{subscription}");
            accepted(request(&mut connection, &subject, &consumer)?)?;
        }
        Ok(())
    }

    fn publisher(&mut self) -> Result<Opened<dyn Publisher>, Error> {
        let mut connection = self.open()?;
        connection.send(b"SUB _INBOX.p.* 1\r\n")?;
        let (stream, input) = connection.done();
        Ok(Opened { stream, input, end: Box::new(NatsPublisher { sent: 0 }) })
    }

    fn consumer(&mut self, subscription: usize, _prefetch: usize) -> Result<Opened<dyn Consumer>, Error> {
        let (stream, input) = self.open()?.done();
        let end = NatsConsumer { subscription, finished: false };
        Ok(Opened { stream, input, end: Box::new(end) })
    }

    fn stop(&mut self) {
        self.process = None;
    }
}

/// The head of a message: `MSG <subject> <sid> [<reply>] <bytes>`, or `HMSG` with the bytes of its headers before all bytes.
struct Message<'a> {
    subject: &'a [u8],
    reply: Option<&'a [u8]>,
    len: usize,
}

impl<'a> Message<'a> {
    /// Parses the line before a message; `None` for a line of another kind.
    fn parse(line: &'a [u8]) -> Result<Option<Self>, Error> {
        let line = line.trim_ascii_end();
        if !line.starts_with(b"MSG ") {
            // `HMSG`, a message with headers, never occurs in a run.
            let harmless = line == b"PONG" || line == b"PING" || line == b"+OK" || line.starts_with(b"INFO ");
            return if harmless { Ok(None) } else { Err(Error::unexpected(line)) };
        }
        let mut words = line.split(|byte| *byte == b' ').skip(1);
        let (subject, _sid, third, fourth) = (words.next(), words.next(), words.next(), words.next());
        let (reply, len) = if fourth.is_some() { (third, fourth) } else { (None, third) };
        let len = len.and_then(|len| std::str::from_utf8(len).ok()?.parse().ok());
        match (subject, len) {
            (Some(subject), Some(len)) => Ok(Some(Self { subject, reply, len })),
            _ => Err(Error::unexpected(line)),
        }
    }
}

struct NatsPublisher {
    sent: u64,
}

impl Publisher for NatsPublisher {
    fn publish(&mut self, events: &Events, index: u64, out: &mut Vec<u8>) {
        let _ = write!(out, "PUB b _INBOX.p.{} {}\r\n", self.sent, events.size());
        self.sent += 1;
        events.write(index, out);
        out.extend_from_slice(b"\r\n");
    }

    fn receive(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        confirmed: &mut dyn FnMut(Confirmation),
    ) -> Result<usize, Error> {
        each(input, out, |message, body, _| {
            let nth =
                message.subject.strip_prefix(b"_INBOX.p.").and_then(|n| std::str::from_utf8(n).ok()?.parse().ok());
            // `{"stream":"B", "seq":1}`, or an error.
            match nth {
                Some(nth) if body.starts_with(b"{\"stream\":") => confirmed(Confirmation::Nth(nth)),
                _ => return Err(Error::unexpected(body)),
            }
            Ok(())
        })
        .map(|(used, _)| used)
    }
}

struct NatsConsumer {
    subscription: usize,
    finished: bool,
}

impl Consumer for NatsConsumer {
    fn start(&mut self, out: &mut Vec<u8>) {
        let _ = write!(out, "SUB d.{} 1\r\n", self.subscription);
    }

    fn receive(
        &mut self,
        events: &Events,
        input: &[u8],
        out: &mut Vec<u8>,
        delivered: &mut dyn FnMut(Delivered),
    ) -> Result<usize, Error> {
        let mut last: Option<&[u8]> = None;
        let (used, pong) = each(input, out, |message, body, _| {
            delivered(Delivered { event: events.find(body), again: false });
            last = message.reply;
            Ok(())
        })?;
        if let Some(reply) = last {
            out.extend_from_slice(b"PUB ");
            out.extend_from_slice(reply);
            out.extend_from_slice(b" 4\r\n+ACK\r\n");
        }
        self.finished |= pong;
        Ok(used)
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"PING\r\n");
    }

    fn is_finished(&self) -> bool {
        self.finished
    }
}

/// Calls `take` for each message that is all there; how many bytes they were, and whether there was a PONG.
fn each<'a>(
    input: &'a [u8],
    out: &mut Vec<u8>,
    mut take: impl FnMut(&Message<'a>, &'a [u8], &mut Vec<u8>) -> Result<(), Error>,
) -> Result<(usize, bool), Error> {
    let (mut used, mut pong) = (0, false);
    while let Some(end) = memchr(b'\n', &input[used..]) {
        let line = &input[used..used + end];
        let body = used + end + 1;
        match Message::parse(line)? {
            None => {
                pong |= line.starts_with(b"PONG");
                if line.starts_with(b"PING") {
                    out.extend_from_slice(b"PONG\r\n");
                }
                used = body;
            }
            Some(message) => {
                if input.len() < body + message.len + 2 {
                    break;
                }
                take(&message, &input[body..body + message.len], out)?;
                used = body + message.len + 2;
            }
        }
    }
    Ok((used, pong))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_acknowledged_up_to_the_last() {
        let events = Events::new(64, &(0..=6), 1).unwrap();
        let mut input = b"PING\r\n".to_vec();
        for index in [0, 1] {
            input.extend_from_slice(format!("MSG b 1 $JS.ACK.{index} 64\r\n").as_bytes());
            events.write(index, &mut input);
            input.extend_from_slice(b"\r\n");
        }
        let whole = input.len();
        input.extend_from_slice(b"MSG b 1 $JS.ACK.2 64\r\n{");
        let mut consumer = NatsConsumer { subscription: 0, finished: false };
        let (mut out, mut got) = (Vec::new(), Vec::new());
        let used = consumer.receive(&events, &input, &mut out, &mut |one| got.push(one.event.unwrap().index)).unwrap();
        assert_eq!((used, got.as_slice()), (whole, &[0, 1][..]));
        assert_eq!(String::from_utf8(out).unwrap(), "PONG\r\nPUB $JS.ACK.1 4\r\n+ACK\r\n");
    }

    #[test]
    fn a_confirmation_names_its_publish_and_an_error_is_none() {
        let mut publisher = NatsPublisher { sent: 0 };
        let mut got = Vec::new();
        let input = b"MSG _INBOX.p.12 1 23\r\n{\"stream\":\"B\", \"seq\":1}\r\n";
        publisher.receive(input, &mut Vec::new(), &mut |one| got.push(one)).unwrap();
        assert_eq!(got, [Confirmation::Nth(12)]);
        let refused = b"MSG _INBOX.p.13 1 12\r\n{\"error\":{}}\r\n";
        assert!(publisher.receive(refused, &mut Vec::new(), &mut |_| {}).is_err());
    }
}
