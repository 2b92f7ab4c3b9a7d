//! `[pipeline.sink]` with `kind = "sqlite"`.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use broker_core::settings::{Key, Plugin, Preset, Shape, read};
use serde::Deserialize;

use super::SqliteSink;
use crate::settings::TweetSinkConfig;
use crate::sink::{SinkError, TweetSink};

/// The plugin, for the registry.
pub const PLUGIN: Plugin<dyn TweetSinkConfig> = Plugin {
    doc: "An SQLite file, written by this process.",
    keys: &[Key::with_default(
        "path",
        Shape::Path("file"),
        Preset::Text("tweets.db"),
        "The file, created if it is missing.",
    )],
    configure: |values| Ok(Arc::new(read::<SqliteSinkConfig>(values)?)),
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SqliteSinkConfig {
    path: PathBuf,
}

#[async_trait]
impl TweetSinkConfig for SqliteSinkConfig {
    async fn open(&self) -> Result<Arc<dyn TweetSink>, SinkError> {
        let path = self.path.clone();
        match tokio::task::spawn_blocking(move || SqliteSink::open(&path)).await {
            Ok(sink) => Ok(Arc::new(sink?)),
            Err(panic) => Err(SinkError::new("opening the sink panicked", panic)),
        }
    }
}
