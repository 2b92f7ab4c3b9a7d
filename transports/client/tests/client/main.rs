//! The client against a scripted peer on a real loopback socket. Each test plays the broker's part by hand, line by line,
//! so that what is on the wire is what is asserted.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests; clippy exempts `#[test]` functions only")]

mod connecting;
mod peer;
mod publishing;
mod subscribing;
