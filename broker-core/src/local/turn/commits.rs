//! Submitted turns, whose effects wait for their batch.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::{Effects, Outbox, WhenDurable, WhenWritten};
use crate::storage::{Commit, MAX_OUTSTANDING, Place, Stage, StorageError};

struct Submitted {
    /// `None` once the batch is written.
    written: Option<Stage<Vec<Place>>>,
    /// `None` if nothing waits for the batch to be durable.
    durable: Option<Stage<()>>,
    effects: Effects,
}

/// The submitted turns, oldest first.
///
/// # Invariant
/// The first `written` turns are written and wait to be durable; the others wait to be written. Both stages complete in the
/// order of submission, so only the first turn of each group has to be polled.
#[derive(Default)]
pub(in crate::local) struct Commits {
    turns: VecDeque<Submitted>,
    written: usize,
}

/// A stage that has completed.
pub(in crate::local) enum Progress {
    /// A turn is written: the places of its events in the order of their keys, and the effects that leave now.
    Written(Vec<Place>, WhenWritten),
    /// A turn is durable: the effects that leave now.
    Durable(WhenDurable),
    /// The storage failed: the effects that have not left.
    Failed(StorageError, Effects),
}

impl Commits {
    /// Whether the storage accepts another batch. Turns that are written but not durable are bounded as well: behind a slow sync
    /// the inbox fills up, and publishers wait.
    pub(in crate::local) fn have_room(&self) -> bool {
        self.turns.len() - self.written < MAX_OUTSTANDING && self.turns.len() < 4 * MAX_OUTSTANDING
    }

    pub(in crate::local) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Adds a turn whose batch has been submitted.
    pub(in crate::local) fn push(&mut self, commit: Commit, effects: Effects) {
        let durable = (!effects.durable.is_empty()).then_some(commit.durable);
        self.turns.push_back(Submitted { written: Some(commit.written), durable, effects });
    }

    /// Adds the output of a turn without a batch to the latest turn that is not written. Returns it if there is none, because it
    /// may then leave immediately.
    pub(in crate::local) fn follow(&mut self, outbox: Outbox) -> Option<Outbox> {
        match self.turns.back_mut().filter(|turn| turn.written.is_some()) {
            Some(turn) => {
                turn.effects.written.outbox.append(outbox);
                None
            }
            None => Some(outbox),
        }
    }

    /// Waits until a stage completes; pends while nothing is submitted. Cancel-safe.
    pub(in crate::local) fn progress(&mut self) -> impl Future<Output = Progress> + '_ {
        std::future::poll_fn(|cx| self.poll(cx))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Progress> {
        if self.written > 0
            && let Poll::Ready(progress) = self.poll_durable(cx)
        {
            return Poll::Ready(progress);
        }
        let Some(turn) = self.turns.get_mut(self.written) else { return Poll::Pending };
        let Some(stage) = turn.written.as_mut() else { return Poll::Pending };
        match ready!(Pin::new(stage).poll(cx)) {
            Ok(places) => {
                turn.written = None;
                self.written += 1;
                Poll::Ready(Progress::Written(places, std::mem::take(&mut turn.effects.written)))
            }
            Err(error) => {
                let turn = self.turns.remove(self.written);
                let effects = turn.map(|turn| turn.effects).unwrap_or_default();
                Poll::Ready(Progress::Failed(error, effects))
            }
        }
    }

    fn poll_durable(&mut self, cx: &mut Context<'_>) -> Poll<Progress> {
        let Some(turn) = self.turns.front_mut() else { return Poll::Pending };
        let result = match turn.durable.as_mut() {
            Some(stage) => ready!(Pin::new(stage).poll(cx)),
            None => Ok(()),
        };
        let effects = self.turns.pop_front().map(|turn| turn.effects).unwrap_or_default();
        self.written -= 1;
        Poll::Ready(match result {
            Ok(()) => Progress::Durable(effects.durable),
            Err(error) => Progress::Failed(error, effects),
        })
    }
}
