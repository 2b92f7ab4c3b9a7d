//! The past deliveries of an event in one subscription.

/// The past deliveries of an event, whether it is waiting, in flight or a dead letter. The default is an event that has never been
/// delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct History {
    /// The number of deliveries, including the current one if the event is in flight.
    pub(super) deliveries: u32,
    /// The number of the latest delivery among all of the subscription, counted from 1; 0 if there was none since the broker started.
    pub(super) order: u64,
    /// The milliseconds in flight before the current delivery, which do not count towards the time to live.
    pub(super) grace_ms: u64,
}
