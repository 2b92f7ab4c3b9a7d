//! `herald demo`: feed, sources, broker, tweet pipeline and subscriber in one process, with a live line of counts.

use std::path::PathBuf;

use super::exit::Status;
use super::number::{integer, rate};

/// Whether this build has the command.
pub(super) const BUILT: bool = cfg!(all(feature = "pipeline", feature = "tcp"));

/// Run all of it on this machine: a simulated tweet feed, sources that read it, a broker, the tweet pipeline, a subscriber
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  herald demo\n  herald demo --data demo-data     keeps its data: kill it, start it again, and nothing is lost\n  \
                        herald demo --port 8100 --feed-port 4100 --console-port 8180\n  \
                        herald demo --mongodb 'mongodb://127.0.0.1:27017/demo?replicaSet=rs0'"
)]
pub(super) struct Args {
    /// The broker's port on 127.0.0.1; 0: a free one
    #[arg(long, default_value = "8000", value_parser = integer(0..=u16::MAX))]
    port: u16,
    /// The feed's port on 127.0.0.1; 0: a free one
    #[arg(long, default_value = "4000", value_parser = integer(0..=u16::MAX))]
    feed_port: u16,
    /// The port of the pipeline's console on 127.0.0.1; 0: a free one
    #[arg(long, default_value = "8080", value_parser = integer(0..=u16::MAX))]
    console_port: u16,
    /// Keep the data in this directory, instead of in a temporary one
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Store tweets in this MongoDB, a replica set, and publish the changes of its collections `tweets` and `users` instead of the feed's
    /// tweets
    #[arg(long, value_name = "URI")]
    mongodb: Option<String>,
    /// Tweets per second on each of the two streams
    #[arg(long, value_name = "N", default_value = "5", value_parser = rate)]
    rate: f64,
    /// Every Nth event of a stream is {"message": panic}, which is not JSON; 0: none
    #[arg(long, value_name = "N", default_value = "100", value_parser = integer(0..=u64::MAX))]
    panic_every: u64,
    /// What the tweets follow from: the same seed, the same tweets
    #[arg(long, value_name = "N", default_value = "1", value_parser = integer(0..=u64::MAX))]
    seed: u64,
}

#[cfg(not(all(feature = "pipeline", feature = "tcp")))]
pub(super) async fn run(args: Args) -> anyhow::Result<Status> {
    let Args { port: _, feed_port: _, console_port: _, data: _, mongodb: _, rate: _, panic_every: _, seed: _ } = args;
    Err(super::exit::UsageError("this build has no demo: rebuild with --features pipeline,tcp,json-log".to_owned())
        .into())
}

#[cfg(all(feature = "pipeline", feature = "tcp"))]
mod live_line;
#[cfg(all(feature = "pipeline", feature = "tcp"))]
mod mongodb;
#[cfg(all(feature = "pipeline", feature = "tcp"))]
mod subscriber;
#[cfg(all(feature = "pipeline", feature = "tcp"))]
pub(super) use enabled::run;

#[cfg(all(feature = "pipeline", feature = "tcp"))]
mod enabled {
    use std::net::SocketAddr;
    use std::path::Path;
    use std::time::Duration;

    use broker_core::settings::text::quoted;
    use pipeline_feed::FeedConfig;
    use tokio_util::sync::CancellationToken;

    use super::live_line::LiveLine;
    use super::mongodb::MongoDb;
    use super::{Args, Status, subscriber};
    use crate::assembly::{Broker, StartError, check_limits, durable};
    use crate::cli::{feed, serve};
    use crate::logging;
    use crate::output::{message, print};
    use crate::settings::{FileLayer, Inputs, load};
    use crate::signals::Signals;

    /// The most events that wait in a subscription before the sources are held back. Bounds the size of the temporary directory.
    const MAX_WAITING: u64 = 10_000;

    /// The durable subscription that keeps events from the start, before a client subscribes.
    const INBOX: &str = "inbox";

    /// The durable subscription of the subscriber that is part of the demo.
    const SUBSCRIBER: &str = "subscriber";

    pub(in crate::cli) async fn run(args: Args) -> anyhow::Result<Status> {
        let Args { port, feed_port, console_port, data, mongodb, rate, panic_every, seed } = args;
        let mongodb = mongodb.map(MongoDb::new).transpose()?;
        // Kept until the end: dropping it removes the directory.
        let temporary = match data {
            Some(_) => None,
            None => Some(tempfile::Builder::new().prefix("herald-demo-").tempdir()?),
        };
        let data = data.unwrap_or_else(|| temporary.as_ref().map(|dir| dir.path().to_owned()).unwrap_or_default());

        let feed_config = FeedConfig { rate, panic_every, seed, ..FeedConfig::default() };
        let feed = feed::load(feed_config).await?;
        let (feed_listener, feed_addr) = feed::listen_on(&format!("127.0.0.1:{feed_port}"), "--feed-port").await?;

        let inputs = Inputs {
            file: FileLayer::Demo(configuration(&data, feed_addr, mongodb.as_ref())),
            environment: std::env::vars_os().collect(),
            set: vec![
                format!("transports.tcp.listen=127.0.0.1:{port}"),
                format!("pipeline.console=127.0.0.1:{console_port}"),
            ],
        };
        let loaded = load(&inputs)?;
        let settings = &loaded.settings;
        logging::start(&settings.broker.log, settings.broker.log_format)?;
        check_limits(settings, crate::limits::raise_open_files());
        let mut signals = Signals::stopping()?;

        tracing::info!(transport = %"feed", addr = %feed_addr, "listening");
        let stop_feed = CancellationToken::new();
        let feed = tokio::spawn(feed.serve(feed_listener, stop_feed.clone()));
        let topics: &[&str] = if mongodb.is_some() { &["tweets", "users"] } else { &["tweets"] };
        let broker = Broker::start(settings).await.map_err(|error| name_the_option(error, port))?;
        if let Some(engine) = broker.engine() {
            for topic in topics {
                durable::keep(&**engine, topic, INBOX).await.map_err(anyhow::Error::msg)?;
            }
        }

        let addr = broker.listeners().first().map(|listener| listener.addr.clone()).unwrap_or_default();
        let console = broker.console().unwrap_or_default();
        let data_shown = data.to_string_lossy();
        print(&introduction(&addr, feed_addr, console, &data_shown, temporary.is_some(), mongodb.as_ref()))?;
        let stop_subscribers = CancellationToken::new();
        let subscribers = tokio_util::task::TaskTracker::new();
        for topic in topics {
            subscribers.spawn(subscriber::run(addr.clone(), topic, SUBSCRIBER, stop_subscribers.clone()));
        }
        subscribers.close();
        let live = LiveLine::start("tweets", MAX_WAITING);
        tokio::select! {
            _ = signals.stop() => {}
            () = broker.failed() => {}
            () = live.run(&broker) => {}
        }
        live.finish();
        message("herald: stopping; a second signal ends it at once");
        stop_subscribers.cancel();
        let _what_they_had_comes_again = tokio::time::timeout(Duration::from_secs(1), subscribers.wait()).await;
        let status = serve::stop(broker, settings.broker.shutdown_timeout, signals).await;
        stop_feed.cancel();
        let _the_feed_keeps_nothing = tokio::time::timeout(Duration::from_secs(1), feed).await;
        if temporary.is_none() {
            message(&format!("herald: the data is kept in {}", data.display()));
        }
        Ok(status)
    }

    fn configuration(data: &Path, feed: SocketAddr, mongodb: Option<&MongoDb>) -> String {
        let source = |number: u8| {
            format!(
                "[[sources]]\nkind = \"sse\"\nname = \"tweets-{number}\"\nurl = \"http://{feed}/tweets/{number}\"\ntopic = \"tweets\"\n\
                 msg = \"/message/tweet/text\"\npriority = {{ random = [0, 6] }}\n"
            )
        };
        let path = |name: &str| quoted(&data.join(name).to_string_lossy());
        // Either the feed or the change stream: the same tweet would come twice.
        let (sources, sink) = match mongodb {
            Some(mongodb) => mongodb.configuration(),
            None => (source(1) + &source(2), format!("kind = \"sqlite\"\npath = {}\n", path("tweets.db"))),
        };
        format!(
            "[broker]\nlog = \"warn,herald=info\"\n[storage]\npath = {}\n[topics.\"*\"]\nmax_waiting = {MAX_WAITING}\n{sources}\
             [pipeline]\nstreams = [\"http://{feed}/tweets/1\", \"http://{feed}/tweets/2\"]\nautostart = true\nhashtags_file = {}\n\
             [pipeline.sink]\n{sink}",
            path("broker"),
            path("hashtag_stats.json"),
        )
    }

    /// Names the option to change for the commonest failure, a port in use.
    fn name_the_option(error: StartError, port: u16) -> anyhow::Error {
        if let StartError::Console { addr, cause } = &error
            && cause.kind() == std::io::ErrorKind::AddrInUse
        {
            return anyhow::anyhow!("{addr} is in use: choose another port with --console-port");
        }
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

    fn introduction(
        broker: &str,
        feed: SocketAddr,
        console: &str,
        data: &str,
        temporary: bool,
        mongodb: Option<&MongoDb>,
    ) -> String {
        let (host, port) = broker.rsplit_once(':').unwrap_or((broker, "8000"));
        let (console_host, console_port) = console.rsplit_once(':').unwrap_or((console, "8080"));
        let server = if port == "8000" { String::new() } else { format!(" --server {broker}") };
        let data_note = if temporary { "removed at the end; --data DIR keeps it" } else { "kept" };
        let (topics, sources, stored) = match mongodb {
            None => (
                "topic \"tweets\"",
                "tweets-1, tweets-2   each tweet of the feed becomes an event with a priority from 0 to 6",
                "tweets.db".to_owned(),
            ),
            Some(mongodb) => (
                "topics \"tweets\" and \"users\"",
                "tweets, users   each change of these two collections becomes an event with a priority from 0 to 6",
                format!("MongoDB\n              ({})", mongodb.shown()),
            ),
        };
        format!(
            "
Herald is running on this machine:

  broker      {broker}   {topics}, durable subscriptions \"{INBOX}\" and \"{SUBSCRIBER}\"
  feed        http://{feed}/tweets/1 and /tweets/2   simulated tweets, as server-sent events
  sources     {sources}
  subscriber  acknowledges each event of \"{SUBSCRIBER}\" after 50 ms
  pipeline    scores each tweet of the feed and stores it in {stored}; its console is on {console}
  data        {data}   ({data_note})

Talk to it from another terminal, with telnet (or nc {host} {port}):

  telnet {host} {port}
  sub tweets {INBOX}                 the most urgent tweet comes at once
  ack tweets <id>                  acknowledge it by the id it came with, and the next one comes
  help                             everything else
  sub logger_stats                 the pipeline's statistics, every 5 seconds

  telnet {console_host} {console_port}
  twitter                          the tweets, as the pipeline's workers see them

or with the clients in this binary:

  herald sub tweets --name {INBOX} --count 5{server}
  herald pub tweets '{{\"priority\":9,\"msg\":\"hello\"}}'{server}
  herald stats{server}

Ctrl-C stops it.

"
        )
    }
}
