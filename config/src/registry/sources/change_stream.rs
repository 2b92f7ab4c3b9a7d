//! `kind = "change-stream"`.

use broker_core::source::SourceError;
use pipeline::change_stream::{BeforeChange, ChangeStreamConfig, ChangeStreamSource, FullDocument, OnLostHistory};

use super::super::BuiltSource;
use super::{built, mapping, wrong};
use crate::settings::raw;
use crate::validate::{FeedSettings, SourceSettings};

/// What is wrong with the settings, by key.
pub(super) fn problems(settings: &SourceSettings) -> Option<(&'static str, String)> {
    // Making a source connects to nothing. The mapping has been looked at already.
    let mapping = mapping::mapping(settings).ok()?;
    let error = ChangeStreamSource::new(&settings.name, config(settings)?, mapping).err()?;
    Some((error.key, error.reason))
}

pub(in super::super) fn make(settings: &SourceSettings) -> Result<BuiltSource, SourceError> {
    let mapping = mapping::mapping(settings).map_err(|error| wrong(settings, &*error))?;
    let config = config(settings).unwrap_or_else(|| ChangeStreamConfig::new(""));
    let source = ChangeStreamSource::new(&settings.name, config, mapping).map_err(|error| wrong(settings, &error))?;
    let counters = source.counters();
    Ok(built(Box::new(source), counters))
}

/// `None`: it is of another kind.
fn config(settings: &SourceSettings) -> Option<ChangeStreamConfig> {
    let FeedSettings::ChangeStream(settings) = &settings.feed else { return None };
    let mut config = ChangeStreamConfig::new(settings.uri.reveal());
    config.database.clone_from(&settings.database);
    config.collections.clone_from(&settings.collections);
    config.operations.clone_from(&settings.operations);
    config.on_lost_history = match settings.on_lost_history {
        raw::OnLostHistory::Fail => OnLostHistory::Fail,
        raw::OnLostHistory::Restart => OnLostHistory::Restart,
    };
    config.full_document = match settings.full_document {
        raw::FullDocument::Lookup => FullDocument::Lookup,
        raw::FullDocument::WhenAvailable => FullDocument::WhenAvailable,
        raw::FullDocument::Required => FullDocument::Required,
        raw::FullDocument::Off => FullDocument::Off,
    };
    config.before_change = match settings.before_change {
        raw::BeforeChange::Off => BeforeChange::Off,
        raw::BeforeChange::WhenAvailable => BeforeChange::WhenAvailable,
        raw::BeforeChange::Required => BeforeChange::Required,
    };
    Some(config)
}
