//! Topics and their subscriptions as pure state machines: time is an argument, and nothing here waits, reads or writes.
//!
//! An event is stored and indexed once, however many subscriptions its topic has. It stands in the [`lane`] of its priority; a
//! [`subscription`] is a position in each lane plus a small set of exceptions: in flight, come back, delayed, settled out of
//! order. [`topic`] combines both. Invariants that others rely on:
//!
//! - An event is freed when every subscription that existed when it was published has settled it, and not before.
//! - A subscription delivers the most urgent event that is visible, due and not blocked; among equals the oldest.
//! - The memory that a waiting event costs does not depend on the number of subscriptions, nor, beyond the budget for payloads, on
//!   its size.
//!
//! | to find | look in |
//! | --- | --- |
//! | what a shard calls: publish, deliver, acknowledge, purge, peek, recover | [`topic`] |
//! | which event is next, and what each subscription remembers | [`subscription`] |
//! | the events of a topic, shared by its subscriptions | [`log`] |
//! | the events of one priority, in chunks | [`lane`] |
//! | which events an id stands for | [`ids`] |
//! | events that are not visible yet; expiries and delays | [`pending`], [`times`] |
//! | deliveries that are not settled; the deliveries that an event has had | [`flights`], [`history`] |
//! | the budget for payloads in memory | [`memory`] |

mod flights;
mod history;
mod ids;
mod lane;
mod log;
mod memory;
mod pending;
mod subscription;
#[cfg(test)]
mod tests;
mod times;
mod topic;

pub use log::Released;
pub use memory::Memory;
pub use subscription::{ClientId, ConsumerId};
pub use topic::{Acknowledged, Fate, LETTERS, Next, Outgoing, Page, Peeked, Publication, SubscriptionId, Topic, Walk};
