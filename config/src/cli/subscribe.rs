//! `herald sub`: events, printed as they come, and acknowledged once they are printed.

use std::num::{NonZeroU16, NonZeroU64};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use transport_client::{
    Acker, Client, ClientConfig, Delivery, Error, SubscribeOptions, Subscription, SubscriptionName, TopicName,
};

use super::exit::{DONE, FAILED, Status};
use super::remote::{Remote, explain};
use crate::error_chain;
use crate::output::{Output, OutputError, message};
use crate::signals::Signals;

/// Print events of topics as they are received, one JSON line each, and acknowledge them
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  herald sub tweets                      what comes from now on\n  \
                        herald sub tweets --name mine          a durable subscription: what came meanwhile, too\n  \
                        herald sub tweets users --name mine --prefetch 100 | jq .msg\n  \
                        herald sub tweets --name mine --count 1 --no-ack\n\n\
                        It reconnects by itself, and ends with Ctrl-C.")]
pub(super) struct Args {
    /// The topics
    #[arg(required = true)]
    topics: Vec<String>,
    /// A durable subscription of this name, in each topic; made if it is new, kept afterwards
    #[arg(long)]
    name: Option<String>,
    /// How many events may be unacknowledged at a time, on each connection
    #[arg(long, default_value = "1", value_name = "N")]
    prefetch: NonZeroU16,
    /// Do not acknowledge: what has been printed comes again
    #[arg(long)]
    no_ack: bool,
    /// End after so many events
    #[arg(long, value_name = "N")]
    count: Option<NonZeroU64>,
    /// So many connections for each topic: with --name they share its events, without each gets all of them
    #[arg(long, default_value = "1", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    connections: u16,
    #[command(flatten)]
    remote: Remote,
}

/// Events on their way to the printer, from all connections.
const WAITING: usize = 256;

pub(super) async fn run(args: Args) -> anyhow::Result<Status> {
    let topics =
        args.topics.iter().map(|topic| TopicName::new(topic).map_err(explain)).collect::<Result<Vec<_>, _>>()?;
    let mut options = match &args.name {
        Some(name) => SubscribeOptions::durable(SubscriptionName::new(name).map_err(explain)?),
        None => SubscribeOptions::default(),
    };
    options = options.prefetch(args.prefetch.get());
    let config = args.remote.config("herald sub")?;
    crate::limits::raise_open_files();
    let mut signals = Signals::new()?;
    let stop = CancellationToken::new();
    let (sender, received) = mpsc::channel(WAITING);
    let mut tasks = JoinSet::new();
    tokio::select! {
        subscribed = subscribe_all(&config, &topics, &options, args.connections, &stop, sender, &mut tasks) => subscribed?,
        _ = signals.stop() => return Ok(DONE),
    }
    let printed = tokio::select! {
        printed = print(received, !args.no_ack, args.count) => printed,
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
            tasks.spawn(receive(subscription, sender.clone(), stop.clone()));
        }
    }
    Ok(())
}

/// Hands on what one connection gets, until it is over or `stop`; then ends it in an orderly way.
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
    // What was taken and not printed goes back to the queue with the connection.
    subscription.close().await
}

async fn print(
    mut received: mpsc::Receiver<(Delivery, Acker)>,
    acknowledge: bool,
    count: Option<NonZeroU64>,
) -> Result<(), OutputError> {
    let mut output = Output::stdout();
    let mut batch = Vec::new();
    let mut left = count.map_or(u64::MAX, NonZeroU64::get);
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(WAITING);
        let taken = received.recv_many(&mut batch, most).await;
        if taken == 0 {
            break;
        }
        for (delivery, _) in &batch {
            output.line(delivery.line())?;
        }
        output.flush()?;
        left -= taken as u64;
        for (delivery, acker) in batch.drain(..) {
            // Acknowledged only now that it is out of our hands. What ended the subscription is told by its task.
            if acknowledge && let Err(error) = acker.ack(&delivery).await {
                tracing::debug!(%error, id = %delivery.id(), "not acknowledged");
            }
        }
    }
    Ok(())
}

/// Waits for the connections' ends, and says which ended by themselves.
async fn finish(tasks: &mut JoinSet<Result<(), Error>>) -> anyhow::Result<Status> {
    let mut status = DONE;
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Ok(Ok(()) | Err(Error::Closed)) => {}
            // The last acknowledgements may not have arrived: those events come again.
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
