//! The tweet pipeline and its sinks, made of their settings.

use std::sync::Arc;

use broker_core::source::Publisher;
use pipeline::sink::sqlite::SqliteSink;
use pipeline::sink::{Sink, SinkError};
use pipeline::sse::{SseClient, SseConfig};
use pipeline::tweets::{PipelineConfig, TweetPipeline};
use tokio::net::TcpListener;

use crate::error_chain;
use crate::validate::{PipelineSettings, SinkSettings};

/// What is wrong with a stream's URL, without quoting it.
pub(crate) fn stream_problem(url: &str) -> Result<(), String> {
    SseClient::new(SseConfig::new(url)).map(drop).map_err(|error| error_chain(&error))
}

/// What is wrong with a sink's `uri`, without quoting it.
pub(crate) fn uri_problem(uri: &str) -> Option<String> {
    #[cfg(feature = "mongodb")]
    return pipeline::sink::mongodb::MongoSink::new(uri).err().map(|error| error.to_string());
    #[cfg(not(feature = "mongodb"))]
    {
        // The check refuses the kind that has one.
        let _ = uri;
        None
    }
}

/// Opens a sink.
pub(crate) async fn make_sink(settings: &SinkSettings) -> Result<Arc<dyn Sink>, SinkError> {
    #[cfg(feature = "mongodb")]
    if let (true, Some(uri)) = (settings.kind == "mongodb", &settings.uri) {
        // It connects when there is something to store; a server that is down is waited for.
        return Ok(Arc::new(pipeline::sink::mongodb::MongoSink::new(uri.reveal())?));
    }
    // The check lets no other kind through.
    let path = settings.path.clone();
    let opened = tokio::task::spawn_blocking(move || SqliteSink::open(&path)).await;
    match opened {
        Ok(sink) => Ok(Arc::new(sink?)),
        Err(panic) => Err(SinkError::new("opening the sink panicked", panic)),
    }
}

/// Puts a pipeline together, which does not begin yet.
pub(crate) fn make(
    settings: &PipelineSettings,
    sink: Arc<dyn Sink>,
    publisher: Arc<dyn Publisher>,
    console: Option<TcpListener>,
) -> TweetPipeline {
    let config = PipelineConfig {
        streams: settings.streams.iter().map(|url| url.reveal().to_owned()).collect(),
        autostart: settings.autostart,
        workers: settings.workers,
        max_workers: settings.max_workers,
        autoscale: settings.autoscale,
        simulated_work: settings.simulated_work,
        batch_size: settings.batch_size,
        flush: settings.flush,
        stats: settings.stats,
        hashtags_file: settings.hashtags_file.clone(),
        dead_letter: settings.dead_letter.clone(),
    };
    TweetPipeline::new(config, sink, publisher, console)
}
