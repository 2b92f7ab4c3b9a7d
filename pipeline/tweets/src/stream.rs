//! Reads one feed into the first pool.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::logger::Incoming;
use super::progress::Progress;
use pipeline_sse::{SseClient, SseItem};

/// The most events taken from the client at once.
const BATCH: usize = 256;

/// Reads until `stop`, or until the server reports a permanent failure. `number` is for the log, which must not show the URL's
/// secrets.
pub(super) async fn run(
    number: usize,
    mut client: SseClient,
    progress: Arc<Progress>,
    loggers: mpsc::Sender<Incoming>,
    read: Arc<AtomicU64>,
    stop: CancellationToken,
) {
    loop {
        let items = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            items = client.next_batch(BATCH) => items,
        };
        let items = match items {
            Ok(items) => items,
            Err(stopped) => {
                tracing::error!(stream = number, reason = %stopped, "a stream of the pipeline has stopped; the others continue");
                return;
            }
        };
        for item in items {
            // The client has logged oversized events, and they are skipped.
            let SseItem::Event(event) = item else { continue };
            read.fetch_add(1, Ordering::Relaxed);
            let hand_over = async {
                let ticket = progress.begin(&event.last_event_id).await;
                let incoming = Incoming { data: event.data, event_id: event.last_event_id, ticket };
                loggers.send(incoming).await.is_ok()
            };
            // Dropping it has the same effect as not having read the event.
            let handed_over = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                handed_over = hand_over => handed_over,
            };
            if !handed_over {
                return;
            }
        }
    }
}
