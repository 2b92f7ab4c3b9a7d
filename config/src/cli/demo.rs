//! `herald demo`: feed, sources and broker in one process, and a line that shows what happens.

use std::path::PathBuf;

use super::exit::Status;

/// Run all of it on this machine: a simulated tweet feed, two sources that read it, and a broker
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  herald demo\n  herald demo --data demo-data     keeps its data: kill it, start it again, and nothing is lost\n  \
                        herald demo --port 8100 --feed-port 4100"
)]
pub(super) struct Args {
    /// The broker's port on 127.0.0.1; 0: a free one
    #[arg(long, default_value = "8000")]
    port: u16,
    /// The feed's port on 127.0.0.1; 0: a free one
    #[arg(long, default_value = "4000")]
    feed_port: u16,
    /// Keep the data in this directory, instead of in a temporary one
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Tweets per second on each of the two streams
    #[arg(long, value_name = "N", default_value = "5")]
    rate: f64,
    /// Every Nth event of a stream is {"message": panic}, which is not JSON; 0: none
    #[arg(long, value_name = "N", default_value = "100")]
    panic_every: u64,
    /// What the tweets follow from: the same seed, the same tweets
    #[arg(long, value_name = "N", default_value = "1")]
    seed: u64,
}

#[cfg(not(all(feature = "pipeline", feature = "tcp")))]
pub(super) async fn run(args: Args) -> anyhow::Result<Status> {
    let Args { port: _, feed_port: _, data: _, rate: _, panic_every: _, seed: _ } = args;
    Err(super::exit::UsageError("this build has no demo: rebuild with --features pipeline,tcp,json-log".to_owned())
        .into())
}

#[cfg(all(feature = "pipeline", feature = "tcp"))]
pub(super) use enabled::run;

#[cfg(all(feature = "pipeline", feature = "tcp"))]
mod enabled {
    use std::net::SocketAddr;
    use std::time::Duration;

    use broker_core::engine::Engine;
    use pipeline::feed::FeedConfig;
    use tokio_util::sync::CancellationToken;

    use super::{Args, Status};
    use crate::assembly::{Broker, StartError, check_limits};
    use crate::cli::{feed, serve};
    use crate::live::{Live, ask, topic_stats};
    use crate::logging;
    use crate::output::{message, print};
    use crate::settings::path::quoted;
    use crate::settings::{FileLayer, Inputs, load};
    use crate::signals::Signals;

    /// The events that wait in a subscription before the sources have to wait: what bounds the temporary directory.
    const MAX_WAITING: u64 = 10_000;

    /// The durable subscription that keeps events from the start, before anybody subscribes.
    const INBOX: &str = "inbox";

    pub(in crate::cli) async fn run(args: Args) -> anyhow::Result<Status> {
        let Args { port, feed_port, data, rate, panic_every, seed } = args;
        // Kept until the end, when dropping it removes the directory.
        let temporary = match data {
            Some(_) => None,
            None => Some(tempfile::Builder::new().prefix("herald-demo-").tempdir()?),
        };
        let data = data.unwrap_or_else(|| temporary.as_ref().map(|dir| dir.path().to_owned()).unwrap_or_default());

        let feed_config = FeedConfig { rate, panic_every, seed, ..FeedConfig::default() };
        let feed = feed::load(feed_config).await?;
        let (feed_listener, feed_addr) = feed::listen_on(&format!("127.0.0.1:{feed_port}"), "--feed-port").await?;

        let inputs = Inputs {
            file: FileLayer::Demo(configuration(&data.to_string_lossy(), feed_addr)),
            environment: std::env::vars_os().collect(),
            set: vec![format!("transports.tcp.listen=127.0.0.1:{port}")],
        };
        let loaded = load(&inputs)?;
        let settings = &loaded.settings;
        logging::start(&settings.broker.log, settings.broker.log_format)?;
        check_limits(settings, crate::limits::raise_open_files());
        let mut signals = Signals::new()?;

        tracing::info!(transport = %"feed", addr = %feed_addr, "listening");
        let stop_feed = CancellationToken::new();
        let feed = tokio::spawn(feed.serve(feed_listener, stop_feed.clone()));
        let broker = Broker::start(settings).await.map_err(|error| name_the_option(error, port))?;
        if let Some(engine) = broker.engine() {
            durable::keep(&**engine, "tweets", INBOX).await.map_err(anyhow::Error::msg)?;
        }

        let addr = broker.listeners().first().map(|listener| listener.addr.clone()).unwrap_or_default();
        print(&introduction(&addr, feed_addr, &settings.storage.path.to_string_lossy(), temporary.is_some()))?;
        let live = Live::start("tweets", MAX_WAITING);
        tokio::select! {
            _ = signals.stop() => {}
            () = broker.failed() => {}
            () = live.run(&broker) => {}
        }
        live.finish();
        message("herald: stopping; a second signal ends it at once");
        let status = serve::stop(broker, settings.broker.shutdown_timeout, signals).await;
        stop_feed.cancel();
        let _the_feed_keeps_nothing = tokio::time::timeout(Duration::from_secs(1), feed).await;
        if temporary.is_none() {
            message(&format!("herald: the data is kept in {}", data.display()));
        }
        Ok(status)
    }

    fn configuration(data: &str, feed: SocketAddr) -> String {
        let source = |number: u8| {
            format!(
                "[[sources]]\nkind = \"sse\"\nname = \"tweets-{number}\"\nurl = \"http://{feed}/tweets/{number}\"\ntopic = \"tweets\"\n\
                 msg = \"/message/tweet/text\"\npriority = {{ random = [0, 6] }}\n"
            )
        };
        format!(
            "[broker]\nlog = \"warn,herald=info\"\n[storage]\npath = {}\n[topics.\"*\"]\nmax_waiting = {MAX_WAITING}\n{}{}",
            quoted(data),
            source(1),
            source(2)
        )
    }

    /// The commonest failure, in the words of this command's options.
    fn name_the_option(error: StartError, port: u16) -> anyhow::Error {
        let in_use = match &error {
            StartError::Transport(error) => {
                let cause = error.cause.as_ref().and_then(|cause| cause.downcast_ref::<std::io::Error>());
                cause.is_some_and(|error| error.kind() == std::io::ErrorKind::AddrInUse)
            }
            _ => false,
        };
        if in_use {
            anyhow::anyhow!("127.0.0.1:{port} is in use: choose another port with --port")
        } else {
            error.into()
        }
    }

    /// Makes a durable subscription, so that there is something to see when the first person subscribes.
    async fn keep_events(engine: &dyn Engine, topic: &'static str) -> anyhow::Result<()> {
        use broker_core::engine::{Op, Outcome};
        use broker_core::name::{SubscriptionName, TopicName};

        // One that is there from an earlier run is left alone: subscribing to it would take an event out and put it back, and
        // that would count as a delivery.
        let there = topic_stats(engine, topic).await;
        if there.is_some_and(|stats| stats.subscriptions.iter().any(|one| one.name.as_deref() == Some(INBOX))) {
            return Ok(());
        }
        let (topic, name) = (TopicName::new(topic)?, Some(SubscriptionName::new(INBOX)?));
        let detach = Op::Detach { topic: topic.clone() };
        match ask(engine, vec![Op::Subscribe { topic, name, prefetch: 1 }, detach]).await.as_deref() {
            Some([Outcome::Refused(refusal), ..]) => Err(refusal.clone().into()),
            Some(_) => Ok(()),
            None => anyhow::bail!("the engine has closed"),
        }
    }

    fn introduction(broker: &str, feed: SocketAddr, data: &str, temporary: bool) -> String {
        let (host, port) = broker.rsplit_once(':').unwrap_or((broker, "8000"));
        let server = if port == "8000" { String::new() } else { format!(" --server {broker}") };
        let data_note = if temporary { "removed at the end; --data DIR keeps it" } else { "kept" };
        format!(
            "
Herald is running on this machine:

  broker   {broker}   topic \"tweets\", durable subscription \"{INBOX}\"
  feed     http://{feed}/tweets/1 and /tweets/2   simulated tweets, as server-sent events
  sources  tweets-1, tweets-2   each tweet of the feed becomes an event with a priority from 0 to 6
  data     {data}   ({data_note})

Talk to it from another terminal, with telnet (or nc {host} {port}):

  telnet {host} {port}
  sub tweets {INBOX}                 the most urgent tweet comes at once
  ack tweets <id>                  acknowledge it by the id it came with, and the next one comes
  help                             everything else

or with the clients in this binary:

  herald sub tweets --name {INBOX} --count 5{server}
  herald pub tweets '{{\"priority\":9,\"msg\":\"hello\"}}'{server}
  herald stats{server}

Ctrl-C stops it.

"
        )
    }
}
