//! The position of a source in its feed, as the broker stores it.

use serde::{Deserialize, Serialize};

/// The format written. Reading takes it and the bare event id that came before it.
const FORMAT: u32 = 1;

/// The beginning of a stored position; anything else is a bare event id.
const MARK: &str = "{\"sse\":";

/// Everything that reading on depends on, so that a restart resumes as a reconnect does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct SseCursor {
    /// The last event id; empty if there is none, or the server reset it.
    pub last_event_id: String,
    /// The newest id, up to and including the last, that a header can carry.
    pub sendable_id: String,
    /// The number of the newest connection that brought an event, counted across restarts.
    pub connection: u64,
    /// Whether the server has used one id for different events on different connections.
    pub reuses_ids: bool,
    /// Some ids of the newest connection and digests of their events; see [`EventIds`](super::ids::EventIds).
    pub known: Vec<(u64, u64)>,
}

/// The error for a stored position of a later version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the stored position has format {0}, which a later version of herald wrote; this one reads format {FORMAT}")]
pub(crate) struct NewerCursor(u32);

#[derive(Serialize, Deserialize)]
struct Stored {
    sse: u32,
    #[serde(default)]
    id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sendable: Option<String>,
    #[serde(default)]
    connection: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    reuses_ids: bool,
    /// In each text two numbers of 16 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    known: Vec<String>,
}

#[derive(Deserialize)]
struct Format {
    sse: u32,
}

impl SseCursor {
    /// Reads a stored position in this format or the older one.
    pub(crate) fn parse(text: &str) -> Result<Self, NewerCursor> {
        if let Some(Format { sse }) = text.starts_with(MARK).then(|| serde_json::from_str(text).ok()).flatten() {
            if sse > FORMAT {
                return Err(NewerCursor(sse));
            }
            if let Ok(stored) = serde_json::from_str::<Stored>(text) {
                return Ok(stored.into());
            }
        }
        Ok(Self { last_event_id: text.to_owned(), sendable_id: text.to_owned(), ..Self::default() })
    }

    /// The text to store.
    pub(crate) fn encode(&self) -> String {
        let stored = Stored {
            sse: FORMAT,
            id: self.last_event_id.clone(),
            sendable: (self.sendable_id != self.last_event_id).then(|| self.sendable_id.clone()),
            connection: self.connection,
            reuses_ids: self.reuses_ids,
            known: self.known.iter().map(|(id, event)| format!("{id:016x}{event:016x}")).collect(),
        };
        serde_json::to_string(&stored).expect("numbers and texts can be written as JSON")
    }
}

impl From<Stored> for SseCursor {
    fn from(stored: Stored) -> Self {
        let known = |text: &String| {
            let (id, event) = text.split_at_checked(16)?;
            Some((u64::from_str_radix(id, 16).ok()?, u64::from_str_radix(event, 16).ok()?))
        };
        Self {
            sendable_id: stored.sendable.unwrap_or_else(|| stored.id.clone()),
            last_event_id: stored.id,
            connection: stored.connection,
            reuses_ids: stored.reuses_ids,
            known: stored.known.iter().filter_map(known).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_as_it_was_written() {
        let cursor = SseCursor {
            last_event_id: "8\u{1}\"\n日".to_owned(),
            sendable_id: "7".to_owned(),
            connection: 12,
            reuses_ids: true,
            known: vec![(0, u64::MAX), (0x1234, 5)],
        };
        assert_eq!(SseCursor::parse(&cursor.encode()), Ok(cursor));
        assert_eq!(SseCursor::parse(&SseCursor::default().encode()), Ok(SseCursor::default()));
    }

    #[test]
    fn a_bare_id_of_the_older_format_is_read() {
        for id in ["7", "", r#"[{"topic":"eqiad.x","offset":-1}]"#, "{\"sse\":", r#"{"sse":"x"}"#] {
            let read = SseCursor::parse(id).unwrap();
            assert_eq!((read.last_event_id.as_str(), read.sendable_id.as_str(), read.connection), (id, id, 0));
        }
    }

    #[test]
    fn a_later_format_is_refused() {
        assert_eq!(SseCursor::parse(r#"{"sse":2,"place":[1]}"#), Err(NewerCursor(2)));
    }
}
