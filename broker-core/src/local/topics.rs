//! The topics of one shard by place and by name, with their cost in memory.

use crate::name::TopicName;
use crate::queue::{Memory, Topic};
use crate::table::Table;

/// The place of a topic in its shard's [`TopicTable`].
///
/// A place outlives its topic, and another topic may take it over later. Code that keeps a place while it waits for another
/// shard therefore checks with [`TopicTable::is_still`] that the topic is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct TopicAt(usize);

#[cfg(test)]
impl TopicAt {
    pub(super) fn new(at: usize) -> Self {
        Self(at)
    }
}

/// The topics of one shard.
///
/// # Invariants
/// - `by_name` has exactly one entry for each topic, its place.
/// - `memory` is the sum of [`Topic::memory`] over all topics: [`TopicTable::change`] is the only way to a `&mut Topic`.
/// - `forgettable` is the number of topics for which [`Topic::is_forgettable`] holds.
/// - A place in `free` is referred to by no topic, commit, read or errand. The place of a removed topic goes to `resting`, because a
///   commit or a read may still return with it; [`TopicTable::reclaim`] frees it once none can.
pub(super) struct TopicTable {
    topics: Vec<Option<Box<Topic>>>,
    by_name: Table<TopicName, TopicAt>,
    free: Vec<TopicAt>,
    resting: Vec<TopicAt>,
    memory: Memory,
    forgettable: usize,
    budget: usize,
}

impl TopicTable {
    /// An empty table whose topics may cost `budget` bytes.
    pub(super) fn new(budget: usize) -> Self {
        Self {
            topics: Vec::new(),
            by_name: Table::default(),
            free: Vec::new(),
            resting: Vec::new(),
            memory: Memory::default(),
            forgettable: 0,
            budget,
        }
    }

    /// The number of topics.
    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Topic> {
        self.topics.iter().flatten().map(|topic| &**topic)
    }

    /// The places of all topics, in ascending order.
    pub(super) fn places(&self) -> Vec<TopicAt> {
        let occupied = self.topics.iter().enumerate().filter(|(_, topic)| topic.is_some());
        occupied.map(|(at, _)| TopicAt(at)).collect()
    }

    pub(super) fn find(&self, name: &TopicName) -> Option<TopicAt> {
        self.by_name.get(name).copied()
    }

    pub(super) fn get(&self, at: TopicAt) -> Option<&Topic> {
        self.topics[at.0].as_deref()
    }

    /// Whether the topic at `at` is `name`, and not one that has taken its place.
    pub(super) fn is_still(&self, at: TopicAt, name: &TopicName) -> bool {
        self.get(at).is_some_and(|topic| topic.name() == name)
    }

    /// Applies `f` to the topic at `at`, if there is one, and counts the difference in memory.
    pub(super) fn change<T>(&mut self, at: TopicAt, f: impl FnOnce(&mut Topic) -> T) -> Option<T> {
        let topic = self.topics[at.0].as_deref_mut()?;
        let (before, was_forgettable) = (topic.memory(), topic.is_forgettable());
        let result = f(topic);
        match (was_forgettable, topic.is_forgettable()) {
            (true, false) => self.forgettable -= 1,
            (false, true) => {
                self.forgettable += 1;
                topic.shrink();
            }
            _ => {}
        }
        self.memory.change(before, topic.memory());
        Some(result)
    }

    /// Adds a topic that the table does not contain yet.
    pub(super) fn insert(&mut self, topic: Topic) -> TopicAt {
        let name = topic.name().clone();
        self.memory.change(Memory::default(), topic.memory());
        self.forgettable += usize::from(topic.is_forgettable());
        let topic = Some(Box::new(topic));
        let at = if let Some(at) = self.free.pop() {
            self.topics[at.0] = topic;
            at
        } else {
            self.topics.push(topic);
            TopicAt(self.topics.len() - 1)
        };
        self.by_name.insert(name, at);
        at
    }

    /// The number of topics that can be forgotten.
    pub(super) fn forgettable(&self) -> usize {
        self.forgettable
    }

    /// Removes the topics that can be forgotten, and returns their names.
    pub(super) fn forget(&mut self) -> Vec<TopicName> {
        let mut names = Vec::with_capacity(self.forgettable);
        if self.forgettable == 0 {
            return names;
        }
        for (at, place) in self.topics.iter_mut().enumerate() {
            if let Some(topic) = place.take_if(|topic| topic.is_forgettable()) {
                self.memory.change(topic.memory(), Memory::default());
                self.by_name.remove(topic.name());
                self.resting.push(TopicAt(at));
                names.push(topic.name().clone());
            }
        }
        self.forgettable = 0;
        names
    }

    /// Removes the topic at `at` if it is empty, even if the configuration names it. Returns whether it did.
    pub(super) fn forget_at(&mut self, at: TopicAt) -> bool {
        let Some(topic) = self.topics[at.0].take_if(|topic| topic.is_idle()) else { return false };
        self.memory.change(topic.memory(), Memory::default());
        self.forgettable -= usize::from(topic.is_forgettable());
        self.by_name.remove(topic.name());
        self.resting.push(at);
        true
    }

    /// Frees the places of removed topics. Call it only while nothing can refer to them: no commit, read or errand is in
    /// progress, and the current turn stores no event.
    pub(super) fn reclaim(&mut self) {
        self.free.append(&mut self.resting);
    }

    /// Whether another payload may be kept in memory.
    pub(super) fn has_room_for_payloads(&self) -> bool {
        self.memory.payloads < self.memory.room_for_payloads(self.budget)
    }

    /// Evicts payloads that can be read back, from the topic with the most first, if they exceed their share of the budget.
    pub(super) fn stay_in_budget(&mut self) {
        let topics = &mut self.topics;
        self.memory.stay_within(self.budget, |excess| {
            let largest = topics.iter_mut().flatten().max_by_key(|topic| topic.memory().payloads);
            largest.map_or(0, |topic| topic.evict(excess))
        });
    }

    /// Whether `memory` and `forgettable` are the sums over the topics, for assertions.
    pub(super) fn is_counted(&self) -> bool {
        self.memory == self.iter().map(Topic::memory).sum()
            && self.forgettable == self.iter().filter(|topic| topic.is_forgettable()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::TopicPolicy;

    fn topic(name: &str) -> Topic {
        Topic::new(TopicName::new(name).expect("a good name"), TopicPolicy::default())
    }

    #[test]
    fn a_place_is_used_again_only_after_it_has_been_reclaimed() {
        let mut table = TopicTable::new(1 << 20);
        let first = table.insert(topic("first"));
        assert_eq!(table.forget(), [TopicName::new("first").expect("a good name")]);
        assert_eq!((table.len(), table.get(first).is_none()), (0, true));
        let second = table.insert(topic("second"));
        assert_ne!(first, second, "a read for the first topic may still come back");
        table.reclaim();
        let third = table.insert(topic("third"));
        assert_eq!(third, first);
        let name = TopicName::new("third").expect("a good name");
        assert!(table.is_still(third, &name) && !table.is_still(second, &name));
        assert_eq!(table.find(&name), Some(third));
        assert!(table.is_counted());
    }
}
