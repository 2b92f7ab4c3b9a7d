//! The engagement score: likes and retweets per follower.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::aggregator::{Half, Score};
use super::logger::Logged;
use crate::sink::EngagementCounts;

/// `(favorite_count + retweet_count) / followers_count`; divided by 1 without followers. Finite and not negative for any counts.
#[must_use]
pub fn engagement_score(counts: EngagementCounts) -> f64 {
    // As floats, so that the sum of two huge counts does not overflow.
    (counts.favorite_count as f64 + counts.retweet_count as f64) / counts.followers_count.max(1) as f64
}

/// The work of the pool on one tweet.
pub(super) async fn work(logged: Logged, aggregator: Arc<mpsc::Sender<Half>>) {
    let score = Score::Engagement(engagement_score(logged.tweet.counts));
    // As in `sentiment`.
    let _ = aggregator.send(Half { logged, score }).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_scored_by_the_rules() {
        for (favorite_count, retweet_count, followers_count, score) in [
            (0, 0, 0, 0.0),
            (3, 4, 0, 7.0),
            (3, 4, 1, 7.0),
            (1, 2, 4, 0.75),
            (0, 58, 213, 58.0 / 213.0),
            (u64::MAX, u64::MAX, 0, 2.0 * u64::MAX as f64),
        ] {
            let counts = EngagementCounts { favorite_count, retweet_count, followers_count };
            assert_eq!(engagement_score(counts), score, "{counts:?}");
        }
    }
}
