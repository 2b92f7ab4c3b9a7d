//! A generic pool of workers: items go to the workers in turn; there are as many as the load asks for; one that crashes is replaced.
//!
//! A worker is a task with a queue of its own, and a second task that waits for it. A panic ends the first; the second counts it and puts
//! a new worker at the same queue, so that nothing but the item that killed it is lost. A worker that is to go gets no more items,
//! finishes its queue, and ends.

mod crash;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::autoscale::Load;

/// Items that wait at one worker.
const QUEUE: usize = 8;

/// How often a pool is resized; the rule of `autoscale` is made for this.
const RESIZE: Duration = Duration::from_secs(1);

/// How large a pool is.
#[derive(Debug, Clone, Copy)]
pub(super) struct PoolSize {
    /// At the start; at least 1.
    pub(super) workers: usize,
    /// At the most.
    pub(super) max_workers: usize,
    /// Whether it changes.
    pub(super) autoscale: bool,
}

/// What a pool has done so far.
#[derive(Debug, Default)]
pub(super) struct PoolFigures {
    /// Workers that take items.
    pub(super) workers: AtomicUsize,
    /// Items handed to workers.
    pub(super) items: AtomicU64,
    /// Workers that crashed.
    pub(super) crashes: AtomicU64,
}

/// Runs a pool until `input` ends and every item of it has been worked off. `work` gets the worker's number and an item.
pub(super) async fn run<T, W, F>(
    name: &'static str,
    size: PoolSize,
    figures: Arc<PoolFigures>,
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
    // An interval's first tick is now.
    ticks.tick().await;
    let mut pool = Pool {
        name,
        size,
        figures,
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
    pool.figures.workers.store(0, Ordering::Relaxed);
}

struct Pool<T, W> {
    name: &'static str,
    size: PoolSize,
    figures: Arc<PoolFigures>,
    work: Arc<W>,
    /// The queues of those that take items.
    workers: Vec<mpsc::Sender<T>>,
    /// Whose turn it is.
    next: usize,
    last_number: u64,
    load: Load,
    /// One for each worker, also for those that only finish their queues.
    tasks: JoinSet<()>,
    ticks: Interval,
}

impl<T, W, F> Pool<T, W>
where
    T: Send + 'static,
    W: Fn(u64, T) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    /// Gives the item to the worker whose turn it is, or to the next one that has room; waits if none has.
    async fn hand_out(&mut self, mut item: T) {
        self.load.items += 1;
        self.figures.items.fetch_add(1, Ordering::Relaxed);
        for _ in 0..self.workers.len() {
            match self.turn().try_send(item) {
                Ok(()) => return,
                Err(TrySendError::Full(back) | TrySendError::Closed(back)) => item = back,
            }
        }
        self.load.waited = true;
        loop {
            let worker = self.turn().clone();
            // Resizing goes on meanwhile: more workers are what is missing.
            tokio::select! {
                permit = worker.reserve_owned() => {
                    if let Ok(permit) = permit {
                        permit.send(item);
                        return;
                    }
                    // A worker's queue is closed at the end of the runtime only, which waits for this task to pause.
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
        // What a queue is dropped for is that its worker goes.
        self.workers.truncate(wanted.max(1));
        while self.workers.len() < wanted {
            self.last_number += 1;
            let (sender, queue) = mpsc::channel(QUEUE);
            let keeper = keep(self.name, self.last_number, queue, Arc::clone(&self.work), Arc::clone(&self.figures));
            self.tasks.spawn(keeper);
            self.workers.push(sender);
        }
        self.figures.workers.store(self.workers.len(), Ordering::Relaxed);
    }
}

/// Keeps a worker at `queue` until the queue ends.
async fn keep<T, W, F>(
    name: &'static str,
    number: u64,
    queue: mpsc::Receiver<T>,
    work: Arc<W>,
    figures: Arc<PoolFigures>,
) where
    T: Send + 'static,
    W: Fn(u64, T) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    // Held by one worker at a time, for as long as it lives.
    let queue = Arc::new(Mutex::new(queue));
    loop {
        let worker = worker(name, number, Arc::clone(&queue), Arc::clone(&work));
        match tokio::spawn(worker).await {
            Ok(()) => return,
            Err(error) if error.is_panic() => {
                figures.crashes.fetch_add(1, Ordering::Relaxed);
            }
            // The runtime ends.
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
