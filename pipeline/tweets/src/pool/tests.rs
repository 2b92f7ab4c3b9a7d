use std::collections::BTreeSet;
use std::sync::Mutex as StdMutex;

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

struct Running {
    input: mpsc::Sender<u64>,
    stats: Arc<PoolStats>,
    done: Arc<StdMutex<Vec<(u64, u64)>>>,
    /// Each item consumes one of these.
    permits: Arc<Semaphore>,
    task: JoinHandle<()>,
}

/// A pool whose work is to record an item. 13 crashes a worker.
fn start(size: PoolSize, permits: usize) -> Running {
    let (input, received) = mpsc::channel(4);
    let stats = Arc::new(PoolStats::default());
    let done = Arc::new(StdMutex::new(Vec::new()));
    let permits = Arc::new(Semaphore::new(permits));
    let (list, gate) = (Arc::clone(&done), Arc::clone(&permits));
    let work = move |worker, item| {
        let (list, gate) = (Arc::clone(&list), Arc::clone(&gate));
        async move {
            gate.acquire().await.unwrap().forget();
            assert_ne!(item, 13, "an unlucky item");
            list.lock().unwrap().push((worker, item));
        }
    };
    let task = tokio::spawn(run("test", size, Arc::clone(&stats), received, work));
    Running { input, stats, done, permits, task }
}

impl Running {
    async fn send(&self, items: impl IntoIterator<Item = u64>) {
        for item in items {
            self.input.send(item).await.unwrap();
        }
    }

    async fn end(self) -> Vec<(u64, u64)> {
        drop(self.input);
        tokio::time::timeout(PATIENCE, self.task).await.unwrap().unwrap();
        assert_eq!(self.stats.workers.load(Ordering::Relaxed), 0);
        Arc::try_unwrap(self.done).unwrap().into_inner().unwrap()
    }
}

async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("it happens in the end");
}

const FIXED: PoolSize = PoolSize { workers: 3, max_workers: 3, autoscale: false };

#[tokio::test]
async fn items_go_to_the_workers_in_turn_and_none_is_lost() {
    let pool = start(FIXED, 1_000);
    pool.send(100..130).await;
    let done = pool.end().await;
    for worker in 1..=3 {
        let items: Vec<u64> = done.iter().filter(|(by, _)| *by == worker).map(|(_, item)| *item).collect();
        assert_eq!(items.len(), 10, "{done:?}");
        assert!(items.windows(2).all(|pair| pair[1] == pair[0] + 3), "{items:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_costs_the_item_that_caused_it_and_nothing_else() {
    let pool = start(FIXED, 0);
    // More than the workers' queues hold, so that those that crash still have queued items.
    let sent: Vec<u64> = (0..20).chain([13, 13]).collect();
    pool.send(sent.iter().copied().take(22)).await;
    let stats = Arc::clone(&pool.stats);
    pool.permits.add_permits(1_000);
    let done: BTreeSet<u64> = pool.end().await.into_iter().map(|(_, item)| item).collect();
    assert_eq!(done, (0..20).filter(|item| *item != 13).collect());
    assert_eq!(stats.crashes.load(Ordering::Relaxed), 3);
    assert_eq!(stats.items.load(Ordering::Relaxed), 22);
}

#[tokio::test(start_paused = true)]
async fn a_pool_grows_while_items_wait_and_shrinks_when_none_come() {
    let pool = start(PoolSize { workers: 1, max_workers: 6, autoscale: true }, 0);
    // As many as six workers hold: one in progress each, and the rest in their queues.
    let items = 6 * (QUEUE as u64 + 1);
    let sender = pool.input.clone();
    tokio::spawn(async move {
        for item in 100..100 + items {
            sender.send(item).await.unwrap();
        }
    });
    let workers = || pool.stats.workers.load(Ordering::Relaxed);
    until(|| workers() == 6).await;
    assert_eq!(workers(), 6, "no more than the limit");
    until(|| pool.stats.items.load(Ordering::Relaxed) == items).await;
    // No more input arrives: the workers being removed have full queues.
    until(|| workers() == 1).await;
    assert!(pool.done.lock().unwrap().is_empty());
    pool.permits.add_permits(1_000);
    let done: BTreeSet<u64> = pool.end().await.into_iter().map(|(_, item)| item).collect();
    assert_eq!(done, (100..100 + items).collect());
}

#[tokio::test]
async fn a_full_pool_makes_its_input_wait() {
    let pool = start(FIXED, 0);
    let fits = 3 * (QUEUE as u64 + 1);
    pool.send(100..100 + fits).await;
    until(|| pool.stats.items.load(Ordering::Relaxed) == fits).await;
    // One held by the pool, four in the channel ahead of it.
    pool.send(200..205).await;
    assert!(pool.input.try_send(1).is_err());
    pool.permits.add_permits(1_000);
    assert_eq!(pool.end().await.len() as u64, fits + 5);
}
