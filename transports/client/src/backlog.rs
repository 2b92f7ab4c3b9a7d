//! Deliveries that have been read and that the consumer has no room for yet.

use std::collections::VecDeque;

use tokio::sync::mpsc;

use crate::delivery::Delivery;
use crate::error::Error;

/// The most bytes of deliveries beyond those that the prefetch explains; an `ack_timeout` repeats deliveries.
const SLACK_BYTES: usize = 64 * 1024 * 1024;
/// The bytes that a delivery counts beyond its line.
const OVERHEAD: usize = 192;

/// Bounded twice: nothing is read for a full one unless an answer is due, and where it grows all the same, the other end
/// does not keep to the prefetch and the connection is given up.
#[derive(Debug)]
pub(crate) struct Backlog {
    deliveries: VecDeque<Delivery>,
    bytes: usize,
    prefetch: usize,
    most_bytes: usize,
}

impl Backlog {
    pub(crate) fn new(prefetch: usize) -> Self {
        Self { deliveries: VecDeque::new(), bytes: 0, prefetch, most_bytes: SLACK_BYTES }
    }

    /// Bounds the backlog of a connection whose lines have up to `max_line_bytes`.
    pub(crate) fn expect_lines(&mut self, max_line_bytes: usize) {
        let explained = max_line_bytes.saturating_mul(self.prefetch.saturating_mul(2));
        self.most_bytes = SLACK_BYTES.saturating_add(explained);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.deliveries.is_empty()
    }

    /// Whether a prefetch's worth is waiting.
    pub(crate) fn is_full(&self) -> bool {
        self.deliveries.len() >= self.prefetch
    }

    /// # Errors
    /// [`Error::Protocol`]: far more than the prefetch.
    pub(crate) fn push(&mut self, delivery: Delivery) -> Result<(), Error> {
        self.bytes += weight(&delivery);
        self.deliveries.push_back(delivery);
        if self.bytes > self.most_bytes {
            return Err(Error::Protocol("deliveries far beyond the prefetch".to_owned()));
        }
        Ok(())
    }

    pub(crate) fn pop(&mut self) -> Option<Delivery> {
        let delivery = self.deliveries.pop_front()?;
        self.bytes -= weight(&delivery);
        Some(delivery)
    }

    pub(crate) fn clear(&mut self) {
        self.deliveries.clear();
        self.bytes = 0;
    }

    /// Hands over as many deliveries as the consumer has room for.
    pub(crate) fn hand_over(&mut self, consumer: &mpsc::Sender<Delivery>) {
        while !self.deliveries.is_empty()
            && let Ok(permit) = consumer.try_reserve()
            && let Some(delivery) = self.pop()
        {
            permit.send(delivery);
        }
    }
}

fn weight(delivery: &Delivery) -> usize {
    delivery.line().len() + OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::TopicName;

    #[test]
    fn it_is_full_at_the_prefetch_and_an_error_far_beyond_it() {
        let topic = TopicName::new("t").unwrap();
        let line = format!(r#"{{"topic":"t","priority":0,"msg":"{}","id":"1"}}"#, "x".repeat(1_000_000));
        let delivery = Delivery::parse(&line, &topic, 1).unwrap();
        let mut backlog = Backlog::new(2);
        backlog.expect_lines(1_100_000);
        backlog.push(delivery.clone()).unwrap();
        assert!(!backlog.is_full());
        backlog.push(delivery.clone()).unwrap();
        assert!(backlog.is_full());
        // Clones share their line, so this costs nothing.
        let refused = (0..100).find(|_| backlog.push(delivery.clone()).is_err());
        assert!(refused.is_some_and(|pushed| pushed > 50), "{refused:?}");
        while backlog.pop().is_some() {}
        assert_eq!(backlog.bytes, 0);
    }
}
