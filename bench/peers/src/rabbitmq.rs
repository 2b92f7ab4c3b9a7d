//! RabbitMQ: publisher confirms, prefetch, `basic.ack` with `multiple`; a queue for each subscription behind a fanout exchange.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bench::Error;
use bench::connection::Opening;
use bench::event::Events;
use bench::process::Process;
use bench::target::{Confirmation, Consumer, Delivered, Opened, Order, Publisher, Target};

use crate::amqp::{
    BASIC_ACK, BASIC_CONSUME, BASIC_DELIVER, BASIC_PUBLISH, BASIC_QOS, BODY, CONFIRM_SELECT, Channel, EXCHANGE_DECLARE,
    Frame, HEADER, METHOD, QUEUE_BIND, QUEUE_DECLARE, Writer, answer_of,
};
use crate::local::{START, find, free_addr};

/// Durable, not exclusive, not deleted by itself.
const DURABLE: u8 = 0b10;

/// The kind of queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Queue {
    /// Replicated over one node: its log is synced before it confirms.
    Quorum,
    /// A classic durable queue.
    Classic,
    /// The same with ten priorities.
    Priority,
}

/// A RabbitMQ node.
pub(crate) struct RabbitMq {
    program: PathBuf,
    version: String,
    queue: Queue,
    dir: PathBuf,
    addr: Option<SocketAddr>,
    /// Erlang's port mapper: left to itself it would start one that outlives it.
    epmd: Option<(Process, u16)>,
    pid: Option<u32>,
    process: Option<Process>,
}

impl RabbitMq {
    /// `program`: the server's script itself, not the wrapper of a distribution that changes the user.
    pub(crate) fn new(program: PathBuf, version: String, queue: Queue) -> Self {
        Self { program, version, queue, dir: PathBuf::new(), addr: None, epmd: None, pid: None, process: None }
    }

    fn serve(&mut self) -> Result<(), Error> {
        let (addr, dist) = (free_addr()?, free_addr()?);
        // A directory that a crash left its pid in is fine.
        let pid_file = self.dir.join("pid");
        let _there_may_be_none = std::fs::remove_file(&pid_file);
        let epmd_port = match &self.epmd {
            Some((_, port)) => *port,
            None => {
                let program = find("epmd", &[]).unwrap_or_else(|| "epmd".into());
                let port = free_addr()?.port();
                let mut command = Command::new(program);
                command.args(["-port", &port.to_string(), "-address", "127.0.0.1"]);
                self.epmd = Some((Process::start("epmd", command)?, port));
                Opening::connect_within(([127, 0, 0, 1], port).into(), START)?;
                port
            }
        };
        std::fs::write(self.dir.join("plugins"), "[].\n").map_err(Error::io("cannot write the list of plugins"))?;
        std::fs::write(self.dir.join("rabbitmq.conf"), "").map_err(Error::io("cannot write rabbitmq.conf"))?;
        let mut command = Command::new(&self.program);
        command.current_dir(&self.dir);
        for (name, value) in [
            ("HOME", self.dir.clone()),
            ("RABBITMQ_MNESIA_BASE", self.dir.join("data")),
            ("RABBITMQ_LOG_BASE", self.dir.join("log")),
            ("RABBITMQ_PID_FILE", pid_file.clone()),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", self.dir.join("plugins")),
            ("RABBITMQ_CONFIG_FILE", self.dir.join("rabbitmq")),
            ("RABBITMQ_CONF_ENV_FILE", self.dir.join("none")),
        ] {
            command.env(name, value);
        }
        command.env("RABBITMQ_NODENAME", format!("bench{epmd_port}@localhost"));
        command.env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1").env("RABBITMQ_NODE_PORT", addr.port().to_string());
        command.env("RABBITMQ_DIST_PORT", dist.port().to_string()).env("ERL_EPMD_PORT", epmd_port.to_string());
        self.process = Some(Process::start("rabbitmq-server", command)?);
        self.addr = Some(addr);
        let began = Instant::now();
        loop {
            let Err(error) = Channel::open(addr) else { break };
            let running = self.process.as_mut().is_some_and(Process::is_running);
            if !running || began.elapsed() > START {
                // Why, it has said; this finds it.
                let said = self.process.as_ref().map(|process| process.wait_for("\0", Duration::ZERO));
                return Err(said.and_then(Result::err).unwrap_or(error));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        // The script has become the Erlang machine, or started it.
        let pid = std::fs::read_to_string(&pid_file).ok().and_then(|text| text.trim().parse().ok());
        self.pid = pid.or_else(|| self.process.as_ref().map(Process::pid));
        Ok(())
    }

    fn open(&self) -> Result<Channel, Error> {
        Channel::open(self.addr.ok_or_else(|| Error::Options("rabbitmq-server is not running".into()))?)
    }

    /// Kills the Erlang machine, and the script if that is another process.
    fn kill(&mut self) {
        if let Some(pid) = self.pid.take() {
            let _it_may_have_ended = Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
        self.process = None;
    }
}

fn queue(subscription: usize) -> String {
    format!("q{subscription}")
}

impl Target for RabbitMq {
    fn name(&self) -> &'static str {
        "RabbitMQ"
    }

    fn version(&self) -> String {
        self.version.clone()
    }

    fn level(&self) -> String {
        if self.queue == Queue::Quorum { "synced".into() } else { "written".into() }
    }

    fn notes(&self) -> String {
        match self.queue {
            Queue::Quorum => "quorum queue, one node",
            Queue::Classic => "classic durable queue",
            Queue::Priority => "classic durable queue, x-max-priority 9",
        }
        .to_owned()
    }

    fn order(&self) -> Order {
        if self.queue == Queue::Priority { Order::Priority } else { Order::Fifo }
    }

    fn start(&mut self, dir: &Path) -> Result<(), Error> {
        dir.clone_into(&mut self.dir);
        self.serve()
    }

    fn restart(&mut self) -> Result<Option<Duration>, Error> {
        self.kill();
        let began = Instant::now();
        self.serve()?;
        Ok(Some(began.elapsed()))
    }

    fn pid(&self) -> Option<u32> {
        self.pid
    }

    fn prepare(&mut self, subscriptions: usize, _prefetch: usize) -> Result<(), Error> {
        let mut channel = self.open()?;
        channel.call(EXCHANGE_DECLARE, |method| method.short(0).name("b").name("fanout").byte(DURABLE).text(&[]))?;
        let mut arguments = Vec::new();
        match self.queue {
            Queue::Quorum => {
                arguments.extend_from_slice(b"\x0cx-queue-typeS\0\0\0\x06quorum");
            }
            Queue::Classic => {}
            Queue::Priority => arguments.extend_from_slice(b"\x0ex-max-priorityI\0\0\0\x09"),
        }
        for subscription in 0..subscriptions {
            let queue = queue(subscription);
            channel.call(QUEUE_DECLARE, |method| method.short(0).name(&queue).byte(DURABLE).text(&arguments))?;
            channel.call(QUEUE_BIND, |method| method.short(0).name(&queue).name("b").name("").byte(0).text(&[]))?;
        }
        Ok(())
    }

    fn publisher(&mut self) -> Result<Opened<dyn Publisher>, Error> {
        let mut channel = self.open()?;
        channel.call(CONFIRM_SELECT, |method| method.byte(0))?;
        let (stream, input) = channel.done();
        Ok(Opened { stream, input, end: Box::new(RabbitPublisher) })
    }

    fn consumer(&mut self, subscription: usize, prefetch: usize) -> Result<Opened<dyn Consumer>, Error> {
        let mut channel = self.open()?;
        let prefetch = u16::try_from(prefetch).unwrap_or(u16::MAX);
        channel.call(BASIC_QOS, |method| method.long(0).short(prefetch).byte(0))?;
        let queue = queue(subscription);
        channel.call(BASIC_CONSUME, |method| method.short(0).name(&queue).name("c").byte(0).text(&[]))?;
        let (stream, input) = channel.done();
        let end = RabbitConsumer { prefetch, tag: 0, again: false, size: 0, body: Vec::new(), finished: false };
        Ok(Opened { stream, input, end: Box::new(end) })
    }

    fn stop(&mut self) {
        self.kill();
        self.epmd = None;
    }
}

struct RabbitPublisher;

impl Publisher for RabbitPublisher {
    fn publish(&mut self, events: &Events, index: u64, out: &mut Vec<u8>) {
        let rank = u8::try_from(events.rank(events.priority(index)).unwrap_or(0)).unwrap_or(u8::MAX);
        Writer::method(1, BASIC_PUBLISH, out).short(0).name("b").name("").byte(0).end();
        let header = Writer::frame(HEADER, 1, out).short(60).short(0).longlong(events.size() as u64);
        // Delivery mode 2, persistent; and the priority, for queues that have them.
        header.short(0x1800).byte(2).byte(rank).end();
        let body = out.len();
        Writer::frame(BODY, 1, out).end();
        // The body is written in place of the frame's end.
        out.pop();
        events.write(index, out);
        let len = u32::try_from(events.size()).unwrap_or(u32::MAX);
        out[body + 3..body + 7].copy_from_slice(&len.to_be_bytes());
        out.push(0xCE);
    }

    fn receive(
        &mut self,
        input: &[u8],
        _out: &mut Vec<u8>,
        confirmed: &mut dyn FnMut(Confirmation),
    ) -> Result<usize, Error> {
        let mut used = 0;
        while let Some((frame, len)) = Frame::take(&input[used..])? {
            used += len;
            if frame.kind != METHOD {
                continue;
            }
            let (method, arguments) = frame.method()?;
            let (Some(tag), Some(multiple)) = (tag(arguments), arguments.get(8)) else {
                return Err(Error::unexpected(arguments));
            };
            if method != BASIC_ACK {
                return Err(Error::Protocol(format!("method {method:?} instead of a confirmation")));
            }
            // Tags count from 1.
            let nth = tag.saturating_sub(1);
            confirmed(if multiple & 1 == 1 { Confirmation::Through(nth) } else { Confirmation::Nth(nth) });
        }
        Ok(used)
    }
}

fn tag(arguments: &[u8]) -> Option<u64> {
    arguments.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}

struct RabbitConsumer {
    prefetch: u16,
    /// Of the delivery that is being read: its tag, whether it came before, how long it is, and what has come of it.
    tag: u64,
    again: bool,
    size: usize,
    body: Vec<u8>,
    finished: bool,
}

impl Consumer for RabbitConsumer {
    fn receive(
        &mut self,
        events: &Events,
        input: &[u8],
        out: &mut Vec<u8>,
        delivered: &mut dyn FnMut(Delivered),
    ) -> Result<usize, Error> {
        let (mut used, mut last) = (0, None);
        while let Some((frame, len)) = Frame::take(&input[used..])? {
            used += len;
            match frame.kind {
                METHOD => {
                    let (method, arguments) = frame.method()?;
                    if method == answer_of(BASIC_QOS) {
                        self.finished = true;
                    } else if method == BASIC_DELIVER {
                        // The consumer's name, the tag, whether it came before.
                        let arguments = arguments.get(1 + usize::from(arguments[0])..).unwrap_or_default();
                        let (Some(tag), Some(again)) = (tag(arguments), arguments.get(8)) else {
                            return Err(Error::unexpected(arguments));
                        };
                        (self.tag, self.again) = (tag, again & 1 == 1);
                    } else {
                        return Err(Error::Protocol(format!("method {method:?} instead of a delivery")));
                    }
                }
                HEADER => {
                    let size = frame.payload.get(4..).and_then(tag);
                    self.size = size.and_then(|size| usize::try_from(size).ok()).unwrap_or(0);
                    self.body.clear();
                }
                BODY => {
                    self.body.extend_from_slice(frame.payload);
                    if self.body.len() >= self.size {
                        delivered(Delivered { event: events.find(&self.body), again: self.again });
                        last = Some(self.tag);
                    }
                }
                // A heartbeat.
                _ => {}
            }
        }
        if let Some(tag) = last {
            Writer::method(1, BASIC_ACK, out).longlong(tag).byte(1).end();
        }
        Ok(used)
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        // Any call that is answered comes after the acknowledgements.
        Writer::method(1, BASIC_QOS, out).long(0).short(self.prefetch).byte(0).end();
    }

    fn is_finished(&self) -> bool {
        self.finished
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_is_read_back_and_acknowledged_together() {
        let events = Events::new(64, &(0..=6), 1).unwrap();
        let mut input = Vec::new();
        for (index, tag) in [(0, 1), (1, 2)] {
            Writer::method(1, BASIC_DELIVER, &mut input).name("c").longlong(tag).byte(0).name("b").name("").end();
            let mut published = Vec::new();
            RabbitPublisher.publish(&events, index, &mut published);
            // Its method aside, a publish is what a delivery looks like.
            let (_, method) = Frame::take(&published).unwrap().unwrap();
            input.extend_from_slice(&published[method..]);
        }
        let mut consumer =
            RabbitConsumer { prefetch: 1, tag: 0, again: false, size: 0, body: Vec::new(), finished: false };
        let (mut out, mut got) = (Vec::new(), Vec::new());
        let used = consumer.receive(&events, &input, &mut out, &mut |one| got.push(one.event.unwrap().index)).unwrap();
        assert_eq!((used, got.as_slice()), (input.len(), &[0, 1][..]));
        let (frame, _) = Frame::take(&out).unwrap().unwrap();
        let (method, arguments) = frame.method().unwrap();
        assert_eq!((method, arguments), (BASIC_ACK, &[0, 0, 0, 0, 0, 0, 0, 2, 1][..]));
    }

    #[test]
    fn confirmations_are_of_one_or_of_all_up_to_it() {
        let mut input = Vec::new();
        Writer::method(1, BASIC_ACK, &mut input).longlong(1).byte(0).end();
        Writer::method(1, BASIC_ACK, &mut input).longlong(9).byte(1).end();
        let mut got = Vec::new();
        RabbitPublisher.receive(&input, &mut Vec::new(), &mut |one| got.push(one)).unwrap();
        assert_eq!(got, [Confirmation::Nth(0), Confirmation::Through(8)]);
    }

    #[test]
    fn a_closed_channel_says_why() {
        let mut input = Vec::new();
        Writer::method(1, (20, 40), &mut input).short(404).name("NOT_FOUND - no queue").short(0).short(0).end();
        let error = RabbitPublisher.receive(&input, &mut Vec::new(), &mut |_| {}).unwrap_err();
        assert!(error.to_string().contains("NOT_FOUND"), "{error}");
    }
}
