//! The tweet pipeline in the broker's process.

use std::sync::Arc;

use broker_core::letter::DEAD;
use broker_core::source::Publisher;
use pipeline_tweets::{PipelineStats, TweetPipeline};
use tokio::net::TcpListener;

use super::{Broker, Listener, StartError, durable, spawn_vital};
use crate::validate::{PipelineSettings, Settings};

/// The parts of a running pipeline that [`Broker`] exposes.
pub(super) struct Tweets {
    stats: Box<dyn Fn() -> PipelineStats + Send + Sync>,
    console: Option<String>,
}

/// Binds the pipeline's console, if it has one. Like the other listeners, before anything on disk is touched.
pub(super) async fn bind_console(settings: &Settings) -> Result<Option<TcpListener>, StartError> {
    let Some(addr) = settings.pipeline.as_ref().and_then(|pipeline| pipeline.config.console.as_ref()) else {
        return Ok(None);
    };
    let bound = TcpListener::bind(addr).await;
    bound.map(Some).map_err(|cause| StartError::Console { addr: addr.clone(), cause })
}

impl Broker {
    /// The counts of the tweet pipeline, if there is one.
    #[must_use]
    pub fn pipeline_stats(&self) -> Option<PipelineStats> {
        self.tweets.as_ref().map(|tweets| (tweets.stats)())
    }

    /// The address that the pipeline's console is bound to, if it has one.
    #[must_use]
    pub fn console(&self) -> Option<&str> {
        self.tweets.as_ref()?.console.as_deref()
    }

    pub(super) async fn start_pipeline(
        &mut self,
        settings: &PipelineSettings,
        console: Option<TcpListener>,
        publisher: Arc<dyn Publisher>,
    ) -> Result<(), StartError> {
        let sink = settings.sink.open().await?;
        // Rejected tweets wait there for an operator, in a durable subscription, as the broker's own dead letters do.
        let topic = settings.config.dead_letter.as_str();
        let kept = match (&self.engine, &self.remote) {
            (Some(engine), None) => durable::keep(&**engine, topic, DEAD).await,
            _ => Err("the broker is another process".to_owned()),
        };
        if let Err(reason) = kept {
            tracing::warn!(%topic, %reason, "the pipeline's dead letters are kept only while somebody subscribes to their topic");
        }
        let addr = console.as_ref().and_then(|console| console.local_addr().ok()).map(|addr| addr.to_string());
        if let Some(addr) = &addr {
            tracing::info!(transport = %"console", addr = %addr, "listening");
            // Input on the console can only start the pipeline, but its output is readable by everyone who can reach the address.
            super::warn_of_exposure(&Listener { transport: "console", addr: addr.clone(), encrypted: false }, false);
        }
        let tweets = TweetPipeline::new(settings.config.clone(), sink, publisher, console);
        self.tweets = Some(Tweets { stats: Box::new(tweets.stats()), console: addr });
        let stop = self.pipeline.stop.clone();
        spawn_vital(&self.pipeline, &self.root, async move {
            tweets.run(stop).await;
            true
        });
        Ok(())
    }
}
