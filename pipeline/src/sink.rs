//! The seam between the tweet pipeline and where it stores: batches of documents in, what came of them out.
//!
//! | a kind of sink | where it is |
//! | --- | --- |
//! | SQLite, in a file of this machine | [`sqlite`] |
//! | MongoDB | `mongodb` |

#[cfg(feature = "mongodb")]
pub mod mongodb;
#[cfg(feature = "sqlite")]
pub mod sqlite;

use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

/// How many scores of a user are kept, the newest; the average is over all there ever were.
pub const KEPT_SCORES: usize = 100;

/// The collections (or tables) that documents are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Collection {
    /// Scored tweets, by the tweet's `id_str`.
    Tweets,
    /// Users as the feed showed them last, by the user's `id_str`.
    Users,
    /// What the scores of a user's tweets come to, by the user's `id_str`.
    UsersEngagements,
}

impl Collection {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tweets => "tweets",
            Self::Users => "users",
            Self::UsersEngagements => "users_engagements",
        }
    }
}

/// A document under its `_id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The `_id`: the `id_str` of the tweet or user.
    pub id: String,
    /// The whole of it as JSON text, an object whose first key is `_id`.
    pub json: String,
}

/// What a tweet's engagement score was made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngagementCounts {
    /// How often it was liked.
    pub favorite_count: u64,
    /// How often it was retweeted.
    pub retweet_count: u64,
    /// How many follow its author.
    pub followers_count: u64,
}

/// The score of one tweet, to be merged into its author's `users_engagements`: `{_id, id_str, count, avg, scores, meta}`.
///
/// A score is merged when its tweet is stored for the first time, and never again. `scores` and `meta` are the last
/// [`KEPT_SCORES`], oldest first, `avg` and `count` are over all. An entry of `meta` is
/// `{"tweet", "favorite_count", "retweet_count", "followers_count"}`.
#[derive(Debug, Clone, PartialEq)]
pub struct UserEngagement {
    /// The author's `id_str`.
    pub user: String,
    /// The tweet's `id_str`.
    pub tweet: String,
    /// The engagement score.
    pub score: f64,
    /// What it was made of.
    pub counts: EngagementCounts,
}

/// The hashtags of a tweet that came by itself, not inside a retweet. Kept by tweet, so that each is counted once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaggedTweet {
    /// The tweet's `id_str`.
    pub tweet: String,
    /// Its tags without `#`, case kept, each once; at least one.
    pub tags: Vec<String>,
}

/// How far a stream has been dealt with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamCursor {
    /// The stream's URL, without credentials.
    pub stream: String,
    /// The `Last-Event-ID` to resume at.
    pub last_event_id: String,
}

/// What the batcher collected, to be stored together.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// Scored tweets. One that is stored already stays as it is. An id can be there twice: the first counts.
    pub tweets: Vec<Document>,
    /// Users, which replace what is stored of them. An id can be there twice: the last counts.
    pub users: Vec<Document>,
    /// One for each of `tweets`, in the same order.
    pub engagements: Vec<UserEngagement>,
    /// What to count; a tweet that is counted already is not counted again.
    pub tagged: Vec<TaggedTweet>,
    /// Where the streams stand as of *earlier* batches: safe to write at any time, so also before the rest of this one.
    pub cursors: Vec<StreamCursor>,
}

impl Batch {
    /// Whether there is nothing to store.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tweets.is_empty()
            && self.users.is_empty()
            && self.engagements.is_empty()
            && self.tagged.is_empty()
            && self.cursors.is_empty()
    }
}

/// What came of a batch that is safe.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stored {
    /// How many tweets were new.
    pub tweets: u64,
    /// How many users were new or changed.
    pub users: u64,
    /// How many scores were merged.
    pub engagements: u64,
    /// Which entries of [`Batch::tagged`] had not been counted before.
    pub counted: Vec<usize>,
    /// What the sink will never take.
    pub poison: Vec<Poison>,
    /// How long each bulk write to `tweets` took.
    pub tweets_took: Vec<Duration>,
    /// How long each bulk write to `users` and `users_engagements` took.
    pub users_took: Vec<Duration>,
}

/// A document that the sink will never take, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Poison {
    /// Where it should have gone; `None`: it was not even a tweet.
    pub collection: Option<Collection>,
    /// The document's `_id`, or the event id of what was no tweet; may be empty.
    pub id: String,
    /// The document, or the text that was no tweet.
    pub document: String,
    /// What is wrong with it, for people.
    pub reason: String,
}

/// Nothing can be stored at the moment.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{reason}")]
pub struct SinkError {
    /// What happened, for an operator.
    pub reason: String,
    /// The cause.
    #[source]
    pub cause: Option<Arc<dyn Error + Send + Sync>>,
}

impl SinkError {
    /// An error with its cause.
    pub fn new(reason: impl Into<String>, cause: impl Error + Send + Sync + 'static) -> Self {
        Self { reason: reason.into(), cause: Some(Arc::new(cause)) }
    }
}

/// Where the pipeline stores.
///
/// # Contract
///
/// - **Idempotence.** Storing a batch again, whole or after any part of it was stored, changes nothing: kills and retries repeat batches.
/// - **Durability.** What [`store`](Self::store) answered for survives a crash of this process and of the machine.
/// - **Poison.** A document that can never be stored is named in the answer and keeps nothing else of its batch from being stored.
/// - **Failure.** An error means that the same batch may work later; the caller tries it again for ever, with backoff.
#[async_trait]
pub trait Sink: Send + Sync + 'static {
    /// Stores a batch; completes when all of it is safe. Dropping the call leaves open what was stored.
    ///
    /// # Errors
    /// When nothing can be stored at the moment; any part of the batch may have been.
    async fn store(&self, batch: Arc<Batch>) -> Result<Stored, SinkError>;

    /// Where `stream` stands, as the last batch with its cursor had it.
    ///
    /// # Errors
    /// When it cannot be read at the moment.
    async fn cursor(&self, stream: &str) -> Result<Option<String>, SinkError>;

    /// How often each hashtag was counted, over all batches.
    ///
    /// # Errors
    /// When it cannot be read at the moment.
    async fn hashtags(&self) -> Result<HashMap<String, u64>, SinkError>;

    /// How many calls of [`store`](Self::store) it makes use of at a time. With more than one, they may be carried out in any order.
    fn at_once(&self) -> usize {
        1
    }

    /// Closes what is open. Called once, after the last batch.
    async fn close(&self) {}
}
