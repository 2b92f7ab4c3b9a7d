//! Topics and their subscriptions as pure state machines: time is an argument, and nothing here waits, reads or writes.
//!
//! An event is stored and indexed once, however many subscriptions its topic has. It stands in the [`lane`] of its priority; a
//! [`subscription`] is a position in each lane plus a small set of exceptions: in flight, requeued, delayed, settled out of
//! order. [`topic`] puts both together. Invariants that others rely on:
//!
//! - An event is freed when every subscription that existed when it was published has settled it, and not before.
//! - A subscription delivers the most urgent event that is visible, due and not blocked; among equals the oldest.
//! - What an event costs in memory while it waits does not depend on the number of subscriptions, nor, beyond the budget for
//!   payloads, on its size.

mod flights;
mod ids;
mod lane;
mod log;
mod memory;
mod subscription;
#[cfg(test)]
mod tests;
mod topic;

pub use log::Released;
pub use memory::Memory;
pub use subscription::ClientId;
pub use topic::{
    Acknowledged, ConsumerId, Fate, LETTERS, Next, Outgoing, Peeked, Publication, SubscriptionId, Topic, Walk,
};
