//! Counts hashtags and writes the counts to a file.
//!
//! The counts belong to the sink: it stores which tweets have been counted along with the tweets, so a repeated tweet, a kill or
//! a retry changes nothing. The file is a view of them, rewritten whenever they have changed.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use durable_files::{FileError, SystemFiles};
use tokio_util::sync::CancellationToken;

use broker_core::error_chain;

use crate::sink::{TaggedTweet, TweetSink};

/// The interval between writes of the file, as in the reference system.
const WRITE_EVERY: Duration = Duration::from_secs(3);

/// The most tags kept in memory and written to the file. The sink keeps them all.
const MAX_TAGS: usize = 1_000_000;

/// The counts.
#[derive(Debug, Default)]
pub(super) struct HashtagCounts {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    counts: HashMap<String, u64>,
    changed: bool,
    full: bool,
}

impl HashtagCounts {
    /// Starts with the sink's counts.
    pub(super) fn new(counts: HashMap<String, u64>) -> Self {
        Self { state: Mutex::new(State { counts, changed: true, full: false }) }
    }

    /// Adds the tags of those `tagged` tweets that are in `counted`.
    pub(super) fn count(&self, tagged: &[TaggedTweet], counted: &[usize]) {
        if counted.is_empty() {
            return;
        }
        let mut state = self.lock();
        for tag in counted.iter().filter_map(|at| tagged.get(*at)).flat_map(|tweet| &tweet.tags) {
            state.add(tag);
        }
    }

    /// Replaces the counts with the sink's, when it is unknown which attempt counted what.
    pub(super) async fn reload(&self, sink: &dyn TweetSink) {
        match sink.hashtags().await {
            Ok(counts) => {
                let mut state = self.lock();
                state.counts = counts;
                state.changed = true;
            }
            Err(error) => {
                tracing::warn!(error = %error_chain(&error), "reading the hashtag counts failed: the file may lack some until the next start");
            }
        }
    }

    /// Keeps the file up to date until `stop`, then writes it a last time.
    pub(super) async fn write_to(self: Arc<Self>, path: PathBuf, stop: CancellationToken) {
        loop {
            let stopped = tokio::select! {
                () = stop.cancelled() => true,
                () = tokio::time::sleep(WRITE_EVERY) => false,
            };
            if let Some(counts) = self.changes() {
                let for_writing = path.clone();
                let written = tokio::task::spawn_blocking(move || write(&for_writing, &counts)).await;
                if let Ok(Err(error)) = written {
                    tracing::warn!(path = %path.display(), error = %error_chain(&error), "writing the hashtag file failed, retrying");
                    self.lock().changed = true;
                }
            }
            if stopped {
                return;
            }
        }
    }

    /// The counts, if they have changed since the last call.
    fn changes(&self) -> Option<Vec<(String, u64)>> {
        let mut state = self.lock();
        std::mem::take(&mut state.changed)
            .then(|| state.counts.iter().map(|(tag, count)| (tag.clone(), *count)).collect())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn add(&mut self, tag: &str) {
        self.changed = true;
        if let Some(count) = self.counts.get_mut(tag) {
            *count += 1;
        } else if self.counts.len() < MAX_TAGS {
            self.counts.insert(tag.to_owned(), 1);
        } else if !std::mem::replace(&mut self.full, true) {
            tracing::warn!(
                MAX_TAGS,
                "the limit of hashtags in the file is reached: new ones are counted in the sink only"
            );
        }
    }
}

/// Writes one JSON object, highest count first, ties by tag. A reader, even after a crash, sees either all of the old
/// file or all of the new one.
fn write(path: &Path, counts: &[(String, u64)]) -> Result<(), FileError> {
    let mut in_order: Vec<&(String, u64)> = counts.iter().collect();
    in_order.sort_unstable_by(|(tag_a, a), (tag_b, b)| b.cmp(a).then_with(|| tag_a.cmp(tag_b)));
    let mut out = String::from("{");
    for (at, (tag, count)) in in_order.iter().enumerate() {
        let tag = serde_json::Value::from(tag.as_str());
        out.push_str(&format!("{}{tag}:{count}", if at == 0 { "\n" } else { ",\n" }));
    }
    out.push_str("\n}\n");
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    durable_files::replace(&SystemFiles, path, Path::new(&draft), out.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tweet(id: &str, tags: &[&str]) -> TaggedTweet {
        TaggedTweet { tweet: id.to_owned(), tags: tags.iter().map(|tag| (*tag).to_owned()).collect() }
    }

    #[test]
    fn the_file_has_the_highest_count_first_and_only_what_was_new() {
        let dir = std::env::temp_dir().join(format!("herald-hashtags-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("hashtag_stats.json");
        let hashtags = HashtagCounts::new(HashMap::from([("old".to_owned(), 2)]));
        hashtags.count(&[tweet("1", &["b", "Rust"]), tweet("2", &["seen"]), tweet("3", &["a", "b", "\"q\""])], &[0, 2]);
        write(&path, &hashtags.changes().unwrap()).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "{\n\"b\":2,\n\"old\":2,\n\"\\\"q\\\"\":1,\n\"Rust\":1,\n\"a\":1\n}\n");
        let parsed: HashMap<String, u64> = serde_json::from_str(&text).unwrap();
        assert_eq!(parsed.len(), 5);
        assert!(hashtags.changes().is_none());
        write(&path, &[]).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\n}\n");
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1, "no temporary file is left");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
