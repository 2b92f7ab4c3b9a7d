//! Going on with a client that did not take what was sent to it, and has taken it now.

use std::collections::{HashSet, VecDeque};

use super::super::turn::TopicAt;
use super::{Attachment, Shard};
use crate::queue::ClientId;
use crate::storage::Storage;

/// Topics in which a client had its turn while it had no room, the one that has waited longest first, and each once.
#[derive(Default)]
pub(super) struct Unserved {
    order: VecDeque<TopicAt>,
    all: HashSet<TopicAt>,
}

impl Unserved {
    pub(super) fn push(&mut self, at: TopicAt) {
        if self.all.insert(at) {
            self.order.push_back(at);
        }
    }

    fn pop(&mut self) -> Option<TopicAt> {
        let at = self.order.pop_front()?;
        self.all.remove(&at);
        Some(at)
    }
}

impl<S: Storage + ?Sized> Shard<S> {
    /// Serves a client that has room again, for as long as it has. A client may consume thousands of topics, so only those are looked
    /// at in which it was passed over; and in turn, since the first of them may have enough to fill its room each time.
    pub(super) fn resume(&mut self, client: ClientId) {
        let waiting = self.clients.get(&client).map_or(0, |client| client.unserved.order.len());
        for _ in 0..waiting {
            // Without room the client is marked once more, and is back here when it has.
            let Some(state) = self.clients.get_mut(&client).filter(|client| client.gauge.has_room()) else { return };
            let Some(at) = state.unserved.pop() else { return };
            // It may have left the topic.
            let Some(Attachment { sub, consumer, .. }) = state.attachments.get(&at).copied() else { continue };
            self.with(at, |topic, _| topic.resume(sub, consumer));
            self.pump(at, sub);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_topic_waits_once_and_in_turn() {
        let mut unserved = Unserved::default();
        [3, 1, 3, 2, 1].into_iter().for_each(|at| unserved.push(at));
        assert_eq!(unserved.pop(), Some(3));
        unserved.push(3);
        assert_eq!([(); 4].map(|()| unserved.pop()), [Some(1), Some(2), Some(3), None]);
    }
}
