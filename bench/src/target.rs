//! A server and its protocol as the load sees them: bytes in, bytes out. The driver owns the sockets.

use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use crate::Error;
use crate::event::{Events, Found};

/// A server's answer to accepted events. A publisher's events are counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirmation {
    /// The earliest that is not confirmed yet.
    Next,
    /// The one with this number in the run, and it has to be the next.
    Index(u64),
    /// The nth that this publisher sent.
    Nth(u64),
    /// All up to the nth that this publisher sent.
    Through(u64),
}

/// A delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivered {
    /// The event; `None` if it is not part of the run or differs from what was published.
    pub event: Option<Found>,
    /// Whether the server marks it as redelivered.
    pub again: bool,
}

/// The publishing end of a protocol.
pub trait Publisher {
    /// Appends the bytes that publish event `index`.
    fn publish(&mut self, events: &Events, index: u64, out: &mut Vec<u8>);

    /// Ends a series of [`Publisher::publish`] calls, for protocols that send several events as one.
    fn flush(&mut self, _out: &mut Vec<u8>) {}

    /// Processes the complete answers in `input`, reports confirmations, and returns the number of bytes consumed.
    ///
    /// # Errors
    /// The server refused something.
    fn receive(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        confirmed: &mut dyn FnMut(Confirmation),
    ) -> Result<usize, Error>;

    /// The durability named by the confirmations, if any.
    fn level(&self) -> Option<String> {
        None
    }
}

/// The consuming end of a protocol, which acknowledges its deliveries.
pub trait Consumer {
    /// Appends the request for the first events, in pull-based protocols.
    fn start(&mut self, _out: &mut Vec<u8>) {}

    /// Processes the complete deliveries in `input`, acknowledges them in `out`, and returns the number of bytes consumed.
    ///
    /// # Errors
    /// The server refused something.
    fn receive(
        &mut self,
        events: &Events,
        input: &[u8],
        out: &mut Vec<u8>,
        delivered: &mut dyn FnMut(Delivered),
    ) -> Result<usize, Error>;

    /// Appends a request for the server to report that it has handled all acknowledgements. [`Consumer::receive`] processes the
    /// answer.
    fn finish(&mut self, out: &mut Vec<u8>);

    /// Whether the server has reported that all acknowledgements are handled.
    fn is_finished(&self) -> bool;
}

/// A connection that is ready, with its protocol.
pub struct Opened<P: ?Sized> {
    /// The socket.
    pub stream: TcpStream,
    /// The bytes already read from it.
    pub input: Vec<u8>,
    /// The protocol.
    pub end: Box<P>,
}

impl<P: ?Sized> std::fmt::Debug for Opened<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened").field("stream", &self.stream).finish_non_exhaustive()
    }
}

/// The delivery order of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Highest priority first, first in, first out within each priority.
    Priority,
    /// First in, first out; priorities are ignored.
    Fifo,
}

/// A server to put under load.
pub trait Target {
    /// A short name.
    fn name(&self) -> &str;
    /// The version, available once it runs.
    fn version(&self) -> String;
    /// The durability of a confirmed event: `synced`, `written`, `memory`.
    fn level(&self) -> String;
    /// Further context for the numbers: storage, settings.
    fn notes(&self) -> String;
    /// The delivery order.
    fn order(&self) -> Order;
    /// Whether an event can go to more than one subscription.
    fn fans_out(&self) -> bool {
        true
    }
    /// Sends event n to topic n modulo `topics`, from the next start on. A consumer takes all topics. Returns whether the target
    /// supports this.
    fn spread(&mut self, topics: usize) -> bool {
        topics == 1
    }
    /// Starts it with an empty data directory below `dir`.
    ///
    /// # Errors
    /// It does not start.
    fn start(&mut self, dir: &Path) -> Result<(), Error>;
    /// Kills it, starts it again on its data, and returns the time from its start until it answered. `None`: it cannot be
    /// restarted from here.
    ///
    /// # Errors
    /// It does not start.
    fn restart(&mut self) -> Result<Option<Duration>, Error>;
    /// The id of its process, if accessible.
    fn pid(&self) -> Option<u32>;
    /// Creates this many subscriptions, whose consumers may have `prefetch` events in flight. They keep everything published from
    /// then on, connected or not.
    ///
    /// # Errors
    /// The server refused.
    fn prepare(&mut self, subscriptions: usize, prefetch: usize) -> Result<(), Error>;
    /// Opens a publishing connection.
    ///
    /// # Errors
    /// The server refused.
    fn publisher(&mut self) -> Result<Opened<dyn Publisher>, Error>;
    /// Opens a consuming connection for one of the subscriptions.
    ///
    /// # Errors
    /// The server refused.
    fn consumer(&mut self, subscription: usize, prefetch: usize) -> Result<Opened<dyn Consumer>, Error>;
    /// Stops it and removes the data left by the run.
    fn stop(&mut self);
}
