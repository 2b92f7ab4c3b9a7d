//! Turns one document of a stream into an event, a gap, or both.

use std::sync::atomic::Ordering;

use bson::RawDocumentBuf;
use pipeline_source::mapping::Skipped;

use super::super::batch::Batch;
use super::super::change::{Change, derived_id};
use super::super::notice;
use super::super::position::Position;
use super::super::split::{Fragments, Whole};
use super::super::stats::now_secs;
use super::Reader;

/// The most pairs of reason and collection that are logged.
const MOST_TOLD: usize = 100;

impl Reader<'_> {
    /// Adds a document's event and position to the batch. True: the stream ends with it.
    pub(super) fn take(&mut self, document: RawDocumentBuf, fragments: &mut Fragments, batch: &mut Batch) -> bool {
        let source = self.source;
        let (change, known_by) = match fragments.push(document) {
            Whole::Change(change, known_by) => (change, known_by),
            Whole::More => return false,
            Whole::Unusable(why) => {
                source.counters.skipped.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(source = %source.name, why, "skipped a document that is no valid change");
                return false;
            }
        };
        let before = batch.position.clone().or_else(|| self.position.clone());
        let time = change.cluster_time().map(|time| time.time);
        let time = time.or(before.as_ref().map(|before| before.time)).unwrap_or_else(now_secs);
        let Some(token) = change.token() else { return false };
        let here = Position { token, time };
        source.stats.read(time);
        if source.scope.publishes(change.operation()) {
            source.counters.read.fetch_add(1, Ordering::Relaxed);
            let several = source.scope.collections.len() != 1;
            self.watch.examine(&source.name, &change.data(several));
            match source.mapping.apply_to(&change.data(several), &derived_id(&source.name, &known_by)) {
                Ok(event) => batch.push(event),
                Err(why) => self.left_out(batch, before.as_ref(), &here, &change, why),
            }
        }
        let over = change.operation() == "invalidate";
        if over {
            let reason = self.emptied.take().unwrap_or_else(|| "the stream was invalidated".to_owned());
            self.gap(batch, before.as_ref(), &here, &reason, Some(&change));
        } else if let Some(reason) = self.what_was_emptied(&change) {
            // A stream over several collections continues without this one, so the gap is reported now. A stream over one
            // collection ends instead: the invalidate that follows reports the gap, so that there is only one.
            if source.scope.collections.len() != 1 && change.operation() != "dropDatabase" {
                self.gap(batch, before.as_ref(), &here, &reason, Some(&change));
            } else {
                self.emptied = Some(reason);
            }
        }
        batch.position = Some(here);
        over
    }

    /// Describes a change after which a collection is empty or gone.
    fn what_was_emptied(&self, change: &Change) -> Option<String> {
        let (collection, to) = change.collections();
        let collection = collection.unwrap_or_default();
        match change.operation() {
            "drop" => Some(format!("the collection {collection} was dropped")),
            "rename" => Some(format!("the collection {collection} was renamed to {}", to.unwrap_or_default())),
            "dropDatabase" => Some(format!("the database {} was dropped", self.source.scope.database)),
            _ => None,
        }
    }

    /// Counts a change that is not published. One that cannot be written is reported as a gap, because consumers miss it. One that the
    /// mapping leaves out is logged, once per reason and collection.
    fn left_out(
        &mut self,
        batch: &mut Batch,
        before: Option<&Position>,
        here: &Position,
        change: &Change,
        why: Skipped,
    ) {
        self.source.counters.skipped.fetch_add(1, Ordering::Relaxed);
        let (collection, _) = change.collections();
        let collection = collection.unwrap_or_default();
        let cannot = match why {
            Skipped::NoTopic | Skipped::NoMessage => {
                self.tell(why, collection, change);
                return;
            }
            Skipped::TooDeep => "is nested too deep",
            Skipped::TooLarge => "is too large",
            Skipped::Malformed => "cannot be read",
        };
        let reason = format!("the message of a change to {collection} {cannot}; it was left out");
        tracing::warn!(source = %self.source.name, collection, bytes = change.bytes(), token = %here.token.text(), reason, "a change cannot be published");
        self.gap(batch, before, here, &reason, Some(change));
    }

    /// Logs the first change of a collection that is skipped for this reason.
    fn tell(&mut self, why: Skipped, collection: &str, change: &Change) {
        if self.told.len() >= MOST_TOLD || !self.told.insert((why, collection.to_owned())) {
            return;
        }
        let reason = match why {
            Skipped::NoTopic => "the topic's pointer finds no valid topic name",
            _ => "the message's pointer finds nothing, and on_missing is \"skip\"",
        };
        tracing::warn!(source = %self.source.name, collection, operation = change.operation(), reason, "skipped a change; later ones for the same reason are only counted");
    }

    /// Counts and logs a gap, and adds its event. `about` is the change that caused it, which may determine the topic.
    pub(super) fn gap(
        &self,
        batch: &mut Batch,
        from: Option<&Position>,
        to: &Position,
        reason: &str,
        about: Option<&Change>,
    ) {
        let source = self.source;
        source.stats.gaps.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(source = %source.name, reason, "gap in the changes");
        if let Some(event) = notice::gap(&source.name, &source.mapping, from, to, reason, about) {
            batch.push(event);
        }
    }
}
