//! The positions of the sources: their cursors, and the events that stand aside for full topics.
//!
//! Both are stored as cursors. An event that stands aside has the name `<source>\n<number>`; its removal is an empty value, because a
//! storage keeps the latest value of each name and has no removal. This map changes only after the batch is durable, so it never runs
//! ahead of the stored state. From it the engine tells what an earlier attempt of a hand-over has stored.

use std::collections::{BTreeMap, HashMap};

use crate::engine::{Handover, Offer, Outcome, Standing};

/// The committed cursors and the events that stand aside, as the storage has them.
#[derive(Default)]
pub(super) struct Sources {
    cursors: HashMap<String, String>,
    aside: HashMap<String, BTreeMap<u32, Offer>>,
}

impl Sources {
    /// Separates the recovered cursors from the events that stand aside.
    pub(super) fn recovered(stored: HashMap<String, String>) -> Self {
        let mut sources = Self::default();
        for (key, value) in stored {
            let Some((source, number)) = Offer::parse_key(&key) else {
                sources.cursors.insert(key, value);
                continue;
            };
            // The event is in its topic.
            if value.is_empty() {
                continue;
            }
            match Offer::decode(number, &value) {
                Some(offer) => {
                    sources.aside.entry(source.to_owned()).or_default().insert(number, offer);
                }
                None => {
                    tracing::error!(
                        source,
                        number,
                        "an event that stood aside for a full topic is unreadable and lost"
                    );
                }
            }
        }
        sources
    }

    pub(super) fn cursor(&self, source: &str) -> Option<String> {
        self.cursors.get(source).cloned()
    }

    pub(super) fn set_cursor(&mut self, source: String, value: String) {
        self.cursors.insert(source, value);
    }

    pub(super) fn standing(&self, source: &str) -> Standing {
        let mut aside: Vec<Offer> = self.aside.get(source).into_iter().flat_map(BTreeMap::values).cloned().collect();
        aside.sort_unstable_by_key(|offer| offer.order);
        Standing { cursor: self.cursor(source), aside }
    }

    /// For a hand-over that is repeated, the outcome of each event that the stored state already decides, so that nothing is stored
    /// twice:
    ///
    /// - An event that stood aside before the attempt and no longer does was taken by it, and counts as published.
    /// - A new event was published by it if the stored cursor is the one of the batch and the event does not stand aside.
    /// - All others are undecided, and are tried again.
    pub(super) fn outcomes_of_earlier(&self, handover: &Handover) -> Vec<Option<Outcome>> {
        if !handover.again {
            return vec![None; handover.events.len()];
        }
        let aside = self.aside.get(&handover.source);
        let stands = |offer: &Offer| aside.is_some_and(|aside| aside.contains_key(&offer.number));
        let is_stored = handover.cursor.is_some() && handover.cursor == self.cursor(&handover.source);
        let published = || Some(Outcome::Published { replaced: false });
        let decide = |offer: &Offer| match (offer.aside, stands(offer)) {
            (true, false) => published(),
            (false, false) if is_stored => published(),
            _ => None,
        };
        handover.events.iter().map(decide).collect()
    }

    /// Records a stored batch: which of its events stand aside now, and the cursor.
    pub(super) fn stored(
        &mut self,
        source: String,
        cursor: Option<String>,
        events: impl IntoIterator<Item = (Offer, bool)>,
    ) {
        let aside = self.aside.entry(source.clone()).or_default();
        for (offer, stands_aside) in events {
            if stands_aside {
                aside.insert(offer.number, Offer { aside: true, held: false, ..offer });
            } else {
                aside.remove(&offer.number);
            }
        }
        if aside.is_empty() {
            self.aside.remove(&source);
        }
        if let Some(cursor) = cursor {
            self.cursors.insert(source, cursor);
        }
    }

    /// Whether the event stands aside.
    pub(super) fn stands_aside(&self, source: &str, number: u32) -> bool {
        self.aside.get(source).is_some_and(|aside| aside.contains_key(&number))
    }
}
