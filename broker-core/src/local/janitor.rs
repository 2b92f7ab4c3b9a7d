//! The engine's side of freeing space: it moves the events that are still needed.

use std::future::Future;
use std::pin::Pin;

use tokio::sync::oneshot;

use super::message::{Peers, ShardMessage};
use crate::storage::{Janitor, Place, StorageError, StoredEvent};

/// Passes a storage's requests to move events on to the shards, which know whether an event is still needed.
pub(super) struct ShardJanitor {
    peers: Peers,
}

impl ShardJanitor {
    pub(super) fn new(peers: Peers) -> Self {
        Self { peers }
    }
}

impl Janitor for ShardJanitor {
    fn rewrite(
        &self,
        events: Vec<(StoredEvent, Place)>,
    ) -> Pin<Box<dyn Future<Output = Result<(), StorageError>> + Send + 'static>> {
        let mut parts: Vec<Vec<(StoredEvent, Place)>> = vec![Vec::new(); self.peers.len()];
        for (event, place) in events {
            parts[event.topic.shard(self.peers.len())].push((event, place));
        }
        let peers = self.peers.clone();
        Box::pin(async move {
            let mut answers = Vec::new();
            for (peer, events) in peers.iter().zip(parts) {
                if events.is_empty() {
                    continue;
                }
                let (done, answer) = oneshot::channel();
                let shard = peer.upgrade().ok_or_else(StorageError::closed)?;
                let sent = shard.send(ShardMessage::Rewrite { events, done }).await;
                sent.map_err(|_gone| StorageError::closed())?;
                answers.push(answer);
            }
            for answer in answers {
                answer.await.map_err(|_gone| StorageError::closed())??;
            }
            Ok(())
        })
    }
}
