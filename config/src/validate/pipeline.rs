//! `[pipeline]`.

use std::sync::Arc;

use pipeline_tweets::PipelineConfig;
use serde_json::Value;

use super::Validate;
use crate::registry::{Entry, SinkConfig};

/// `[pipeline]`.
#[derive(Debug, Clone)]
pub struct PipelineSettings {
    /// The pipeline's configuration.
    pub config: PipelineConfig,
    /// The configuration of its sink, which opens the sink.
    pub sink: Arc<SinkConfig>,
}

/// The pipeline's settings; `None` without the table, or if there are problems.
pub(super) fn pipeline(validate: &mut Validate<'_>) -> Option<PipelineSettings> {
    let mut values = validate.table("pipeline")?.clone();
    let Some(Value::Object(mut sink)) = values.remove("sink") else { return None };
    let config = PipelineConfig::configure(&values);
    let config = config.map_err(|problems| validate.plugin_problems("pipeline", problems)).ok();
    let kind = sink.remove("kind")?;
    // The check has reported a kind that is unavailable.
    let (_, plugin) = Entry::plugin(&validate.registry.sinks, kind.as_str()?)?;
    let sink = (plugin.configure)(&sink);
    let sink = sink.map_err(|problems| validate.plugin_problems("pipeline.sink", problems)).ok()?;
    Some(PipelineSettings { config: config?, sink })
}
