//! The MongoDB sink.
//!
//! | collection | `_id` | other fields |
//! | --- | --- | --- |
//! | `tweets` | the tweet's `id_str` | the document; an existing one is kept |
//! | `users` | the user's `id_str` | the document; the last one wins |
//! | `users_engagements` | the user's `id_str` | `id_str`, `count`, `avg`, `scores`, `meta` |
//! | `tagged_tweets` | the tweet's `id_str` | `tags`: a tweet whose hashtags are counted; `by`: the batch that counted them |
//! | `pipeline_cursors` | the stream's URL | `last_event_id` |
//!
//! All writes are unordered bulk upserts that wait for a majority to journal them.
//!
//! # Why each score is merged once, whenever the process is killed
//!
//! Scores are merged before their tweets are stored. A stored tweet therefore has its score merged already, and is skipped. A
//! tweet that is not stored may have been merged by an unfinished attempt: its id is then in `meta`, and the update, which is
//! atomic, skips it.
//! `meta` holds the last 100 ids: a batch with more tweets of one user is stored in rounds, so no tweet is pushed out of `meta`
//! before it is stored. One batch is stored at a time, for the same reason. One case remains: if this process is killed between
//! the two steps, and more than 100 *other* tweets of that user arrive before that tweet arrives again, it is merged twice.

mod bulk;
mod engagements;
mod json;
mod plugin;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::Hasher as _;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bson::{Document as Bson, doc};
use futures_util::TryStreamExt as _;
use mongodb::{Client, Database};
use siphasher::sip128::{Hasher128 as _, SipHasher13};
use tokio::sync::OnceCell;

use self::bulk::{Written, write};
pub use self::plugin::PLUGIN;
use super::{Batch, Collection, KEPT_SCORES, Poison, SinkError, Stored, TaggedTweet, TweetSink};
use pipeline_mongodb as mongo;

/// The database unless the connection string names one: the reference system's.
pub const DEFAULT_DATABASE: &str = "rtp_sse_db";

const TAGGED: &str = "tagged_tweets";
const CURSORS: &str = "pipeline_cursors";

/// The sink.
pub struct MongoSink {
    uri: String,
    database: String,
    client: OnceCell<Client>,
    /// Distinguishes this process's batches from those of other processes.
    nonce: u128,
    /// Batches with a failed attempt: the tweets it had counted are found by a query.
    failed: Mutex<HashSet<String>>,
}

impl MongoSink {
    /// A sink at `uri`, a connection string that may name the database. Does not connect yet: while a server is down,
    /// the batches are retried.
    ///
    /// # Errors
    /// If the connection string is invalid; the error text does not quote it, as it may hold secrets.
    pub fn new(uri: impl Into<String>) -> Result<Self, SinkError> {
        let uri = uri.into();
        let parsed = mongo::parse(&uri).map_err(|reason| SinkError { reason, cause: None })?;
        let database = parsed.default_database.unwrap_or_else(|| DEFAULT_DATABASE.to_owned());
        Ok(Self { uri, database, client: OnceCell::new(), nonce: rand::random(), failed: Mutex::default() })
    }

    /// The name of the database.
    #[must_use]
    pub fn database_name(&self) -> &str {
        &self.database
    }

    async fn database(&self) -> Result<Database, SinkError> {
        let client = self.client.get_or_try_init(|| mongo::client(&self.uri)).await;
        Ok(client.map_err(|error| failure("connect", &error))?.database(&self.database))
    }

    /// An id that is equal for all attempts at one batch, and different for every other batch.
    fn batch_id(&self, batch: &Batch) -> String {
        let mut hasher = SipHasher13::new();
        hasher.write_u128(self.nonce);
        for tagged in &batch.tagged {
            hasher.write(tagged.tweet.as_bytes());
            hasher.write_u8(0xff);
        }
        format!("{:032x}", hasher.finish128().as_u128())
    }

    async fn try_store(&self, batch: &Batch, batch_id: &str, again: bool) -> Result<Stored, SinkError> {
        let database = self.database().await?;
        let mut stored = Stored::default();
        let (tweets, users, tagged, cursors) = tokio::join!(
            store_tweets(&database, batch),
            store_users(&database, batch),
            store_tagged(&database, &batch.tagged, batch_id, again),
            store_cursors(&database, batch),
        );
        // All of them have ended, so no late write interferes with the next attempt.
        let (tweets, users) = (tweets?, users?);
        stored.counted = tagged?;
        cursors?;
        stored.tweets = tweets.tweets;
        stored.engagements = tweets.engagements;
        stored.users = users.users;
        stored.poison = tweets.poison.into_iter().chain(users.poison).collect();
        stored.tweets_took = tweets.tweets_took;
        stored.users_took = users.users_took.into_iter().chain(tweets.users_took).collect();
        Ok(stored)
    }
}

impl fmt::Debug for MongoSink {
    /// Omits the connection string, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MongoSink").field("database", &self.database).finish_non_exhaustive()
    }
}

fn failure(what: &str, error: &mongodb::error::Error) -> SinkError {
    SinkError { reason: format!("MongoDB: cannot {what}: {}", mongo::brief(error)), cause: None }
}

/// One document of a batch in progress.
struct Item {
    id: String,
    document: Bson,
    /// The document as received, for the dead letters.
    json: String,
}

/// The valid documents, each with whether it is the one that counts for its id.
fn parse(documents: &[super::Document], collection: Collection, poison: &mut Vec<Poison>) -> Vec<Option<Item>> {
    let parsed = documents.iter().map(|document| match json::to_bson(&document.json) {
        Ok(bson) => Some(Item { id: document.id.clone(), document: bson, json: document.json.clone() }),
        Err(reason) => {
            poison.push(Poison {
                collection: Some(collection),
                id: document.id.clone(),
                document: document.json.clone(),
                reason,
            });
            None
        }
    });
    parsed.collect()
}

/// Stores tweets in rounds, merging their scores first.
async fn store_tweets(database: &Database, batch: &Batch) -> Result<Stored, SinkError> {
    let mut stored = Stored::default();
    let items = parse(&batch.tweets, Collection::Tweets, &mut stored.poison);
    let ids: Vec<&str> = batch.tweets.iter().map(|tweet| tweet.id.as_str()).collect();
    let mut seen = known(database, &ids).await?;
    // New tweets with their scores, the first of each id; a round has at most as many of one user as `meta` keeps.
    let mut rounds: Vec<Vec<(Item, usize)>> = Vec::new();
    let mut of_user: HashMap<&str, usize> = HashMap::new();
    for (index, item) in items.into_iter().enumerate() {
        let Some(item) = item.filter(|item| !seen.contains(&item.id)) else { continue };
        seen.insert(item.id.clone());
        let user = batch.engagements.get(index).map_or("", |engagement| engagement.user.as_str());
        let count = of_user.entry(user).or_default();
        let round = *count / KEPT_SCORES;
        *count += 1;
        if rounds.len() <= round {
            rounds.resize_with(round + 1, Vec::new);
        }
        rounds[round].push((item, index));
    }
    for round in rounds {
        let scores = round.iter().filter_map(|(_, index)| batch.engagements.get(*index)).collect::<Vec<_>>();
        let merged = write(database, Collection::UsersEngagements.as_str(), engagements::statements(&scores)).await?;
        merged.poison_into(Some(Collection::UsersEngagements), &mut stored.poison);
        stored.engagements += u64::try_from(scores.len()).unwrap_or(u64::MAX);
        stored.users_took.extend(merged.took);
        let upserts = round.into_iter().map(|(Item { id, document, json }, _)| bulk::Statement {
            statement: doc! { "q": { "_id": &id }, "u": { "$setOnInsert": document }, "upsert": true },
            id,
            json,
        });
        let written = write(database, Collection::Tweets.as_str(), upserts.collect()).await?;
        written.poison_into(Some(Collection::Tweets), &mut stored.poison);
        stored.tweets += written.upserted;
        stored.tweets_took.extend(written.took);
    }
    Ok(stored)
}

/// The subset of these tweets that is stored. Reads from the primary, so that recent writes are seen.
async fn known(database: &Database, ids: &[&str]) -> Result<HashSet<String>, SinkError> {
    if ids.is_empty() {
        return Ok(HashSet::new());
    }
    let read = |error| failure("read from tweets", &error);
    let tweets = database.collection::<Bson>(Collection::Tweets.as_str());
    let primary = mongodb::options::SelectionCriteria::ReadPreference(mongodb::options::ReadPreference::Primary);
    let found = tweets.find(doc! { "_id": { "$in": ids } }).projection(doc! { "_id": 1 }).selection_criteria(primary);
    let found: Vec<Bson> = found.await.map_err(read)?.try_collect().await.map_err(read)?;
    Ok(found.iter().filter_map(|document| document.get_str("_id").ok()).map(str::to_owned).collect())
}

async fn store_users(database: &Database, batch: &Batch) -> Result<Stored, SinkError> {
    let mut stored = Stored::default();
    let items = parse(&batch.users, Collection::Users, &mut stored.poison);
    // An unordered bulk write has no defined order, so only the last of each id is written.
    let mut seen = HashSet::new();
    let last = items.into_iter().flatten().rev().filter(|item| seen.insert(item.id.clone()));
    let upserts = last.map(|Item { id, document, json }| bulk::Statement {
        statement: doc! { "q": { "_id": &id }, "u": document, "upsert": true },
        id,
        json,
    });
    let written = write(database, Collection::Users.as_str(), upserts.collect()).await?;
    written.poison_into(Some(Collection::Users), &mut stored.poison);
    stored.users = written.upserted + written.modified;
    stored.users_took = written.took;
    Ok(stored)
}

/// The subset of `tagged` that this batch counted, now or in an earlier unfinished attempt.
async fn store_tagged(
    database: &Database,
    tagged: &[TaggedTweet],
    batch_id: &str,
    again: bool,
) -> Result<Vec<usize>, SinkError> {
    let mut places: HashMap<&str, usize> = HashMap::new();
    for (index, tagged) in tagged.iter().enumerate() {
        places.entry(&tagged.tweet).or_insert(index);
    }
    let upserts = places.values().map(|index| &tagged[*index]).map(|tagged| bulk::Statement {
        statement: doc! {
            "q": { "_id": &tagged.tweet },
            "u": { "$setOnInsert": { "tags": &tagged.tags, "by": batch_id } },
            "upsert": true,
        },
        id: tagged.tweet.clone(),
        json: String::new(),
    });
    let Written { new, .. } = write(database, TAGGED, upserts.collect()).await?;
    let mut counted: Vec<usize> = new.iter().filter_map(|id| places.get(id.as_str()).copied()).collect();
    if again && !places.is_empty() {
        let ids: Vec<&str> = places.keys().copied().collect();
        let read = |error| failure("read from tagged_tweets", &error);
        let collection = database.collection::<Bson>(TAGGED);
        let ours = collection.find(doc! { "_id": { "$in": ids }, "by": batch_id });
        let ours: Vec<Bson> =
            ours.projection(doc! { "_id": 1 }).await.map_err(read)?.try_collect().await.map_err(read)?;
        counted = ours.iter().filter_map(|document| places.get(document.get_str("_id").ok()?).copied()).collect();
    }
    counted.sort_unstable();
    Ok(counted)
}

async fn store_cursors(database: &Database, batch: &Batch) -> Result<(), SinkError> {
    // The last cursor of each stream.
    let last: HashMap<&str, &str> =
        batch.cursors.iter().map(|cursor| (cursor.stream.as_str(), cursor.last_event_id.as_str())).collect();
    let upserts = last.into_iter().map(|(stream, id)| bulk::Statement {
        statement: doc! { "q": { "_id": stream }, "u": { "last_event_id": id }, "upsert": true },
        id: stream.to_owned(),
        json: String::new(),
    });
    write(database, CURSORS, upserts.collect()).await.map(|_| ())
}

#[async_trait]
impl TweetSink for MongoSink {
    async fn store(&self, batch: Arc<Batch>) -> Result<Stored, SinkError> {
        let id = self.batch_id(&batch);
        let again = self.failed.lock().unwrap_or_else(PoisonError::into_inner).contains(&id);
        // Marked as failed until it succeeds, since the call may be dropped. At most one batch at a time adds an entry.
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone());
        let stored = self.try_store(&batch, &id, again).await?;
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).clear();
        Ok(stored)
    }

    async fn cursor(&self, stream: &str) -> Result<Option<String>, SinkError> {
        let read = |error| failure("read a cursor", &error);
        let cursors = self.database().await?.collection::<Bson>(CURSORS);
        let found = cursors.find_one(doc! { "_id": stream }).await.map_err(read)?;
        Ok(found.and_then(|found| found.get_str("last_event_id").ok().map(str::to_owned)))
    }

    async fn hashtags(&self) -> Result<HashMap<String, u64>, SinkError> {
        let read = |error| failure("count the hashtags", &error);
        let stages = [doc! { "$unwind": "$tags" }, doc! { "$group": { "_id": "$tags", "count": { "$sum": 1_i64 } } }];
        let tagged = self.database().await?.collection::<Bson>(TAGGED);
        let counts: Vec<Bson> =
            tagged.aggregate(stages).allow_disk_use(true).await.map_err(read)?.try_collect().await.map_err(read)?;
        let counts = counts.iter().filter_map(|count| {
            let tag = count.get_str("_id").ok()?.to_owned();
            Some((tag, count.get_i64("count").ok()?.unsigned_abs()))
        });
        Ok(counts.collect())
    }

    async fn close(&self) {
        if let Some(client) = self.client.get() {
            client.clone().shutdown().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_is_that_of_the_uri_or_else_of_the_reference_system() {
        assert_eq!(MongoSink::new("mongodb://h/mine").unwrap().database_name(), "mine");
        assert_eq!(MongoSink::new("mongodb://u:s3cret@h").unwrap().database_name(), "rtp_sse_db");
        let error = MongoSink::new("mongodb://u:s3cret@h:x").unwrap_err().to_string();
        assert!(error.contains("connection string") && !error.contains("s3cret"), "{error}");
        assert!(!format!("{:?}", MongoSink::new("mongodb://u:s3cret@h").unwrap()).contains("s3cret"));
    }
}
