//! One atomic batch to which several shards contribute: a source's events for several topics, with their cursor.

use std::sync::{Mutex, PoisonError};

use tokio::sync::oneshot;

use crate::storage::{Batch, Commit, Completer, Mutation, Place, Storage, stage};

/// What one shard puts into the batch.
struct Part {
    mutations: Vec<Mutation>,
    /// How many of these are events with a place of their own.
    places: usize,
    written: Completer<Vec<Place>>,
    safe: Completer<()>,
    submitted: oneshot::Sender<()>,
}

/// A batch that is submitted when the last shard has contributed.
///
/// A shard that has contributed submits nothing else until then, so that the batch stands where it belongs in the order of
/// each of them.
pub(super) struct Joint {
    parts: Mutex<(usize, Vec<Option<Part>>)>,
}

impl Joint {
    pub(super) fn new(shards: usize) -> Self {
        Self { parts: Mutex::new((shards, std::iter::repeat_with(|| None).take(shards).collect())) }
    }

    /// Contributes part `number`. The receiver completes when the batch has been submitted; if it fails, it never will be.
    pub(super) fn contribute<S: Storage + ?Sized>(
        &self,
        storage: &S,
        number: usize,
        mutations: Vec<Mutation>,
        places: usize,
    ) -> (Commit, oneshot::Receiver<()>) {
        let (written, written_stage) = stage();
        let (safe, safe_stage) = stage();
        let (submitted, was_submitted) = oneshot::channel();
        let part = Part { mutations, places, written, safe, submitted };
        let mut guard = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let (missing, parts) = &mut *guard;
        parts[number] = Some(part);
        *missing -= 1;
        if *missing == 0 {
            let parts = std::mem::take(parts);
            drop(guard);
            submit(storage, parts.into_iter().flatten().collect());
        }
        (Commit { written: written_stage, safe: safe_stage }, was_submitted)
    }
}

fn submit<S: Storage + ?Sized>(storage: &S, mut parts: Vec<Part>) {
    let mutations = parts.iter_mut().flat_map(|part| std::mem::take(&mut part.mutations)).collect();
    let commit = storage.submit(Batch { mutations });
    let mut completers = Vec::with_capacity(parts.len());
    for part in parts {
        let _a_shard_that_has_gone = part.submitted.send(());
        completers.push((part.places, part.written, part.safe));
    }
    tokio::spawn(async move {
        let written = commit.written.await;
        let mut safe = Vec::with_capacity(completers.len());
        let mut places = written.as_ref().map(|places| places.iter().copied());
        for (count, written, safe_stage) in completers {
            written.complete(match &mut places {
                Ok(places) => Ok(places.by_ref().take(count).collect()),
                Err(error) => Err((*error).clone()),
            });
            safe.push(safe_stage);
        }
        let result = commit.safe.await;
        for stage in safe {
            stage.complete(result.clone());
        }
    });
}
