//! Merges scores into the documents of `users_engagements`.
//!
//! A busy user's document has a hundred scores, and every tweet of that user changes it. The documents are therefore cached, and their
//! two lists are kept as JSON text: a new entry is rendered and appended, and the oldest is cut off the front. Merging a score
//! renders one entry instead of two hundred; a document is parsed only when it is read from the file.
//!
//! # Invariants
//!
//! - The cache is ahead of the file only for the users in `changed`, and only within a transaction: [`Engagements::write`] writes
//!   them before the commit.
//! - After a failed transaction, or a commit by another program, the cache no longer matches the file and is [cleared](Engagements::clear).

use std::collections::{HashMap, VecDeque};

use rusqlite::{OptionalExtension as _, Transaction};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::{KEPT_SCORES, UserEngagement};

/// The number of documents in `recent` at which it becomes `older`, checked at the end of a transaction. The cache thus holds about twice
/// as many, at up to 12 kB each.
const CACHED: usize = 2_048;

/// A JSON list of the newest entries, without its brackets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Newest {
    text: String,
    /// The length of each entry, without the comma after it.
    lengths: VecDeque<usize>,
}

impl Newest {
    fn push(&mut self, entry: &str) {
        if self.lengths.len() >= KEPT_SCORES
            && let Some(oldest) = self.lengths.pop_front()
        {
            // The comma after it goes too; the only entry of a list has none.
            self.text.drain(..(oldest + 1).min(self.text.len()));
        }
        if !self.lengths.is_empty() {
            self.text.push(',');
        }
        self.text.push_str(entry);
        self.lengths.push_back(entry.len());
    }
}

/// A user's merged scores.
#[derive(Debug, Clone, Default, PartialEq)]
struct Engagement {
    count: u64,
    avg: f64,
    scores: Newest,
    meta: Newest,
    changed: bool,
}

#[derive(Deserialize)]
struct Stored<'a> {
    count: u64,
    avg: f64,
    #[serde(borrow)]
    scores: Vec<&'a RawValue>,
    #[serde(borrow)]
    meta: Vec<&'a RawValue>,
}

impl Engagement {
    fn parse(doc: &str) -> serde_json::Result<Self> {
        let stored: Stored<'_> = serde_json::from_str(doc)?;
        let mut engagement = Self { count: stored.count, avg: stored.avg, ..Self::default() };
        stored.scores.iter().for_each(|score| engagement.scores.push(score.get()));
        stored.meta.iter().for_each(|meta| engagement.meta.push(meta.get()));
        Ok(engagement)
    }

    fn add(&mut self, one: &UserEngagement) {
        self.count += 1;
        // A running mean, without the sum, which could grow beyond what a float represents exactly.
        self.avg += (one.score - self.avg) / self.count as f64;
        self.scores.push(&json(&one.score));
        let counts = &one.counts;
        let meta = format!(
            "{{\"tweet\":{},\"favorite_count\":{},\"retweet_count\":{},\"followers_count\":{}}}",
            json(&one.tweet),
            counts.favorite_count,
            counts.retweet_count,
            counts.followers_count
        );
        self.meta.push(&meta);
        self.changed = true;
    }

    fn doc(&self, user: &str) -> String {
        let user = json(user);
        let (count, avg) = (self.count, json(&self.avg));
        let (scores, meta) = (&self.scores.text, &self.meta.text);
        format!(
            "{{\"_id\":{user},\"id_str\":{user},\"count\":{count},\"avg\":{avg},\"scores\":[{scores}],\"meta\":[{meta}]}}"
        )
    }
}

fn json(value: &(impl serde::Serialize + ?Sized)) -> String {
    serde_json::to_string(value).expect("strings and numbers are JSON")
}

/// A cache of documents in two generations, so that dropping the least recently used needs no bookkeeping per use.
#[derive(Debug, Default)]
pub(super) struct Engagements {
    /// The documents used since the last rotation.
    recent: HashMap<String, Engagement>,
    /// The documents of the generation before. One that is used again moves to `recent`; the rest are dropped at the next rotation.
    older: HashMap<String, Engagement>,
    /// The users whose documents have changes that are not in the file.
    changed: Vec<String>,
}

impl Engagements {
    /// Empties the cache, because it may differ from the file.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Merges the score of a tweet that was just stored for the first time.
    pub(super) fn add(&mut self, transaction: &Transaction<'_>, one: &UserEngagement) -> rusqlite::Result<()> {
        let engagement = match self.recent.get_mut(&one.user) {
            Some(engagement) => engagement,
            None => {
                let engagement = match self.older.remove(&one.user) {
                    Some(engagement) => engagement,
                    None => read(transaction, &one.user)?,
                };
                self.recent.entry(one.user.clone()).or_insert(engagement)
            }
        };
        if !engagement.changed {
            self.changed.push(one.user.clone());
        }
        engagement.add(one);
        Ok(())
    }

    /// Writes each changed document once, however many scores it received.
    pub(super) fn write(&mut self, transaction: &Transaction<'_>) -> rusqlite::Result<()> {
        let mut upsert = transaction.prepare_cached(
            "INSERT INTO users_engagements(id_str, doc) VALUES (?1, ?2) ON CONFLICT(id_str) DO UPDATE SET doc = excluded.doc",
        )?;
        for user in self.changed.drain(..) {
            if let Some(engagement) = self.recent.get_mut(&user) {
                upsert.execute((&user, engagement.doc(&user)))?;
                engagement.changed = false;
            }
        }
        // Rotation happens only here, where no change is unwritten: `older` never holds one.
        if self.recent.len() >= CACHED {
            self.older = std::mem::take(&mut self.recent);
        }
        Ok(())
    }
}

fn read(transaction: &Transaction<'_>, user: &str) -> rusqlite::Result<Engagement> {
    let mut select = transaction.prepare_cached("SELECT doc FROM users_engagements WHERE id_str = ?1")?;
    let doc: Option<String> = select.query_row([user], |row| row.get(0)).optional()?;
    let Some(doc) = doc else { return Ok(Engagement::default()) };
    Engagement::parse(&doc).or_else(|error| {
        // The sink itself writes no such document. Replacing it costs one user's earlier scores; an error would block this batch,
        // and with it the pipeline, until the file is repaired.
        tracing::error!(user, %error, "replacing an unreadable document of users_engagements: the user's earlier scores are lost");
        Ok(Engagement::default())
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::EngagementCounts;
    use super::*;

    fn one(tweet: usize, score: f64) -> UserEngagement {
        let counts = EngagementCounts { favorite_count: tweet as u64, retweet_count: 0, followers_count: 1 };
        UserEngagement { user: "u".to_owned(), tweet: format!("t\"{tweet}"), score, counts }
    }

    #[test]
    fn the_last_hundred_are_kept_and_the_average_is_over_all() {
        let mut engagement = Engagement::default();
        for tweet in 1..=250 {
            engagement.add(&one(tweet, tweet as f64 / 2.0));
            let doc: serde_json::Value = serde_json::from_str(&engagement.doc("u")).unwrap();
            let scores: Vec<f64> =
                doc["scores"].as_array().unwrap().iter().map(|score| score.as_f64().unwrap()).collect();
            let first = tweet.saturating_sub(KEPT_SCORES) + 1;
            assert_eq!(scores, (first..=tweet).map(|tweet| tweet as f64 / 2.0).collect::<Vec<_>>());
            let meta = doc["meta"].as_array().unwrap();
            assert_eq!(meta.len(), scores.len());
            assert_eq!(meta[0]["tweet"], format!("t\"{first}"));
            let avg = (tweet + 1) as f64 / 4.0;
            assert!((doc["avg"].as_f64().unwrap() - avg).abs() < 1e-9 * avg, "{doc}");
            assert_eq!(doc["count"], tweet);
        }
        let again = Engagement::parse(&engagement.doc("u")).unwrap();
        assert_eq!(again, Engagement { changed: false, ..engagement });
    }
}
