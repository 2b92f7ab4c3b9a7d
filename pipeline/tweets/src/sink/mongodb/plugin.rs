//! `[pipeline.sink]` with `kind = "mongodb"`.

use std::sync::Arc;

use async_trait::async_trait;
use broker_core::settings::{Key, Plugin, Problem, Secret, SecretString, Shape, Values, read};
use serde::Deserialize;

use super::MongoSink;
use crate::settings::TweetSinkConfig;
use crate::sink::{SinkError, TweetSink};

const URI: Key =
    Key::required("uri", Shape::Text, "The server and the database, such as \"mongodb://localhost:27017/rtp_sse_db\".")
        .secret(Secret::InUrl);

/// The plugin, for the registry.
pub const PLUGIN: Plugin<dyn TweetSinkConfig> = Plugin { doc: "A MongoDB server.", keys: &[URI], configure };

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MongoSinkConfig {
    uri: SecretString,
}

fn configure(values: &Values) -> Result<Arc<dyn TweetSinkConfig>, Vec<Problem>> {
    let config: MongoSinkConfig = read(values)?;
    // The sink connects with its first batch.
    match MongoSink::new(config.uri.reveal()) {
        Ok(_) => Ok(Arc::new(config)),
        Err(error) => Err(vec![Problem::new(URI.name, error.to_string())]),
    }
}

#[async_trait]
impl TweetSinkConfig for MongoSinkConfig {
    async fn open(&self) -> Result<Arc<dyn TweetSink>, SinkError> {
        // The sink connects with its first batch, so a server that is down now does not matter.
        Ok(Arc::new(MongoSink::new(self.uri.reveal())?))
    }
}
