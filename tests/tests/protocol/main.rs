//! PROTOCOL, sentence by sentence, over real sockets.
#![allow(clippy::unwrap_used, reason = "what a test cannot go on without fails it")]

mod acknowledgements;
mod core;
mod events;
mod framing;
mod hello;
mod limits;
mod looking_around;
mod replacing;
mod subscriptions;
