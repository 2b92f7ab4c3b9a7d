//! The load loop: publishes as much as the window or the clock allows, handles confirmations and deliveries, and acknowledges.
//! One thread and one `poll` serve all connections, so that ready connections are handled together and the server keeps its core.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::Error;
use crate::connection::Connection;
use crate::event::Events;
use crate::target::{Confirmation, Consumer, Delivered, Opened, Publisher};
use crate::verify::{Expected, OrderCheck, Seen, Subscription, Verdict};

/// Bytes encoded before a write: enough to save system calls, few enough that the server can start early.
const CHUNK: usize = 64 * 1024;

/// Bytes read at a time, over all connections.
const READ: usize = 4 << 20;

/// The longest silence before a load counts as stalled. A server that writes back a large file may be silent for seconds.
const STALLED: Duration = Duration::from_secs(60);

/// The interval between two progress reports.
const GLANCE: Duration = Duration::from_millis(100);

/// How fast events are published.
#[derive(Debug, Clone, Copy)]
pub enum Pace {
    /// As fast as they are confirmed: each publisher may have this many unconfirmed events.
    Window(u64),
    /// This many events a second over all publishers, regardless of the server.
    Rate(f64),
}

/// A load to run.
#[derive(Debug)]
pub struct Load<'a> {
    /// The events.
    pub events: &'a Events,
    /// The number of events.
    pub count: u64,
    /// The publishers; empty if the events are already on the server.
    pub publishers: Vec<Opened<dyn Publisher>>,
    /// The number of connections that publish the events or published them earlier.
    pub published_by: usize,
    /// The consumers of each subscription.
    pub subscriptions: Vec<Vec<Opened<dyn Consumer>>>,
    /// The publishing pace.
    pub pace: Pace,
    /// The order that consumers are checked against.
    pub expected: Expected,
    /// The number of topics, each with its own order: event n is in topic n modulo this.
    pub topics: usize,
}

/// The measurements of a load.
#[derive(Debug)]
pub struct Measured {
    /// The time from the first byte to the last confirmation or acknowledgement.
    pub elapsed: Duration,
    /// Nanoseconds from a publish to its confirmation.
    pub confirms: Histogram<u64>,
    /// Nanoseconds from a publish to its delivery.
    pub deliveries: Histogram<u64>,
    /// The result of the checks.
    pub verdict: Verdict,
    /// The durability named by the confirmations.
    pub level: Option<String>,
}

/// The progress callback, called about ten times a second with the steps done and the total. An error ends the load.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> Result<(), Error>;

/// A histogram of nanoseconds, up to an hour, exact to three digits.
///
/// # Errors
/// Never: the bounds are good.
pub fn histogram() -> Result<Histogram<u64>, Error> {
    Histogram::new_with_bounds(1, 3_600_000_000_000, 3).map_err(|error| Error::Options(error.to_string()))
}

struct Sender {
    connection: Connection,
    end: Box<dyn Publisher>,
    ledger: Ledger,
}

struct Receiver {
    connection: Connection,
    end: Box<dyn Consumer>,
    subscription: usize,
    order: OrderCheck,
    finishing: bool,
}

struct Run<'a> {
    events: &'a Events,
    senders: Vec<Sender>,
    receivers: Vec<Receiver>,
    subscriptions: Vec<Subscription>,
    pace: Pace,
    began: Instant,
    /// The actual or scheduled publish time of each event, in nanoseconds after `began`.
    sent: Vec<u64>,
    confirms: Histogram<u64>,
    deliveries: Histogram<u64>,
}

/// Runs the load.
///
/// # Errors
/// A connection fails, the server refuses something, or nothing happens for a minute.
pub fn run(load: Load<'_>, progress: Progress<'_>) -> Result<Measured, Error> {
    // A late timer would count as latency. Where it cannot be set, timers are late by 50 µs, for every server alike.

    let _as_exact_as_it_gets = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    let mut run = Run::new(load)?;
    run.begin()?;
    let mut moved = (0, Instant::now());
    let mut shown = Instant::now();
    let total = run.total();
    while !run.is_done() {
        run.publish()?;
        let timeout = run.timeout();
        run.wait_and_receive(timeout)?;
        run.finish_what_is_complete()?;
        let done = run.done();
        if done != moved.0 {
            moved = (done, Instant::now());
        } else if moved.1.elapsed() > STALLED {
            return Err(run.stalled());
        }
        if shown.elapsed() > GLANCE {
            progress(done, total)?;
            shown = Instant::now();
        }
    }
    progress(total, total)?;
    Ok(run.measured())
}

impl<'a> Run<'a> {
    fn new(load: Load<'a>) -> Result<Self, Error> {
        let Load { events, count, publishers, published_by, subscriptions, pace, expected, topics } = load;
        let connections = publishers.len() + subscriptions.iter().map(Vec::len).sum::<usize>();
        let open = |stream, input: &[u8]| {
            Connection::new(stream, input, READ / connections.max(1)).map_err(Error::io("cannot set up a connection"))
        };
        let share = count.div_ceil(published_by.max(1) as u64);
        let mut senders = Vec::new();
        for (at, Opened { stream, input, end }) in (0_u64..).zip(publishers) {
            let (first, last) = ((at * share).min(count), ((at + 1) * share).min(count));
            senders.push(Sender { connection: open(stream, &input)?, end, ledger: Ledger::new(first, last) });
        }
        let mut receivers = Vec::new();
        let subscription_count = subscriptions.len();
        for (subscription, consumers) in subscriptions.into_iter().enumerate() {
            for Opened { stream, input, end } in consumers {
                let order = OrderCheck::new(events, expected, share, published_by.max(1), topics);
                let connection = open(stream, &input)?;
                receivers.push(Receiver { connection, end, subscription, order, finishing: false });
            }
        }
        Ok(Self {
            events,
            sent: if senders.is_empty() { Vec::new() } else { vec![0; usize::try_from(count).unwrap_or(usize::MAX)] },
            senders,
            receivers,
            subscriptions: vec![Subscription::new(count); subscription_count],
            pace,
            began: Instant::now(),
            confirms: histogram()?,
            deliveries: histogram()?,
        })
    }

    /// Requests the first events, and processes the input that arrived while the connections were opened.
    fn begin(&mut self) -> Result<(), Error> {
        self.began = Instant::now();
        for at in 0..self.receivers.len() {
            let receiver = &mut self.receivers[at];
            receiver.end.start(&mut receiver.connection.out);
            self.take_deliveries(at)?;
        }
        Ok(())
    }

    fn publish(&mut self) -> Result<(), Error> {
        let Self { events, senders, pace, began, sent, .. } = self;
        let count = senders.len() as f64;
        for (at, Sender { connection, end, ledger }) in senders.iter_mut().enumerate() {
            loop {
                let now = began.elapsed();
                // The nth event of this publisher is due at (n * publishers + its own number) / rate.
                let due = |nth: u64, rate: f64| (nth as f64 * count + at as f64) / rate;
                let mut any = false;
                while ledger.next < ledger.last && connection.out.len() < CHUNK {
                    let nth = ledger.next - ledger.first;
                    let time = match *pace {
                        Pace::Window(window) if nth < ledger.confirmed + window => nanos(now),
                        Pace::Rate(rate) if due(nth, rate) <= now.as_secs_f64() => (due(nth, rate) * 1e9) as u64,
                        _ => break,
                    };
                    if let Some(sent) = usize::try_from(ledger.next).ok().and_then(|at| sent.get_mut(at)) {
                        *sent = time;
                    }
                    end.publish(events, ledger.next, &mut connection.out);
                    ledger.next += 1;
                    any = true;
                }
                if any {
                    end.flush(&mut connection.out);
                }
                let all_written = connection.write().map_err(Error::io("cannot send to the server"))?;
                if !any || !all_written {
                    break;
                }
            }
        }
        Ok(())
    }

    /// The time until there is work to do without new input.
    fn timeout(&self) -> Duration {
        let Pace::Rate(rate) = self.pace else { return GLANCE };
        let count = self.senders.len() as f64;
        let ledgers = self.senders.iter().map(|sender| &sender.ledger).enumerate();
        let open = ledgers.filter(|(_, ledger)| ledger.next < ledger.last);
        let next = open.map(|(at, ledger)| ((ledger.next - ledger.first) as f64 * count + at as f64) / rate);
        let next = next.fold(f64::INFINITY, f64::min);
        Duration::try_from_secs_f64(next - self.began.elapsed().as_secs_f64()).unwrap_or_default().min(GLANCE)
    }

    fn wait_and_receive(&mut self, timeout: Duration) -> Result<(), Error> {
        let senders = self.senders.iter().map(|sender| &sender.connection);
        let connections = senders.chain(self.receivers.iter().map(|receiver| &receiver.connection));
        let mut fds: Vec<PollFd<'_>> = connections
            .map(|connection| {
                let writing = if connection.is_writing() { PollFlags::OUT } else { PollFlags::empty() };
                PollFd::new(connection.stream(), PollFlags::IN | writing)
            })
            .collect();
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(timeout.subsec_nanos()) };
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error == rustix::io::Errno::INTR => return Ok(()),
            Err(error) => return Err(Error::io("cannot wait for the server")(error.into())),
        }
        let ready: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
        drop(fds);
        let gone = || Error::io("the connection to the server is gone");
        for (at, ready) in ready.into_iter().enumerate().filter(|(_, ready)| !ready.is_empty()) {
            match at.checked_sub(self.senders.len()) {
                None => {
                    let connection = &mut self.senders[at].connection;
                    if ready.contains(PollFlags::OUT) {
                        connection.write().map_err(gone())?;
                    }
                    if connection.read().map_err(gone())? {
                        self.take_confirmations(at)?;
                    }
                }
                Some(at) => {
                    let connection = &mut self.receivers[at].connection;
                    if ready.contains(PollFlags::OUT) {
                        connection.write().map_err(gone())?;
                    }
                    if connection.read().map_err(gone())? {
                        self.take_deliveries(at)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn take_confirmations(&mut self, at: usize) -> Result<(), Error> {
        let Self { senders, began, sent, confirms, .. } = self;
        let Sender { connection, end, ledger, .. } = &mut senders[at];
        let now = nanos(began.elapsed());
        let mut confirmed = |index: u64| {
            let sent = usize::try_from(index).ok().and_then(|at| sent.get(at)).copied().unwrap_or(now);
            confirms.saturating_record(now.saturating_sub(sent).max(1));
        };
        let (input, out) = connection.parts();
        let used = end.receive(input, out, &mut |confirmation| ledger.take(confirmation, &mut confirmed))?;
        connection.used(used);
        Ok(())
    }

    fn take_deliveries(&mut self, at: usize) -> Result<(), Error> {
        let Self { events, receivers, subscriptions, began, sent, deliveries, .. } = self;
        let Receiver { connection, end, subscription, order, .. } = &mut receivers[at];
        let subscription = &mut subscriptions[*subscription];
        let now = nanos(began.elapsed());
        let mut delivered = |delivered: Delivered| {
            let Some(index) = subscription.count(&delivered) else { return };
            order.take(events, index, events.priority(index));
            if let Some(sent) = usize::try_from(index).ok().and_then(|at| sent.get(at)) {
                deliveries.saturating_record(now.saturating_sub(*sent).max(1));
            }
        };
        let (input, out) = connection.parts();
        let used = end.receive(events, input, out, &mut delivered)?;
        connection.used(used);
        connection.write().map_err(Error::io("cannot send to the server"))?;
        Ok(())
    }

    /// Asks the consumers of complete subscriptions whether the server has handled their acknowledgements.
    fn finish_what_is_complete(&mut self) -> Result<(), Error> {
        for receiver in &mut self.receivers {
            if !receiver.finishing && self.subscriptions[receiver.subscription].is_complete() {
                receiver.finishing = true;
                receiver.end.finish(&mut receiver.connection.out);
                receiver.connection.write().map_err(Error::io("cannot send to the server"))?;
            }
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        let confirmed = self.senders.iter().all(|sender| sender.ledger.is_complete());
        confirmed && self.receivers.iter().all(|receiver| receiver.finishing && receiver.end.is_finished())
    }

    fn done(&self) -> u64 {
        let confirmed: u64 = self.senders.iter().map(|sender| sender.ledger.confirmed).sum();
        confirmed + self.subscriptions.iter().map(|one| one.got).sum::<u64>()
    }

    fn total(&self) -> u64 {
        let published: u64 = self.senders.iter().map(|sender| sender.ledger.last - sender.ledger.first).sum();
        published + self.subscriptions.iter().map(Subscription::expected).sum::<u64>()
    }

    fn stalled(&self) -> Error {
        Error::Stalled {
            seconds: STALLED.as_secs(),
            published: self.senders.iter().map(|sender| sender.ledger.next - sender.ledger.first).sum(),
            confirmed: self.senders.iter().map(|sender| sender.ledger.confirmed).sum(),
            delivered: self.subscriptions.iter().map(|one| one.got).sum(),
            expected: self.subscriptions.iter().map(Subscription::expected).sum(),
        }
    }

    fn measured(self) -> Measured {
        let elapsed = self.began.elapsed();
        let received = self.subscriptions.iter().map(Subscription::verdict).fold(Verdict::default(), Verdict::and);
        let verdict = Verdict {
            out_of_order: self.receivers.iter().map(|receiver| receiver.order.out_of_order).sum(),
            wrong_confirmations: self.senders.iter().map(|sender| sender.ledger.wrong).sum(),
            ..received
        };
        let level = self.senders.iter().find_map(|sender| sender.end.level());
        Measured { elapsed, confirms: self.confirms, deliveries: self.deliveries, verdict, level }
    }
}

/// The sent and confirmed events of a publisher. Its events are `first..last`, sent up to `next`.
struct Ledger {
    first: u64,
    next: u64,
    last: u64,
    confirmed: u64,
    /// The nth and all before it are confirmed.
    low: u64,
    seen: Seen,
    wrong: u64,
}

impl Ledger {
    fn new(first: u64, last: u64) -> Self {
        Self { first, next: first, last, confirmed: 0, low: 0, seen: Seen::new(last - first), wrong: 0 }
    }

    fn is_complete(&self) -> bool {
        self.confirmed == self.last - self.first
    }

    fn take(&mut self, confirmation: Confirmation, confirmed: &mut dyn FnMut(u64)) {
        match confirmation {
            Confirmation::Next => self.one(self.confirmed, confirmed),
            Confirmation::Index(index) if index == self.first + self.confirmed => self.one(self.confirmed, confirmed),
            Confirmation::Index(_) => self.wrong += 1,
            Confirmation::Nth(nth) => self.one(nth, confirmed),
            Confirmation::Through(last) => {
                for nth in self.low..=last {
                    // Some of them may already have been confirmed individually, which is valid.
                    if self.first + nth < self.next && self.seen.insert(nth) {
                        self.confirmed += 1;
                        confirmed(self.first + nth);
                    }
                }
                self.low = self.low.max(last + 1);
            }
        }
    }

    fn one(&mut self, nth: u64, confirmed: &mut dyn FnMut(u64)) {
        if self.first + nth >= self.next || !self.seen.insert(nth) {
            self.wrong += 1;
            return;
        }
        self.confirmed += 1;
        confirmed(self.first + nth);
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confirmations_count_once_and_only_for_what_was_sent() {
        let mut ledger = Ledger::new(100, 110);
        ledger.next = 106;
        let mut confirmed = Vec::new();
        for confirmation in [
            Confirmation::Next,
            Confirmation::Index(101),
            Confirmation::Nth(3),
            Confirmation::Through(4),
            Confirmation::Nth(3),
            Confirmation::Index(101),
            Confirmation::Nth(7),
        ] {
            ledger.take(confirmation, &mut |index| confirmed.push(index));
        }
        assert_eq!(confirmed, [100, 101, 103, 102, 104]);
        assert_eq!((ledger.confirmed, ledger.wrong), (5, 3));
        assert!(!ledger.is_complete());
    }
}
