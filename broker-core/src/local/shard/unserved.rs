//! The topics to resume when a client has room again.

use std::collections::{HashSet, VecDeque};

use crate::local::topics::TopicAt;

/// The topics that skipped a client because its output had no room.
///
/// # Invariant
/// `order` and `all` hold the same topics, each once, longest waiting first.
///
/// A client may consume thousands of topics. A resume visits only the topics that skipped it, in rotation: the first of them
/// alone may have enough events to fill the output every time.
#[derive(Default)]
pub(super) struct Unserved {
    order: VecDeque<TopicAt>,
    all: HashSet<TopicAt>,
}

impl Unserved {
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    pub(super) fn push(&mut self, at: TopicAt) {
        if self.all.insert(at) {
            self.order.push_back(at);
        }
    }

    pub(super) fn pop(&mut self) -> Option<TopicAt> {
        let at = self.order.pop_front()?;
        self.all.remove(&at);
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_topic_waits_once_and_in_turn() {
        let mut unserved = Unserved::default();
        let at = TopicAt::new;
        [3, 1, 3, 2, 1].into_iter().for_each(|n| unserved.push(at(n)));
        assert_eq!(unserved.pop(), Some(at(3)));
        unserved.push(at(3));
        assert_eq!([(); 4].map(|()| unserved.pop()), [Some(at(1)), Some(at(2)), Some(at(3)), None]);
    }
}
