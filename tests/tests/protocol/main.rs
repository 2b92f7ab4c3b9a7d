//! The protocol, sentence by sentence, over real sockets.
#![allow(clippy::unwrap_used, reason = "a step that fails must fail the test")]

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
