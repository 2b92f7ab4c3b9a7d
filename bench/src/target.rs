//! What a server and its protocol look like to the load: bytes in, bytes out. Sockets are the driver's.

use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use crate::Error;
use crate::event::{Events, Found};

/// What a server says of events that it has accepted. A publisher's events are counted from 0.
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
    /// The event; `None`: it is none of the run's, or not as it was published.
    pub event: Option<Found>,
    /// The server says that it has delivered it before.
    pub again: bool,
}

/// The publishing end of a protocol.
pub trait Publisher {
    /// Appends what publishes event `index`.
    fn publish(&mut self, events: &Events, index: u64, out: &mut Vec<u8>);

    /// Ends a run of [`Publisher::publish`], for protocols that send many events as one.
    fn flush(&mut self, _out: &mut Vec<u8>) {}

    /// Takes complete answers from `input`, reports confirmations, and returns how many bytes it took.
    ///
    /// # Errors
    /// The server refused something.
    fn receive(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        confirmed: &mut dyn FnMut(Confirmation),
    ) -> Result<usize, Error>;

    /// The durability that the confirmations name, where they do.
    fn level(&self) -> Option<String> {
        None
    }
}

/// The consuming end of a protocol; acknowledges what it delivers.
pub trait Consumer {
    /// Appends what asks for the first events, in protocols in which consumers ask.
    fn start(&mut self, _out: &mut Vec<u8>) {}

    /// Takes complete deliveries from `input`, acknowledges them to `out`, and returns how many bytes it took.
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

    /// Appends what makes the server say that it has handled all acknowledgements. What it says goes to
    /// [`Consumer::receive`].
    fn finish(&mut self, out: &mut Vec<u8>);

    /// Whether it has said so.
    fn is_finished(&self) -> bool;
}

/// A connection that is ready, and who speaks on it.
pub struct Opened<P: ?Sized> {
    /// The socket.
    pub stream: TcpStream,
    /// What has been read from it already.
    pub input: Vec<u8>,
    /// The protocol.
    pub end: Box<P>,
}

impl<P: ?Sized> std::fmt::Debug for Opened<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened").field("stream", &self.stream).finish_non_exhaustive()
    }
}

/// In which order a server delivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The highest priority first, first in first out within each.
    Priority,
    /// First in, first out; priorities are not kept.
    Fifo,
}

/// A server that can be put under load.
pub trait Target {
    /// What it is, in a word or two.
    fn name(&self) -> &str;
    /// Its version, once it runs.
    fn version(&self) -> String;
    /// What a confirmation means: `synced`, `written`, `memory`.
    fn level(&self) -> String;
    /// What else has to be known to read the numbers: storage, settings.
    fn notes(&self) -> String;
    /// In which order it delivers.
    fn order(&self) -> Order;
    /// Whether an event can go to more than one subscription.
    fn fans_out(&self) -> bool {
        true
    }
    /// Has event n go to topic n modulo `topics`, from the next start on; whether it can. A consumer takes all of them.
    fn spread(&mut self, topics: usize) -> bool {
        topics == 1
    }
    /// Starts it with an empty data directory below `dir`.
    ///
    /// # Errors
    /// It does not start.
    fn start(&mut self, dir: &Path) -> Result<(), Error>;
    /// Kills it and starts it again on its data; how long it took from its start until it answered. `None`: it cannot be
    /// restarted from here.
    ///
    /// # Errors
    /// It does not start.
    fn restart(&mut self) -> Result<Option<Duration>, Error>;
    /// Its process, where it can be looked at.
    fn pid(&self) -> Option<u32>;
    /// Makes a place for events with this many subscriptions, whose consumers may have `prefetch` events in flight. They keep
    /// what is published from then on, connected or not.
    ///
    /// # Errors
    /// The server refused.
    fn prepare(&mut self, subscriptions: usize, prefetch: usize) -> Result<(), Error>;
    /// A publishing connection.
    ///
    /// # Errors
    /// The server refused.
    fn publisher(&mut self) -> Result<Opened<dyn Publisher>, Error>;
    /// A consuming connection for one of the subscriptions.
    ///
    /// # Errors
    /// The server refused.
    fn consumer(&mut self, subscription: usize, prefetch: usize) -> Result<Opened<dyn Consumer>, Error>;
    /// Ends it and removes what the run left in it.
    fn stop(&mut self);
}
