//! Tracks how far a stream has been processed, although its events finish out of order.
//!
//! ```text
//!   read:      e1  e2  e3  e4  e5
//!   finished:  ✓   ✓       ✓
//!                  └ the cursor: everything up to it is finished; after a kill reading resumes here
//! ```

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The most events of a stream from the oldest unfinished one to the newest; at the limit, reading waits.
const MAX_SPAN: usize = 1 << 16;

/// Keeps the low-water mark of one stream: the id of the event before the oldest unfinished one.
#[derive(Debug)]
pub(super) struct Progress {
    state: Mutex<State>,
    room: Notify,
}

#[derive(Debug)]
struct State {
    /// The number of the first entry of `events`.
    first: u64,
    /// Events read and possibly finished; the first one is unfinished.
    events: VecDeque<Event>,
    /// The id of the newest event that is finished along with all events before it.
    cursor: Arc<str>,
}

#[derive(Debug)]
struct Event {
    id: Arc<str>,
    finished: bool,
}

impl Progress {
    /// Starts after the event with `last_event_id`.
    pub(super) fn new(last_event_id: &str) -> Arc<Self> {
        let state = State { first: 0, events: VecDeque::new(), cursor: Arc::from(last_event_id) };
        Arc::new(Self { state: Mutex::new(state), room: Notify::new() })
    }

    /// Records the stream's next event. Waits while too many are open.
    pub(super) async fn begin(self: &Arc<Self>, id: &Arc<str>) -> Ticket {
        loop {
            let room = self.room.notified();
            if let Some(ticket) = self.try_begin(id) {
                return ticket;
            }
            room.await;
        }
    }

    fn try_begin(self: &Arc<Self>, id: &Arc<str>) -> Option<Ticket> {
        let mut state = self.lock();
        if state.events.len() >= MAX_SPAN {
            return None;
        }
        let number = state.first + state.events.len() as u64;
        state.events.push_back(Event { id: Arc::clone(id), finished: false });
        drop(state);
        let open = Open { progress: Arc::clone(self), number, abandoned: AtomicBool::new(false) };
        Some(Ticket { open: Arc::new(open), finished: false })
    }

    /// The id at which the stream can be resumed without loss; empty for its beginning.
    pub(super) fn cursor(&self) -> Arc<str> {
        Arc::clone(&self.lock().cursor)
    }

    fn finish(&self, number: u64) {
        let mut state = self.lock();
        let at = (number - state.first) as usize;
        if let Some(event) = state.events.get_mut(at) {
            event.finished = true;
        }
        while state.events.front().is_some_and(|event| event.finished) {
            if let Some(event) = state.events.pop_front() {
                state.cursor = event.id;
                state.first += 1;
            }
        }
        let has_room = at == 0;
        drop(state);
        if has_room {
            self.room.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Accompanies an event, or one of the tweets in it.
///
/// The event is finished when each of its tickets is [`finish`](Self::finish)ed, or dropped by a panic: an event that crashed a
/// worker once would do so again. A ticket dropped in any other way means that something was given up before it was stored, as
/// the process ended: the event then stays unfinished and is read again.
#[derive(Debug)]
pub(super) struct Ticket {
    open: Arc<Open>,
    finished: bool,
}

#[derive(Debug)]
struct Open {
    progress: Arc<Progress>,
    number: u64,
    abandoned: AtomicBool,
}

impl Ticket {
    /// Marks this part of the event as finished.
    pub(super) fn finish(mut self) {
        self.finished = true;
    }
}

impl Clone for Ticket {
    fn clone(&self) -> Self {
        Self { open: Arc::clone(&self.open), finished: false }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.finished && !std::thread::panicking() {
            self.open.abandoned.store(true, Ordering::Release);
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if !*self.abandoned.get_mut() {
            self.progress.finish(self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: usize) -> Arc<str> {
        Arc::from(format!("e{n}"))
    }

    async fn begin(progress: &Arc<Progress>, n: usize) -> Ticket {
        progress.begin(&id(n)).await
    }

    #[tokio::test]
    async fn the_cursor_never_passes_an_event_that_is_not_finished() {
        let progress = Progress::new("e0");
        let (one, two, three) = (begin(&progress, 1).await, begin(&progress, 2).await, begin(&progress, 3).await);
        two.finish();
        assert_eq!(&*progress.cursor(), "e0");
        one.finish();
        assert_eq!(&*progress.cursor(), "e2");
        let part = three.clone();
        three.finish();
        assert_eq!(&*progress.cursor(), "e2", "a part of event 3 is still open");
        part.finish();
        assert_eq!(&*progress.cursor(), "e3");
    }

    #[tokio::test]
    async fn a_dropped_event_is_read_again_and_one_that_crashed_a_worker_is_not() {
        let progress = Progress::new("");
        let one = begin(&progress, 1).await;
        let crashed = std::thread::spawn(move || {
            let _item = one;
            std::panic::resume_unwind(Box::new("a crash"));
        });
        assert!(crashed.join().is_err());
        assert_eq!(&*progress.cursor(), "e1");
        drop(begin(&progress, 2).await);
        begin(&progress, 3).await.finish();
        assert_eq!(&*progress.cursor(), "e1", "event 2 was given up");
    }

    #[tokio::test]
    async fn reading_waits_when_the_oldest_event_is_far_behind() {
        let progress = Progress::new("");
        let oldest = begin(&progress, 0).await;
        for n in 1..MAX_SPAN {
            begin(&progress, n).await.finish();
        }
        assert!(progress.try_begin(&id(MAX_SPAN)).is_none());
        let waiting = tokio::spawn({
            let progress = Arc::clone(&progress);
            async move { begin(&progress, MAX_SPAN).await.finish() }
        });
        tokio::task::yield_now().await;
        oldest.finish();
        waiting.await.unwrap();
        assert_eq!(*progress.cursor(), *id(MAX_SPAN));
    }
}
