//! One atomic batch to which several shards contribute: a source's events for several topics, with their cursor.
//!
//! ```text
//!   shard 1 ── part 0 ──┐
//!   shard 2 ── part 1 ──┼── last part ──► one Batch ──► one Commit, divided again by part
//!   shard 3 ── part 2 ──┘
//! ```
//!
//! A shard that has contributed submits nothing until the joint batch is submitted. For every shard the batch is therefore ordered
//! after all its earlier batches and before all later ones. If a shard ends without contributing, the batch is never submitted, and
//! the stages of the other shards fail.

use std::sync::{Mutex, PoisonError};

use tokio::sync::oneshot;

use crate::storage::{Batch, Commit, Completer, Mutation, Place, Storage, stage};

/// One shard's contribution.
struct Part {
    mutations: Vec<Mutation>,
    /// The number of events among the mutations; each is given a place.
    places: usize,
    written: Completer<Vec<Place>>,
    durable: Completer<()>,
    submitted: oneshot::Sender<()>,
}

/// The parts that have arrived, by number.
struct Parts {
    missing: usize,
    arrived: Vec<Option<Part>>,
}

/// A batch that is submitted when the last shard has contributed.
pub(super) struct Joint(Mutex<Parts>);

impl Joint {
    pub(super) fn new(shards: usize) -> Self {
        let arrived = std::iter::repeat_with(|| None).take(shards).collect();
        Self(Mutex::new(Parts { missing: shards, arrived }))
    }

    /// Contributes part `number`. The receiver completes when the batch has been submitted; it fails if that can no longer happen.
    pub(super) fn contribute<S: Storage + ?Sized>(
        &self,
        storage: &S,
        number: usize,
        mutations: Vec<Mutation>,
        places: usize,
    ) -> (Commit, oneshot::Receiver<()>) {
        let (written, written_stage) = stage();
        let (durable, durable_stage) = stage();
        let (submitted, was_submitted) = oneshot::channel();
        let mut parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        parts.arrived[number] = Some(Part { mutations, places, written, durable, submitted });
        parts.missing -= 1;
        if parts.missing == 0 {
            let arrived = std::mem::take(&mut parts.arrived);
            drop(parts);
            submit(storage, arrived.into_iter().flatten().collect());
        }
        (Commit { written: written_stage, durable: durable_stage }, was_submitted)
    }
}

/// Submits the parts as one batch, and divides its places over them once it is written.
fn submit<S: Storage + ?Sized>(storage: &S, mut parts: Vec<Part>) {
    let mutations = parts.iter_mut().flat_map(|part| std::mem::take(&mut part.mutations)).collect();
    let commit = storage.submit(Batch { mutations });
    let mut completers = Vec::with_capacity(parts.len());
    for part in parts {
        let _the_shard_has_ended = part.submitted.send(());
        completers.push((part.places, part.written, part.durable));
    }
    tokio::spawn(async move {
        let written = commit.written.await;
        let mut durable = Vec::with_capacity(completers.len());
        let mut places = written.as_ref().map(|places| places.iter().copied());
        for (count, written, durable_stage) in completers {
            written.complete(match &mut places {
                Ok(places) => Ok(places.by_ref().take(count).collect()),
                Err(error) => Err((*error).clone()),
            });
            durable.push(durable_stage);
        }
        let result = commit.durable.await;
        for stage in durable {
            stage.complete(result.clone());
        }
    });
}
