//! Logs a worker's panic as one line, instead of a message and a backtrace on standard error.

use std::cell::Cell;
use std::panic::PanicHookInfo;
use std::pin::pin;
use std::sync::Once;

thread_local! {
    /// The worker that this thread is running.
    static WORKER: Cell<Option<(&'static str, u64)>> = const { Cell::new(None) };
}

/// From this call on, panics within [`watched`] are logged in one line; all others are reported as before.
pub(super) fn log_in_one_line() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| match WORKER.get() {
            Some((pool, worker)) => log(pool, worker, info),
            None => usual(info),
        }));
    });
}

fn log(pool: &'static str, worker: u64, info: &PanicHookInfo<'_>) {
    let payload = info.payload();
    // The payload types of `panic!` with and without arguments.
    let text = payload.downcast_ref::<String>().map(String::as_str).or_else(|| payload.downcast_ref::<&str>().copied());
    let reason = text.unwrap_or("no reason given");
    let location = info.location().map(ToString::to_string).unwrap_or_default();
    tracing::warn!(pool, worker, reason, location, "a worker crashed and is replaced");
}

/// Runs `work` as the given worker.
pub(super) async fn watched(pool: &'static str, worker: u64, work: impl Future<Output = ()>) {
    /// Resets it even when `work` panics.
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            WORKER.set(None);
        }
    }
    let mut work = pin!(work);
    std::future::poll_fn(|context| {
        WORKER.set(Some((pool, worker)));
        let _reset = Reset;
        work.as_mut().poll(context)
    })
    .await;
}
