//! beanstalkd: `put` in a pipeline; `reserve` as many at once as there were the last time, and `delete` of all of them together.

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

use crate::local::{launch, version};

/// A beanstalkd.
pub(crate) struct Beanstalkd {
    program: PathBuf,
    version: String,
    /// `-f`: milliseconds between two syncs, 0: each write.
    sync_ms: u32,
    dir: PathBuf,
    addr: Option<SocketAddr>,
    process: Option<Process>,
}

impl Beanstalkd {
    pub(crate) fn new(program: PathBuf, sync_ms: u32) -> Self {
        let version = version(&program, &["-v"]);
        Self { program, version, sync_ms, dir: PathBuf::new(), addr: None, process: None }
    }

    fn serve(&mut self) -> Result<(), Error> {
        let (process, addr) = launch("beanstalkd", |addr| {
            let mut command = Command::new(&self.program);
            command.current_dir(&self.dir).args(["-l", "127.0.0.1", "-p", &addr.port().to_string()]);
            command.args(["-b", ".", "-f", &self.sync_ms.to_string()]);
            Ok(command)
        })?;
        (self.process, self.addr) = (Some(process), Some(addr));
        Opening::connect(addr)?.ask("list-tube-used").map(drop)
    }

    fn open(&self) -> Result<(std::net::TcpStream, Vec<u8>), Error> {
        let addr = self.addr.ok_or_else(|| Error::Options("beanstalkd is not running".into()))?;
        Ok(Opening::connect(addr)?.done())
    }
}

impl Target for Beanstalkd {
    fn name(&self) -> &'static str {
        "beanstalkd"
    }

    fn version(&self) -> String {
        self.version.clone()
    }

    fn level(&self) -> String {
        if self.sync_ms == 0 { "synced".into() } else { "written".into() }
    }

    fn notes(&self) -> String {
        if self.sync_ms == 0 { "synced one by one".into() } else { format!("synced every {} ms", self.sync_ms) }
    }

    fn order(&self) -> Order {
        Order::Priority
    }

    fn fans_out(&self) -> bool {
        false
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

    fn prepare(&mut self, _subscriptions: usize, _prefetch: usize) -> Result<(), Error> {
        Ok(())
    }

    fn publisher(&mut self) -> Result<Opened<dyn Publisher>, Error> {
        let (stream, input) = self.open()?;
        Ok(Opened { stream, input, end: Box::new(BeanstalkdPublisher) })
    }

    fn consumer(&mut self, _subscription: usize, prefetch: usize) -> Result<Opened<dyn Consumer>, Error> {
        let (stream, input) = self.open()?;
        let end = BeanstalkdConsumer { prefetch, asked: 0, answered: 0, deletes: 0, ids: Vec::new() };
        Ok(Opened { stream, input, end: Box::new(end) })
    }

    fn stop(&mut self) {
        self.process = None;
    }
}

struct BeanstalkdPublisher;

impl Publisher for BeanstalkdPublisher {
    fn publish(&mut self, events: &Events, index: u64, out: &mut Vec<u8>) {
        // 0 is the most urgent here; the highest priority of a run has the highest rank. Nobody times out within an hour.
        let rank = events.rank(events.priority(index)).unwrap_or(0);
        let urgency = events.priorities() - 1 - rank;
        let _ = write!(out, "put {urgency} 0 3600 {}\r\n", events.size());
        events.write(index, out);
        out.extend_from_slice(b"\r\n");
    }

    fn receive(
        &mut self,
        input: &[u8],
        _out: &mut Vec<u8>,
        confirmed: &mut dyn FnMut(Confirmation),
    ) -> Result<usize, Error> {
        let mut used = 0;
        while let Some(end) = memchr(b'\n', &input[used..]) {
            let line = &input[used..used + end];
            if !line.starts_with(b"INSERTED ") {
                return Err(Error::unexpected(line));
            }
            confirmed(Confirmation::Next);
            used += end + 1;
        }
        Ok(used)
    }
}

/// A connection that waits in `reserve` executes nothing else, so only the first of a batch may wait: what it is to delete has
/// to come before that.
struct BeanstalkdConsumer {
    prefetch: usize,
    /// Reservations of this batch, and how many are answered.
    asked: usize,
    answered: usize,
    deletes: usize,
    ids: Vec<Vec<u8>>,
}

impl BeanstalkdConsumer {
    /// Deletes what has come, and asks for as much again and one more.
    fn ask(&mut self, count: usize, out: &mut Vec<u8>) {
        for id in self.ids.drain(..) {
            out.extend_from_slice(b"delete ");
            out.extend_from_slice(&id);
            out.extend_from_slice(b"\r\n");
            self.deletes += 1;
        }
        out.extend_from_slice(b"reserve\r\n");
        for _ in 1..count {
            out.extend_from_slice(b"reserve-with-timeout 0\r\n");
        }
        (self.asked, self.answered) = (count, 0);
    }
}

impl Consumer for BeanstalkdConsumer {
    fn start(&mut self, out: &mut Vec<u8>) {
        self.ask(1, out);
    }

    fn receive(
        &mut self,
        events: &Events,
        input: &[u8],
        out: &mut Vec<u8>,
        delivered: &mut dyn FnMut(Delivered),
    ) -> Result<usize, Error> {
        let mut used = 0;
        while let Some(end) = memchr(b'\n', &input[used..]) {
            let line = input[used..used + end].trim_ascii_end();
            let mut after = used + end + 1;
            if line == b"DELETED" {
                self.deletes -= 1;
            } else if line == b"TIMED_OUT" {
                self.answered += 1;
            } else if let Some(rest) = line.strip_prefix(b"RESERVED ") {
                let mut words = rest.split(|byte| *byte == b' ');
                let (id, len) = (words.next(), words.next());
                let len = len.and_then(|len| std::str::from_utf8(len).ok()?.parse::<usize>().ok());
                let (Some(id), Some(len)) = (id, len) else { return Err(Error::unexpected(line)) };
                let Some(body) = input.get(after..after + len).filter(|_| input.len() >= after + len + 2) else {
                    break;
                };
                after += len + 2;
                self.ids.push(id.to_vec());
                self.answered += 1;
                delivered(Delivered { event: events.find(body), again: false });
            } else {
                return Err(Error::unexpected(line));
            }
            used = after;
            if self.asked > 0 && self.answered == self.asked {
                let full = self.ids.len() == self.asked;
                let count = if full { self.asked * 2 } else { self.ids.len() + 1 };
                self.ask(count.clamp(1, self.prefetch), out);
            }
        }
        Ok(used)
    }

    fn finish(&mut self, _out: &mut Vec<u8>) {}

    fn is_finished(&self) -> bool {
        // What has come last is deleted with the next batch, which was asked for when it was complete.
        self.deletes == 0 && self.ids.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_of_a_batch_waits_and_deletes_come_before_it() {
        let events = Events::new(64, &(0..=6), 1).unwrap();
        let mut consumer = BeanstalkdConsumer { prefetch: 2, asked: 0, answered: 0, deletes: 0, ids: Vec::new() };
        let mut out = Vec::new();
        consumer.start(&mut out);
        assert_eq!(out, b"reserve\r\n");
        let mut input = b"RESERVED 7 64\r\n".to_vec();
        events.write(3, &mut input);
        input.extend_from_slice(b"\r\n");
        out.clear();
        let mut got = Vec::new();
        consumer.receive(&events, &input, &mut out, &mut |one| got.push(one.event.unwrap().index)).unwrap();
        assert_eq!(got, [3]);
        assert_eq!(String::from_utf8(out).unwrap(), "delete 7\r\nreserve\r\nreserve-with-timeout 0\r\n");
        assert!(!consumer.is_finished());
        consumer.receive(&events, b"DELETED\r\n", &mut Vec::new(), &mut |_| {}).unwrap();
        assert!(consumer.is_finished());
    }
}
