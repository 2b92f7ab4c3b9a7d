//! Redis Streams: XADD in a pipeline, a consumer group for each subscription, XREADGROUP and XACK of many in one go.
//!
//! Rewriting the append-only file is off, since it would begin in the middle of a run; entries are not deleted when they are
//! acknowledged. Both are in Redis's favour.

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

/// A Redis server.
pub(crate) struct Redis {
    program: PathBuf,
    version: String,
    /// `appendfsync`.
    fsync: &'static str,
    dir: PathBuf,
    addr: Option<SocketAddr>,
    process: Option<Process>,
}

impl Redis {
    pub(crate) fn new(program: PathBuf, fsync: &'static str) -> Self {
        let version = version(&program, &["--version"]);
        Self { program, version, fsync, dir: PathBuf::new(), addr: None, process: None }
    }

    fn serve(&mut self) -> Result<(), Error> {
        let (process, addr) = launch("redis-server", |addr| {
            let mut command = Command::new(&self.program);
            command.current_dir(&self.dir).args(["--bind", "127.0.0.1", "--port", &addr.port().to_string()]);
            command.args(["--save", "", "--appendonly", "yes", "--appendfsync", self.fsync]);
            command.args(["--auto-aof-rewrite-percentage", "0", "--daemonize", "no"]);
            Ok(command)
        })?;
        (self.process, self.addr) = (Some(process), Some(addr));
        // While it reads its file it answers LOADING.
        let began = Instant::now();
        let mut connection = self.open()?;
        while connection.ask("PING")? != "+PONG" {
            if began.elapsed() > START {
                return Err(Error::Start { server: "redis-server".into(), reason: "it keeps loading".into() });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn open(&self) -> Result<Opening, Error> {
        Opening::connect(self.addr.ok_or_else(|| Error::Options("redis-server is not running".into()))?)
    }
}

impl Target for Redis {
    fn name(&self) -> &'static str {
        "Redis Streams"
    }

    fn version(&self) -> String {
        self.version.clone()
    }

    fn level(&self) -> String {
        if self.fsync == "always" { "synced".into() } else { "written".into() }
    }

    fn notes(&self) -> String {
        format!("appendfsync {}", self.fsync)
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

    fn prepare(&mut self, subscriptions: usize, _prefetch: usize) -> Result<(), Error> {
        let mut connection = self.open()?;
        for subscription in 0..subscriptions {
            let answer = connection.ask(&format!("XGROUP CREATE b g{subscription} $ MKSTREAM"))?;
            if answer != "+OK" {
                return Err(Error::Protocol(answer));
            }
        }
        Ok(())
    }

    fn publisher(&mut self) -> Result<Opened<dyn Publisher>, Error> {
        let (stream, input) = self.open()?.done();
        Ok(Opened { stream, input, end: Box::new(RedisPublisher) })
    }

    fn consumer(&mut self, subscription: usize, prefetch: usize) -> Result<Opened<dyn Consumer>, Error> {
        let group = format!("g{subscription}");
        let (stream, input) = self.open()?.done();
        let prefetch = prefetch.to_string();
        let words = ["XREADGROUP", "GROUP", &group, "c", "COUNT", &prefetch, "BLOCK", "0", "STREAMS", "b", ">"];
        let mut read = Vec::new();
        array(words.len(), &mut read);
        words.iter().for_each(|word| bulk(word.as_bytes(), &mut read));
        let end = RedisConsumer { read, group, ids: Vec::new(), acks: 0 };
        Ok(Opened { stream, input, end: Box::new(end) })
    }

    fn stop(&mut self) {
        self.process = None;
    }
}

struct RedisPublisher;

impl Publisher for RedisPublisher {
    fn publish(&mut self, events: &Events, index: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(b"*5\r\n$4\r\nXADD\r\n$1\r\nb\r\n$1\r\n*\r\n$1\r\ne\r\n");
        // Writing to memory does not fail.
        let _ = write!(out, "${}\r\n", events.size());
        events.write(index, out);
        out.extend_from_slice(b"\r\n");
    }

    fn receive(
        &mut self,
        input: &[u8],
        _out: &mut Vec<u8>,
        confirmed: &mut dyn FnMut(Confirmation),
    ) -> Result<usize, Error> {
        let mut reader = Reader { input, at: 0 };
        let mut used = 0;
        while let Some(_id) = reader.bulk()? {
            confirmed(Confirmation::Next);
            used = reader.at;
        }
        Ok(used)
    }
}

struct RedisConsumer {
    /// The command that reads.
    read: Vec<u8>,
    group: String,
    /// The ids that wait to be acknowledged.
    ids: Vec<Vec<u8>>,
    /// Acknowledgements without an answer.
    acks: usize,
}

impl Consumer for RedisConsumer {
    fn start(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.read);
    }

    fn receive(
        &mut self,
        events: &Events,
        input: &[u8],
        out: &mut Vec<u8>,
        delivered: &mut dyn FnMut(Delivered),
    ) -> Result<usize, Error> {
        let mut reader = Reader { input, at: 0 };
        let mut used = 0;
        loop {
            match input.get(used) {
                Some(b':') => {
                    if reader.line()?.is_none() {
                        break;
                    }
                    self.acks -= 1;
                }
                Some(b'*') => {
                    // Everything of a reply is there before anything of it counts.
                    let Some(entries) = reader.entries()? else { break };
                    for (id, event) in entries {
                        self.ids.push(id.to_vec());
                        delivered(Delivered { event: events.find(event), again: false });
                    }
                    array(3 + self.ids.len(), out);
                    bulk(b"XACK", out);
                    bulk(b"b", out);
                    bulk(self.group.as_bytes(), out);
                    self.ids.drain(..).for_each(|id| bulk(&id, out));
                    self.acks += 1;
                    out.extend_from_slice(&self.read);
                }
                Some(_) => return Err(Error::unexpected(&input[used..])),
                None => break,
            }
            used = reader.at;
        }
        Ok(used)
    }

    fn finish(&mut self, _out: &mut Vec<u8>) {}

    fn is_finished(&self) -> bool {
        self.acks == 0
    }
}

fn array(len: usize, out: &mut Vec<u8>) {
    let _ = write!(out, "*{len}\r\n");
}

fn bulk(text: &[u8], out: &mut Vec<u8>) {
    let _ = write!(out, "${}\r\n", text.len());
    out.extend_from_slice(text);
    out.extend_from_slice(b"\r\n");
}

/// Reads RESP; `None`: it is not all there yet.
struct Reader<'a> {
    input: &'a [u8],
    at: usize,
}

type Entry<'a> = (&'a [u8], &'a [u8]);

impl<'a> Reader<'a> {
    fn line(&mut self) -> Result<Option<&'a [u8]>, Error> {
        let rest = &self.input[self.at..];
        let Some(end) = memchr(b'\n', rest) else { return Ok(None) };
        self.at += end + 1;
        let line = &rest[..end];
        if line.starts_with(b"-") { Err(Error::unexpected(line)) } else { Ok(Some(line.trim_ascii_end())) }
    }

    fn number(&mut self, kind: u8) -> Result<Option<usize>, Error> {
        let Some(line) = self.line()? else { return Ok(None) };
        let number = line.strip_prefix(&[kind]).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
        number.map(Some).ok_or_else(|| Error::unexpected(line))
    }

    fn bulk(&mut self) -> Result<Option<&'a [u8]>, Error> {
        let Some(len) = self.number(b'$')? else { return Ok(None) };
        let text = self.input.get(self.at..self.at + len);
        if self.input.len() < self.at + len + 2 {
            return Ok(None);
        }
        self.at += len + 2;
        Ok(text)
    }

    /// The answer to XREADGROUP of one stream: id and value of each entry.
    fn entries(&mut self) -> Result<Option<Vec<Entry<'a>>>, Error> {
        // One stream, of its name and its entries.
        for _ in 0..2 {
            if self.number(b'*')?.is_none() {
                return Ok(None);
            }
        }
        if self.bulk()?.is_none() {
            return Ok(None);
        }
        let Some(count) = self.number(b'*')? else { return Ok(None) };
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            // An entry is its id and its fields: one name and one value.
            if self.number(b'*')?.is_none() {
                return Ok(None);
            }
            let Some(id) = self.bulk()? else { return Ok(None) };
            if self.number(b'*')?.is_none() || self.bulk()?.is_none() {
                return Ok(None);
            }
            let Some(value) = self.bulk()? else { return Ok(None) };
            entries.push((id, value));
        }
        Ok(Some(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_when_all_of_them_are_there() {
        let events = Events::new(64, &(0..=6), 1).unwrap();
        let mut input = b"*1\r\n*2\r\n$1\r\nb\r\n*2\r\n".to_vec();
        for index in [0, 1] {
            input.extend_from_slice(format!("*2\r\n$3\r\n{index}-0\r\n*2\r\n$1\r\ne\r\n$64\r\n").as_bytes());
            events.write(index, &mut input);
            input.extend_from_slice(b"\r\n");
        }
        let mut consumer = RedisConsumer { read: b"READ".to_vec(), group: "g".into(), ids: Vec::new(), acks: 0 };
        for cut in 0..input.len() {
            let used = consumer.receive(&events, &input[..cut], &mut Vec::new(), &mut |_| panic!("not all there"));
            assert_eq!(used.unwrap(), 0, "{cut}");
        }
        let (mut out, mut got) = (Vec::new(), Vec::new());
        let used = consumer.receive(&events, &input, &mut out, &mut |one| got.push(one.event.unwrap().index)).unwrap();
        assert_eq!((used, got.as_slice()), (input.len(), &[0, 1][..]));
        let expected = "*5\r\n$4\r\nXACK\r\n$1\r\nb\r\n$1\r\ng\r\n$3\r\n0-0\r\n$3\r\n1-0\r\nREAD";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        assert!(!consumer.is_finished());
        assert_eq!(consumer.receive(&events, b":2\r\n", &mut Vec::new(), &mut |_| {}).unwrap(), 4);
        assert!(consumer.is_finished());
    }

    #[test]
    fn a_refusal_is_an_error() {
        let refused = RedisPublisher.receive(b"-OOM no memory\r\n", &mut Vec::new(), &mut |_| {});
        assert_eq!(refused.unwrap_err().to_string(), "unexpected answer: -OOM no memory");
    }
}
