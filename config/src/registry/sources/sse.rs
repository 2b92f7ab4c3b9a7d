//! `kind = "sse"`.

use broker_core::source::SourceError;
use pipeline::mapping::{Pointer, PointerError};
use pipeline::sse::{Selection, SseClient, SseConfig, SseConfigError, SseSource};

use super::super::BuiltSource;
use super::{built, mapping, wrong};
use crate::validate::{FeedSettings, SourceSettings};

/// Everything there is to say against the settings, by key.
pub(super) fn problems(settings: &SourceSettings) -> Vec<(&'static str, String)> {
    let mut problems = Vec::new();
    if let Err(error) = selection(settings) {
        problems.push(("skip", error.to_string()));
    }
    if let Some(error) = config(settings).and_then(|config| SseClient::new(config).err()) {
        let key = match error {
            SseConfigError::Header { .. } => "headers",
            _ => "url",
        };
        problems.push((key, crate::error_chain(&error)));
    }
    problems
}

pub(in super::super) fn make(settings: &SourceSettings) -> Result<BuiltSource, SourceError> {
    let mapping = mapping::mapping(settings).map_err(|error| wrong(settings, &*error))?;
    let config = config(settings).unwrap_or_else(|| SseConfig::new(""));
    let source = SseSource::new(&settings.name, config, mapping).map_err(|error| wrong(settings, &error))?;
    let source = source.only(selection(settings).map_err(|error| wrong(settings, &error))?);
    let counters = source.counters();
    Ok(built(Box::new(source), counters))
}

/// `None`: it is of another kind.
fn config(settings: &SourceSettings) -> Option<SseConfig> {
    let FeedSettings::Sse { url, headers, .. } = &settings.feed else { return None };
    let mut config = SseConfig::new(url.reveal());
    config.headers = headers.iter().map(|(name, value)| (name.clone(), value.reveal().to_owned())).collect();
    Some(config)
}

/// Which of its events are published.
fn selection(settings: &SourceSettings) -> Result<Selection, PointerError> {
    let FeedSettings::Sse { events, skip, .. } = &settings.feed else { return Ok(Selection::default()) };
    let skip = skip.iter().map(|(pointer, unwanted)| Ok((Pointer::new(pointer)?, unwanted.clone())));
    Ok(Selection { events: events.clone(), skip: skip.collect::<Result<_, _>>()? })
}
