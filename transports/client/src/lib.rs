//! The other end of Herald's wire: a client for the broker's line protocol over TCP and WebSocket, with TLS or without.
//!
//! A [`Client`] publishes with confirmations and makes [`Subscription`]s; both reconnect by themselves. A [`Connection`] is
//! the protocol by hand, a line out and a line in, for commands such as `topics`, `stats` or `peek`.
//!
//! ```no_run
//! use transport_client::{Client, ClientConfig, Error, Event, SubscribeOptions};
//!
//! # async fn run() -> Result<(), Error> {
//! let client = Client::connect(ClientConfig::new("127.0.0.1:8000".parse()?).name("example")).await?;
//! let topic = "tweets".parse()?;
//!
//! // A durable subscription: it outlives this connection, and whoever else attaches to the name shares its events.
//! let options = SubscribeOptions::durable("archive".parse()?).prefetch(100);
//! let mut subscription = client.subscribe("tweets".parse()?, options).await?;
//!
//! // One event, confirmed.
//! let confirmation = client.publish(&topic, Event::json("hello")?.with_priority(3)).await?;
//! println!("{} is {:?} at {:?}", confirmation.id, confirmation.outcome, confirmation.level);
//!
//! // Many, pipelined. `send` waits for room only; what it returns is the confirmation.
//! let publisher = client.publisher(topic);
//! let mut pending = Vec::new();
//! for n in 0..1000 {
//!     pending.push(publisher.send(Event::json(&n)?).await?);
//! }
//! for confirmation in pending {
//!     confirmation.await?;
//! }
//!
//! while let Some(delivery) = subscription.next().await {
//!     println!("{}: {}", delivery.id(), delivery.msg());
//!     subscription.ack(&delivery).await?;
//! }
//! println!("over: {:?}", subscription.end_reason());
//! client.close().await
//! # }
//! ```
//!
//! # Connections
//!
//! Publishing has one connection, shared by all clones of a client, and each subscription has its own: `hello` sets one
//! prefetch for a whole connection, a slow consumer may then stop its reading without stopping anybody else, and no
//! reply has to be told from those of another user. [`Client::lazy`] is for programs that only subscribe: it makes the
//! publishing connection when something is published.
//!
//! # What is promised
//!
//! - **Publishing is at least once.** What is unconfirmed when a connection is lost is sent again over the next one, in
//!   order, before anything new. Every event has an id (a UUIDv7 where the caller gave none) and the broker replaces a
//!   *waiting* event of the same id, so the repetition is harmless unless the first copy has been handed to a consumer
//!   already; that consumer sees it twice. A topic with `duplicate_id = "reject"` answers it with an error, reported
//!   as [`Outcome::AlreadyThere`]; one with `keep` keeps both.
//! - **Consuming is at least once.** What is not acknowledged comes again, to a durable subscription. A subscription
//!   without a name is forgotten by the broker with its connection; it begins anew, and
//!   [`Subscription::resubscribed`] and [`Delivery::connection`] show where events may be missing.
//! - **An acknowledgement belongs to the connection its delivery came over.** Over another one it is not sent but answered
//!   [`Settled::ConnectionLost`]: the broker knows events by their id only, and an id may have been used again for
//!   an event not seen yet. Where ids are unique, [`SubscribeOptions::late_acks`] spares the second delivery.
//!   Likewise [`Subscription::ack_all`] acknowledges what was handed out, and not what is still on its way.
//! - **Reconnecting** waits with jittered exponential backoff ([`BackoffSettings`]), reset by a session that worked and not
//!   by a connect. A broker that is unreachable, silent or full is tried again, indefinitely by default. A refused token, a
//!   refused subscription and a removed one are final. A strange greeting is final too, unless a broker
//!   has been there before.
//! - **Memory is bounded** by [`ClientConfig`] and the prefetch, a hostile broker included. When the publishing queue is
//!   full, [`Client::send`] waits; when acknowledgements are, `ack` waits; a consumer that does not take its deliveries
//!   stops the reading of its socket.
//! - **Dropping** the last handle closes the socket at once. `close()` is the orderly end.
//!
//! # Map
//!
//! | module | what is in it |
//! | --- | --- |
//! | `address`, `config`, `options`, `name`, `event` | what the caller gives: checked once, valid from then on |
//! | `lines`, `reply`, `delivery`, `window`, `backoff`, `backlog` | pure: bytes to lines, lines to meaning, whose answer it is |
//! | `link` | one connection: greeted, bytes both ways |
//! | `dial`, `tls`, `web_socket` | what carries the bytes, by the address's scheme; where a further transport goes in |
//! | `client`, `publish_task` | publishing: the handles, and the task that owns what is unconfirmed |
//! | `subscription`, `acker`, `subscription_task` | subscribing: the handles, and the task that owns the deliveries |
//! | `connection` | the protocol by hand |
//! | `remote` | a broker elsewhere as what sources publish to (feature `remote`) |
//! | `state`, `error` | what the caller is told |

mod acker;
mod address;
mod backlog;
mod backoff;
mod client;
mod config;
mod connection;
mod delivery;
mod dial;
mod error;
mod event;
mod lines;
mod link;
mod name;
mod options;
mod publish_task;
#[cfg(feature = "remote")]
mod remote;
mod reply;
mod state;
mod subscription;
mod subscription_task;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "ws")]
mod web_socket;
mod window;

pub use acker::Acker;
pub use address::{Address, Scheme};
pub use backoff::BackoffSettings;
pub use client::{Client, PendingConfirmation, Publisher};
pub use config::{ClientConfig, Token};
pub use connection::{Connection, PeekPage};
pub use delivery::Delivery;
pub use error::Error;
pub use event::Event;
pub use name::{EventId, SubscriptionName, TopicName};
pub use options::SubscribeOptions;
#[cfg(feature = "remote")]
pub use remote::{CursorError, OpenError, RemotePublisher};
pub use reply::{Confirmation, Level, Outcome, ServerInfo};
pub use state::ConnectionState;
pub use subscription::Subscription;
pub use window::Settled;
