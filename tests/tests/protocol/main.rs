//! PROTOCOL, sentence by sentence, over real sockets.
#![allow(clippy::unwrap_used, reason = "what a test cannot go on without fails it")]

mod acknowledgements;
mod coming_back;
mod configuration;
mod core;
mod delays;
mod events;
mod framing;
mod fullness;
mod hello;
mod ids;
mod letters;
mod limits;
mod looking_around;
mod operating;
mod order;
mod overflow;
mod replacing;
mod sharing;
mod subscriptions;
mod words;
