//! The tweet pipeline in the broker's process.

use std::sync::Arc;

use broker_core::letter::DEAD;
use broker_core::source::Publisher;
use pipeline::tweets::PipelineFigures;
use tokio::net::TcpListener;

use super::{Broker, Listener, StartError, durable, spawn_vital};
use crate::registry;
use crate::validate::{PipelineSettings, Settings};

/// A pipeline that runs, as others see it.
pub(super) struct Tweets {
    figures: Box<dyn Fn() -> PipelineFigures + Send + Sync>,
    console: Option<String>,
}

/// Binds the pipeline's console, if it is to have one: before anything is touched on disk, as with the other listeners.
pub(super) async fn bind_console(settings: &Settings) -> Result<Option<TcpListener>, StartError> {
    let Some(addr) = settings.pipeline.as_ref().and_then(|pipeline| pipeline.console.as_ref()) else { return Ok(None) };
    let bound = TcpListener::bind(addr).await;
    bound.map(Some).map_err(|cause| StartError::Console { addr: addr.clone(), cause })
}

impl Broker {
    /// What the tweet pipeline has done, if there is one.
    #[must_use]
    pub fn pipeline_figures(&self) -> Option<PipelineFigures> {
        self.tweets.as_ref().map(|tweets| (tweets.figures)())
    }

    /// Where the pipeline's console really listens, if there is one.
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
        let sink = registry::pipeline::make_sink(&settings.sink).await?;
        // Where they wait for somebody to look at them, as the broker's own do.
        let topic = settings.dead_letter.as_str();
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
            // What is typed there can only start the pipeline, but what is shown is for everyone who can reach it.
            super::warn_of_exposure(&Listener { transport: "console", addr: addr.clone(), encrypted: false }, false);
        }
        let tweets = registry::pipeline::make(settings, sink, publisher, console);
        self.tweets = Some(Tweets { figures: Box::new(tweets.figures()), console: addr });
        let stop = self.pipeline.stop.clone();
        spawn_vital(&self.pipeline, &self.root, async move {
            tweets.run(stop).await;
            true
        });
        Ok(())
    }
}
