//! `herald sub`: prints events as they come and acknowledges them once printed; on a pipe, once its reader has taken them.

use std::io;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use transport_client::{
    Acker, Client, ClientConfig, ConnectionState, Delivery, Error, SubscribeOptions, Subscription, SubscriptionName,
    TopicName,
};

use super::exit::{DONE, FAILED, Status};
use super::number::integer;
use super::remote::{Remote, explain};
use crate::error_chain;
#[cfg(unix)]
use crate::output::Pipe;
use crate::output::{Output, OutputError, message, stderr_is_terminal};
use crate::signals::Signals;

/// Print events of topics as they are received, one JSON line each, and acknowledge them
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  herald sub tweets                      what comes from now on\n  \
                        herald sub tweets --name mine          a durable subscription: what came meanwhile, too\n  \
                        herald sub tweets users --name mine --prefetch 100 | jq .msg\n  \
                        herald sub tweets --name mine --count 1 --no-ack\n\n\
                        On a pipe an event is acknowledged once its reader has taken it, one after the other.\n\
                        It reconnects by itself, and ends with Ctrl-C, or with status 141 when its reader has gone.")]
pub(super) struct Args {
    /// The topics
    #[arg(required = true)]
    topics: Vec<String>,
    /// A durable subscription of this name, in each topic; made if it is new, kept afterwards
    #[arg(long)]
    name: Option<String>,
    /// How many events may be unacknowledged at a time, on each connection
    #[arg(long, default_value = "1", value_name = "N", value_parser = integer(1..=u16::MAX))]
    prefetch: u16,
    /// Do not acknowledge: what has been printed comes again
    #[arg(long)]
    no_ack: bool,
    /// End after so many events
    #[arg(long, value_name = "N", value_parser = integer(1..=u64::MAX))]
    count: Option<u64>,
    /// So many connections for each topic: with --name they share its events, without each gets all of them
    #[arg(long, default_value = "1", value_name = "N", value_parser = integer(1_u16..=10_000))]
    connections: u16,
    #[command(flatten)]
    remote: Remote,
}

/// The most events between the connections and the printer.
const WAITING: usize = 256;

pub(super) async fn run(args: Args) -> anyhow::Result<Status> {
    let topics =
        args.topics.iter().map(|topic| TopicName::new(topic).map_err(explain)).collect::<Result<Vec<_>, _>>()?;
    let mut options = match &args.name {
        Some(name) => SubscribeOptions::durable(SubscriptionName::new(name).map_err(explain)?),
        None => SubscribeOptions::default(),
    };
    options = options.prefetch(args.prefetch);
    let config = args.remote.config("herald sub")?;
    crate::limits::raise_open_files();
    let mut signals = Signals::stopping()?;
    let mut printer = Printer::new()?;
    let stop = CancellationToken::new();
    let (sender, received) = mpsc::channel(WAITING);
    let mut tasks = JoinSet::new();
    tokio::select! {
        subscribed = subscribe_all(&config, &topics, &options, args.connections, &stop, sender, &mut tasks) => subscribed?,
        closed = printer.closed() => return Err(closed.into()),
        _ = signals.stop() => return Ok(DONE),
    }
    let printed = tokio::select! {
        printed = print(&mut printer, received, !args.no_ack, args.count) => printed,
        _ = signals.stop() => Ok(()),
    };
    stop.cancel();
    let ended = finish(&mut tasks).await;
    printed?;
    ended
}

async fn subscribe_all(
    config: &ClientConfig,
    topics: &[TopicName],
    options: &SubscribeOptions,
    connections: u16,
    stop: &CancellationToken,
    sender: mpsc::Sender<(Delivery, Acker)>,
    tasks: &mut JoinSet<Result<(), Error>>,
) -> anyhow::Result<()> {
    let client = Client::lazy(config.clone()).map_err(explain)?;
    for topic in topics {
        for _ in 0..connections {
            let subscription = client.subscribe(topic.clone(), options.clone()).await.map_err(explain)?;
            if stderr_is_terminal() {
                announce(tasks, &subscription, stop.clone());
            }
            tasks.spawn(receive(subscription, sender.clone(), stop.clone()));
        }
    }
    Ok(())
}

/// Passes on the deliveries of one connection until it ends or `stop`, then closes it in an orderly way.
async fn receive(
    mut subscription: Subscription,
    sender: mpsc::Sender<(Delivery, Acker)>,
    stop: CancellationToken,
) -> Result<(), Error> {
    let acker = subscription.acker();
    loop {
        let delivery = tokio::select! {
            () = stop.cancelled() => break,
            delivery = subscription.next() => delivery,
        };
        let Some(delivery) = delivery else {
            return Err(subscription.end_reason().unwrap_or(Error::Closed));
        };
        tokio::select! {
            () = stop.cancelled() => break,
            sent = sender.send((delivery, acker.clone())) => if sent.is_err() { break },
        }
    }
    // Deliveries that were not printed return to the queue when the connection closes.
    subscription.close().await
}

/// The destination of printed events.
enum Printer {
    #[cfg(unix)]
    Pipe(Pipe),
    /// A terminal, a file, or a device.
    Other(Output),
}

impl Printer {
    fn new() -> io::Result<Self> {
        #[cfg(unix)]
        if let Some(pipe) = Pipe::stdout()? {
            return Ok(Self::Pipe(pipe));
        }
        Ok(Self::Other(Output::stdout()))
    }

    /// Waits until the reader has gone; forever where that cannot be known.
    async fn closed(&self) -> OutputError {
        match self {
            #[cfg(unix)]
            Self::Pipe(pipe) => pipe.closed().await,
            Self::Other(_) => std::future::pending().await,
        }
    }

    /// Prints the lines of `batch`.
    async fn print(&mut self, batch: &[(Delivery, Acker)]) -> Result<(), OutputError> {
        match self {
            #[cfg(unix)]
            Self::Pipe(pipe) => {
                let mut lines = String::new();
                for (delivery, _) in batch {
                    lines.push_str(delivery.line());
                    lines.push('\n');
                }
                pipe.write(lines.as_bytes()).await
            }
            Self::Other(output) => {
                for (delivery, _) in batch {
                    output.line(delivery.line())?;
                }
                output.flush()
            }
        }
    }

    /// Waits until the reader of a pipe has taken everything; returns at once elsewhere.
    async fn taken(&self) -> Result<(), OutputError> {
        match self {
            #[cfg(unix)]
            Self::Pipe(pipe) => pipe.taken().await,
            Self::Other(_) => Ok(()),
        }
    }

    /// The most events that are printed before they are acknowledged. One on a pipe: a reader takes all that a pipe holds, and
    /// may go away after its first line.
    fn batch(&self) -> usize {
        match self {
            #[cfg(unix)]
            Self::Pipe(_) => 1,
            Self::Other(_) => WAITING,
        }
    }
}

/// Reports on standard error that the subscription exists, and again after each reconnect.
fn announce(tasks: &mut JoinSet<Result<(), Error>>, subscription: &Subscription, stop: CancellationToken) {
    let mut state = subscription.state();
    let name = subscription.name().map(|name| format!(" as \"{name}\"")).unwrap_or_default();
    let place = format!("topic {}{name}", subscription.topic());
    let lost = if name.is_empty() { "; what was published in between is not delivered" } else { "" };
    message(&format!("herald: subscribed to {place}"));
    tasks.spawn(async move {
        let mut known = 1;
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                changed = state.changed() => if changed.is_err() { return Ok(()) },
            }
            let now = state.borrow_and_update().clone();
            match now {
                ConnectionState::Connected { connection } if connection != known => {
                    known = connection;
                    message(&format!("herald: reconnected and subscribed to {place} again{lost}"));
                }
                ConnectionState::Ended { .. } => return Ok(()),
                _ => {}
            }
        }
    });
}

async fn print(
    printer: &mut Printer,
    mut received: mpsc::Receiver<(Delivery, Acker)>,
    acknowledge: bool,
    count: Option<u64>,
) -> Result<(), OutputError> {
    let mut batch = Vec::new();
    let mut left = count.unwrap_or(u64::MAX);
    let at_once = if acknowledge { printer.batch() } else { WAITING };
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(at_once);
        let taken = tokio::select! {
            taken = received.recv_many(&mut batch, most) => taken,
            closed = printer.closed() => return Err(closed),
        };
        if taken == 0 {
            break;
        }
        printer.print(&batch).await?;
        left -= taken as u64;
        if !acknowledge {
            batch.clear();
            continue;
        }
        printer.taken().await?;
        for (delivery, acker) in batch.drain(..) {
            // Only now, when the reader has them. The reason for the end of a subscription is reported by its task.
            if let Err(error) = acker.ack(&delivery).await {
                tracing::debug!(%error, id = %delivery.id(), "not acknowledged");
            }
        }
    }
    Ok(())
}

/// Waits for the connections to end, and reports those that ended with an error.
async fn finish(tasks: &mut JoinSet<Result<(), Error>>) -> anyhow::Result<Status> {
    let mut status = DONE;
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Ok(Ok(()) | Err(Error::Closed)) => {}
            // The last acknowledgements may not have arrived; those events are redelivered.
            Ok(Err(error @ (Error::Timeout { .. } | Error::Lost { .. }))) => {
                tracing::warn!(%error, "a connection did not end in an orderly way");
            }
            Ok(Err(error)) => {
                message(&format!("herald: {}", error_chain(&error)));
                status = FAILED;
            }
            Err(panic) => return Err(panic.into()),
        }
    }
    Ok(status)
}
