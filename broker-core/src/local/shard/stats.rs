//! The answers to `topics` and `stats`.

use std::sync::atomic::Ordering;

use super::Shard;
use crate::engine::{Outcome, Refusal, Stats, TopicStats, TopicSummary};
use crate::local::message::{Gather, Gathered, Part};
use crate::local::turn::ReplyTo;
use crate::name::TopicName;
use crate::queue::Topic;
use crate::source::SourceStatus;
use crate::storage::Storage;

/// The topics in one part of a long answer, at most; for figures a subscription counts as three.
const PAGE: usize = 2048;

impl<S: Storage + ?Sized> Shard<S> {
    /// Adds this shard's topics to a list of topics. The last shard answers.
    pub(super) fn topics(&mut self, to: ReplyTo, gather: &Gather<TopicSummary>) {
        let (topics, cut) = part(self.queues.topics.iter(), &gather.of, |_| 1);
        let summaries = topics.into_iter().map(|topic| (topic.name().clone(), topic.summary())).collect();
        if let Some(Gathered { topics, complete_to: next }) = gather.add(summaries, cut) {
            let topics = topics.into_iter().map(|(_, summary)| summary).collect();
            self.queues.turn.reply(
                to,
                match gather.of {
                    Part::All => Outcome::Topics(topics),
                    Part::After(_) => Outcome::TopicsPage { topics, next },
                },
            );
        }
    }

    /// Adds this shard's figures to those of the topics. The last shard answers.
    pub(super) fn stats(&mut self, to: ReplyTo, gather: &Gather<TopicStats>) {
        let now = self.queues.turn.now();
        let (topics, cut) = part(self.queues.topics.iter(), &gather.of, |topic| 1 + 3 * topic.subscriptions());
        let stats = topics.into_iter().map(|topic| (topic.name().clone(), topic.stats(now))).collect();
        if let Some(Gathered { topics, complete_to: next }) = gather.add(stats, cut) {
            let stats =
                self.all_stats(topics.into_iter().map(|(_, stats)| stats).collect(), Some(self.shared.sources.list()));
            self.queues.turn.reply(
                to,
                match gather.of {
                    Part::All => Outcome::Stats(stats),
                    Part::After(_) => Outcome::StatsPage { stats, next },
                },
            );
        }
    }

    /// Answers with the figures of one topic.
    pub(super) fn topic_stats(&mut self, to: ReplyTo, name: TopicName) {
        let topic = self.queues.topics.find(&name).and_then(|at| self.queues.topics.get(at));
        match topic.map(|topic| topic.stats(self.queues.turn.now())) {
            None => self.refuse(to, Refusal::NoSuchTopic(name)),
            Some(stats) => {
                let stats = self.all_stats(vec![stats], None);
                self.queues.turn.reply(to, Outcome::Stats(stats));
            }
        }
    }

    fn all_stats(&self, topics: Vec<TopicStats>, sources: Option<Vec<SourceStatus>>) -> Box<Stats> {
        Box::new(Stats {
            version: self.shared.version,
            uptime_ms: self.shared.clock.uptime_ms(),
            connections: self.shared.connections.load(Ordering::Relaxed),
            sources,
            topics,
        })
    }
}

/// The topics that a question is about; beyond a page, the first ones by name, and the last of them.
fn part<'a>(
    topics: impl Iterator<Item = &'a Topic>,
    of: &Part,
    weight: impl Fn(&Topic) -> usize,
) -> (Vec<&'a Topic>, Option<TopicName>) {
    let Part::After(after) = of else { return (topics.collect(), None) };
    let mut topics: Vec<&Topic> =
        topics.filter(|topic| after.as_ref().is_none_or(|after| topic.name() > after)).collect();
    let by_name = |a: &&Topic, b: &&Topic| a.name().cmp(b.name());
    let found = topics.len();
    if found > PAGE {
        topics.select_nth_unstable_by(PAGE, by_name);
        topics.truncate(PAGE);
    }
    topics.sort_unstable_by(by_name);
    let mut filled = 0;
    let end = topics.iter().position(|topic| {
        let full = filled >= PAGE;
        filled += weight(topic);
        full
    });
    topics.truncate(end.unwrap_or(topics.len()));
    let cut = topics.last().filter(|_| topics.len() < found).map(|topic| topic.name().clone());
    (topics, cut)
}
