//! How to subscribe.

use std::num::NonZeroU16;

use crate::name::SubscriptionName;

/// How to subscribe.
///
/// ```
/// # use transport_client::SubscribeOptions;
/// let options = SubscribeOptions::durable("mailer".parse()?).prefetch(100);
/// # Ok::<(), transport_client::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct SubscribeOptions {
    pub(crate) name: Option<SubscriptionName>,
    pub(crate) prefetch: NonZeroU16,
    pub(crate) late_acks: bool,
}

impl Default for SubscribeOptions {
    /// Without a name, prefetch 1.
    fn default() -> Self {
        Self { name: None, prefetch: NonZeroU16::MIN, late_acks: false }
    }
}

impl SubscribeOptions {
    /// A durable subscription, which several connections may share.
    #[must_use]
    pub fn durable(name: SubscriptionName) -> Self {
        Self { name: Some(name), ..Self::default() }
    }

    /// How many events may be unsettled at a time, 1 to 65,535; 0 counts as 1. Throughput over a network needs some tens or
    /// hundreds. It is also what bounds this subscription's memory.
    #[must_use]
    pub fn prefetch(mut self, events: u16) -> Self {
        self.prefetch = NonZeroU16::new(events).unwrap_or(NonZeroU16::MIN);
        self
    }

    /// For a durable subscription: whether to acknowledge over the new connection what came over the one before. Spares
    /// handling an event twice, where handling takes long. Leave it off (the default) where publishers use an id again for
    /// something new: the broker knows events by their id, and the late acknowledgement would settle the successor,
    /// which the consumer has not seen.
    #[must_use]
    pub fn late_acks(mut self, send: bool) -> Self {
        self.late_acks = send;
        self
    }
}
