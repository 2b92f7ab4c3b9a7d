//! Work that a shard awaits without blocking: reads from the storage, and answers from other shards.
//!
//! A shard must never wait for another shard's inbox: two shards with full inboxes would deadlock. It runs an errand instead, a future
//! polled beside its inbox, and applies the result in a later turn.

use std::collections::BTreeMap;
use std::future::Future;
use std::task::Poll;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;

use super::dead_letters::Buried;
use super::deliver::Loaded;
use super::peek::PeekResult;
use super::redrive::{Job, Letter, Sent};
use super::rewrite::Rewrite;
use crate::event::{EventKey, Payload};
use crate::name::TopicName;
use crate::storage::{Place, ReadKey, Storage, StorageErrorKind};

/// The pause before a failed read is repeated.
pub(super) const READ_RETRY: Duration = Duration::from_millis(500);

/// The result of an errand.
pub(super) enum Done {
    /// Payloads for a subscription were read.
    Loaded(Loaded),
    /// Dead letters were stored by the shard that owns the dead-letter topic, or not.
    Buried(Buried),
    /// The payloads of a peek were read.
    Peeked(PeekResult),
    /// A chunk of letters to redrive was read.
    LettersRead(Job, Vec<Letter>),
    /// A chunk of letters was sent back.
    SentBack(Job, Vec<Sent>),
    /// A request of the storage to move events is due again.
    Rewrite(Rewrite),
}

/// The errands in progress.
#[derive(Default)]
pub(super) struct Errands {
    /// Reads for deliveries, which are served first.
    loads: FuturesUnordered<BoxFuture<'static, Done>>,
    others: FuturesUnordered<BoxFuture<'static, Done>>,
}

impl Errands {
    pub(super) fn is_empty(&self) -> bool {
        self.loads.is_empty() && self.others.is_empty()
    }

    /// Starts a read for deliveries.
    pub(super) fn load(&self, load: impl Future<Output = Loaded> + Send + 'static) {
        self.loads.push(Box::pin(async move { Done::Loaded(load.await) }));
    }

    /// Starts any other errand.
    pub(super) fn run(&self, errand: impl Future<Output = Done> + Send + 'static) {
        self.others.push(Box::pin(errand));
    }

    /// Waits until an errand is done; pends while there is none. Cancel-safe.
    pub(super) async fn next(&mut self) -> Done {
        std::future::poll_fn(|cx| {
            for errands in [&mut self.loads, &mut self.others] {
                if let Poll::Ready(Some(done)) = errands.poll_next_unpin(cx) {
                    return Poll::Ready(done);
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// Reads payloads, repeating reads that fail until they succeed. A payload whose record is damaged is missing from the result. `None`:
/// the storage is closed.
pub(super) async fn read<S: Storage + ?Sized>(
    storage: &S,
    topic: &TopicName,
    keys: Vec<(EventKey, Place)>,
) -> Option<BTreeMap<EventKey, Payload>> {
    if keys.is_empty() {
        return Some(BTreeMap::new());
    }
    loop {
        match storage.read(read_keys(topic, &keys)).await {
            Ok(payloads) => {
                let found = keys.into_iter().zip(payloads);
                return Some(found.filter_map(|((key, _), payload)| Some((key, payload?))).collect());
            }
            Err(error) if error.kind() == StorageErrorKind::Closed => return None,
            Err(error) => {
                tracing::warn!(%error, %topic, "read failed, retrying");
                tokio::time::sleep(READ_RETRY).await;
            }
        }
    }
}

/// The keys by which the storage finds events of `topic`.
pub(super) fn read_keys(topic: &TopicName, keys: &[(EventKey, Place)]) -> Vec<ReadKey> {
    keys.iter().map(|(key, place)| ReadKey { topic: topic.clone(), key: *key, place: *place }).collect()
}
