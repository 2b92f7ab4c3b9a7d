//! The seam between the tweet pipeline and its storage: batches of documents in, their outcomes out.
//!
//! | kind of sink | implementation |
//! | --- | --- |
//! | SQLite, in a local file | [`sqlite`] |
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

/// The number of a user's newest scores that are kept; the average covers all scores ever merged.
pub const KEPT_SCORES: usize = 100;

/// The collections (or tables) that hold documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Collection {
    /// Scored tweets, by the tweet's `id_str`.
    Tweets,
    /// Users as last seen in the feed, by the user's `id_str`.
    Users,
    /// The merged scores of a user's tweets, by the user's `id_str`.
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
    /// The whole document as JSON text, an object whose first key is `_id`.
    pub json: String,
}

/// The inputs of a tweet's engagement score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngagementCounts {
    /// The number of likes.
    pub favorite_count: u64,
    /// The number of retweets.
    pub retweet_count: u64,
    /// The number of the author's followers.
    pub followers_count: u64,
}

/// The score of one tweet, to be merged into its author's `users_engagements`: `{_id, id_str, count, avg, scores, meta}`.
///
/// A score is merged when its tweet is stored for the first time, and never again. `scores` and `meta` are the last
/// [`KEPT_SCORES`], oldest first; `avg` and `count` cover all. An entry of `meta` is
/// `{"tweet", "favorite_count", "retweet_count", "followers_count"}`.
#[derive(Debug, Clone, PartialEq)]
pub struct UserEngagement {
    /// The author's `id_str`.
    pub user: String,
    /// The tweet's `id_str`.
    pub tweet: String,
    /// The engagement score.
    pub score: f64,
    /// Its inputs.
    pub counts: EngagementCounts,
}

/// The hashtags of a tweet that arrived by itself, not inside a retweet. Kept by tweet, so that each is counted once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaggedTweet {
    /// The tweet's `id_str`.
    pub tweet: String,
    /// Its tags without `#`, case kept, each once; at least one.
    pub tags: Vec<String>,
}

/// The progress of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamCursor {
    /// The stream's URL, without credentials.
    pub stream: String,
    /// The `Last-Event-ID` to resume at.
    pub last_event_id: String,
}

/// A batch from the batcher, stored as a unit.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// Scored tweets. A tweet already stored is left unchanged. An id can occur twice: the first counts.
    pub tweets: Vec<Document>,
    /// Users, which replace their stored documents. An id can occur twice: the last counts.
    pub users: Vec<Document>,
    /// One for each of `tweets`, in the same order.
    pub engagements: Vec<UserEngagement>,
    /// HashtagCounts to count; a tweet already counted is not counted again.
    pub tagged: Vec<TaggedTweet>,
    /// The streams' positions as of *earlier* batches: safe to write at any time, even before the rest of this batch.
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

/// The outcome of a durably stored batch.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stored {
    /// The number of new tweets.
    pub tweets: u64,
    /// The number of users that were new or changed.
    pub users: u64,
    /// The number of merged scores.
    pub engagements: u64,
    /// The entries of [`Batch::tagged`] that had not been counted before.
    pub counted: Vec<usize>,
    /// The documents that the sink will never accept.
    pub poison: Vec<Poison>,
    /// The duration of each bulk write to `tweets`.
    pub tweets_took: Vec<Duration>,
    /// The duration of each bulk write to `users` and `users_engagements`.
    pub users_took: Vec<Duration>,
}

/// A document that the sink will never accept, and the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Poison {
    /// The collection it was meant for; `None` if it was not even a tweet.
    pub collection: Option<Collection>,
    /// The document's `_id`, or the event id if it was not a tweet; may be empty.
    pub id: String,
    /// The document, or the text that was not a tweet.
    pub document: String,
    /// The reason, in words for an operator.
    pub reason: String,
}

/// A temporary failure: nothing can be stored at the moment.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{reason}")]
pub struct SinkError {
    /// A description for an operator.
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

/// The storage of the pipeline.
///
/// # Contract
///
/// - **Idempotence.** Storing a batch again, whether all or part of it was stored before, changes nothing: kills and retries
///   repeat batches.
/// - **Durability.** A batch that [`store`](Self::store) has confirmed survives a crash of this process and of the machine.
/// - **Poison.** A document that can never be stored is named in the answer and does not keep the rest of its batch from being
///   stored.
/// - **Failure.** An error means that the same batch may succeed later; the caller retries indefinitely, with backoff.
#[async_trait]
pub trait TweetSink: Send + Sync + 'static {
    /// Stores a batch; completes when all of it is durable. If the call is dropped, any part of the batch may have been stored.
    ///
    /// # Errors
    /// If nothing can be stored at the moment; any part of the batch may have been.
    async fn store(&self, batch: Arc<Batch>) -> Result<Stored, SinkError>;

    /// The position of `stream` in the last stored batch with its cursor.
    ///
    /// # Errors
    /// If it cannot be read at the moment.
    async fn cursor(&self, stream: &str) -> Result<Option<String>, SinkError>;

    /// The count of each hashtag, over all batches.
    ///
    /// # Errors
    /// If they cannot be read at the moment.
    async fn hashtags(&self) -> Result<HashMap<String, u64>, SinkError>;

    /// The number of concurrent calls of [`store`](Self::store) it can use. With more than one, they may be executed in any
    /// order.
    fn at_once(&self) -> usize {
        1
    }

    /// Closes open resources. Called once, after the last batch.
    async fn close(&self) {}
}
