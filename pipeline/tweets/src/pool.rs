//! A generic worker pool: assigns items round-robin, resizes with the load, and replaces workers that crash.
//!
//! A worker is a task with its own queue, and a second task that supervises it. A panic ends the first; the second counts it and
//! starts a new worker on the same queue, so that only the item that crashed it is lost. A worker being removed receives no more
//! items, finishes its queue, and ends.

mod crash;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::autoscale::Load;

/// The capacity of one worker's queue, in items.
const QUEUE: usize = 8;

/// The interval between two resizes; the rule in `autoscale` assumes it.
const RESIZE: Duration = Duration::from_secs(1);

/// The size of a pool.
#[derive(Debug, Clone, Copy)]
pub(super) struct PoolSize {
    /// The initial number of workers; at least 1.
    pub(super) workers: usize,
    /// The maximum number of workers.
    pub(super) max_workers: usize,
    /// Whether the size follows the load.
    pub(super) autoscale: bool,
}

/// Running totals of a pool.
#[derive(Debug, Default)]
pub(super) struct PoolStats {
    /// Workers that accept items.
    pub(super) workers: AtomicUsize,
    /// Items handed to workers.
    pub(super) items: AtomicU64,
    /// Workers that crashed.
    pub(super) crashes: AtomicU64,
}

/// Runs a pool until `input` ends and all its items have been processed. `work` receives the worker's number and an item.
pub(super) async fn run<T, W, F>(
    name: &'static str,
    size: PoolSize,
    stats: Arc<PoolStats>,
    mut input: mpsc::Receiver<T>,
    work: W,
) where
    T: Send + 'static,
    W: Fn(u64, T) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    crash::log_in_one_line();
    let mut ticks = interval(RESIZE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick of an interval completes at once.
    ticks.tick().await;
    let mut pool = Pool {
        name,
        size,
        stats,
        work: Arc::new(work),
        workers: Vec::new(),
        next: 0,
        last_number: 0,
        load: Load::default(),
        tasks: JoinSet::new(),
        ticks,
    };
    pool.resize(size.workers);
    loop {
        let item = tokio::select! {
            item = input.recv() => item,
            _ = pool.ticks.tick() => {
                pool.rescale();
                continue;
            }
        };
        let Some(item) = item else { break };
        pool.hand_out(item).await;
    }
    pool.workers.clear();
    while pool.tasks.join_next().await.is_some() {}
    pool.stats.workers.store(0, Ordering::Relaxed);
}

struct Pool<T, W> {
    name: &'static str,
    size: PoolSize,
    stats: Arc<PoolStats>,
    work: Arc<W>,
    /// The queues of the workers that accept items.
    workers: Vec<mpsc::Sender<T>>,
    /// The index of the next worker in turn.
    next: usize,
    last_number: u64,
    load: Load,
    /// One task per worker, including those that only finish their queues.
    tasks: JoinSet<()>,
    ticks: Interval,
}

impl<T, W, F> Pool<T, W>
where
    T: Send + 'static,
    W: Fn(u64, T) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    /// Gives the item to the next worker in turn, or to the first one after it with room; waits if all are full.
    async fn hand_out(&mut self, mut item: T) {
        self.load.items += 1;
        self.stats.items.fetch_add(1, Ordering::Relaxed);
        for _ in 0..self.workers.len() {
            match self.turn().try_send(item) {
                Ok(()) => return,
                Err(TrySendError::Full(back) | TrySendError::Closed(back)) => item = back,
            }
        }
        self.load.waited = true;
        loop {
            let worker = self.turn().clone();
            // Resizing continues while waiting: more workers are the remedy.
            tokio::select! {
                permit = worker.reserve_owned() => {
                    if let Ok(permit) = permit {
                        permit.send(item);
                        return;
                    }
                    // A worker's queue closes only when the runtime ends, which waits for this task to yield.
                    tokio::task::yield_now().await;
                }
                _ = self.ticks.tick() => {
                    self.rescale();
                    self.load.waited = true;
                }
            }
        }
    }

    fn turn(&mut self) -> &mpsc::Sender<T> {
        self.next = (self.next + 1) % self.workers.len();
        &self.workers[self.next]
    }

    fn rescale(&mut self) {
        while self.tasks.try_join_next().is_some() {}
        let load = std::mem::take(&mut self.load);
        if self.size.autoscale {
            self.resize(load.wanted(self.workers.len(), self.size.max_workers));
        }
    }

    fn resize(&mut self, wanted: usize) {
        // Dropping a queue removes its worker.
        self.workers.truncate(wanted.max(1));
        while self.workers.len() < wanted {
            self.last_number += 1;
            let (sender, queue) = mpsc::channel(QUEUE);
            let keeper = keep(self.name, self.last_number, queue, Arc::clone(&self.work), Arc::clone(&self.stats));
            self.tasks.spawn(keeper);
            self.workers.push(sender);
        }
        self.stats.workers.store(self.workers.len(), Ordering::Relaxed);
    }
}

/// Keeps a worker running on `queue` until the queue ends.
async fn keep<T, W, F>(name: &'static str, number: u64, queue: mpsc::Receiver<T>, work: Arc<W>, stats: Arc<PoolStats>)
where
    T: Send + 'static,
    W: Fn(u64, T) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    // Held by one worker at a time, for its whole life.
    let queue = Arc::new(Mutex::new(queue));
    loop {
        let worker = worker(name, number, Arc::clone(&queue), Arc::clone(&work));
        match tokio::spawn(worker).await {
            Ok(()) => return,
            Err(error) if error.is_panic() => {
                stats.crashes.fetch_add(1, Ordering::Relaxed);
            }
            // The runtime is shutting down.
            Err(_) => return,
        }
    }
}

async fn worker<T, W, F>(name: &'static str, number: u64, queue: Arc<Mutex<mpsc::Receiver<T>>>, work: Arc<W>)
where
    W: Fn(u64, T) -> F,
    F: Future<Output = ()>,
{
    let mut queue = queue.lock().await;
    while let Some(item) = queue.recv().await {
        crash::watched(name, number, work(number, item)).await;
    }
}

#[cfg(test)]
mod tests;
