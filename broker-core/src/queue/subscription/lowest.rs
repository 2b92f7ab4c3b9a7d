//! The least urgent event of a subscription, which makes room in a full one.

use super::Subscription;
use crate::event::EventKey;
use crate::queue::lane::step;
use crate::queue::log::Log;

impl Subscription {
    /// The oldest of the least urgent waiting events, visible or not, except those in `skip`.
    pub(in crate::queue) fn lowest(&mut self, log: &Log, skip: &[EventKey]) -> Option<EventKey> {
        self.positions.open_changed(log);
        let in_lanes = self.lowest_in_lanes(log, skip);
        let aside = self.aside.lowest(skip);
        in_lanes.into_iter().chain(aside).min_by_key(|key| (key.priority, key.seq))
    }

    /// Searches the lanes from the least urgent up. Positions move past events that have left their lane, and empty lanes are closed, so
    /// that the next search skips them.
    fn lowest_in_lanes(&mut self, log: &Log, skip: &[EventKey]) -> Option<EventKey> {
        let mut lane = None;
        loop {
            let priority = self.positions.lane_above(log, lane)?;
            lane = Some(priority);
            let mut passed = None;
            let mut is_empty = true;
            let mut found = None;
            for entry in log.iter_after(priority, self.positions.of(priority)) {
                step();
                is_empty = false;
                let key = EventKey { priority, seq: entry.seq };
                if !self.has_left_its_lane(key) {
                    found = Some(key);
                    break;
                }
                passed = Some(key);
            }
            if let Some(passed) = passed {
                self.positions.advance(passed);
            }
            if is_empty {
                self.positions.close_empty(log, priority);
            }
            match found {
                // `skip` is short and rarely hit, so the search beyond it does not move the position.
                Some(key) if skip.contains(&key) => {
                    let rest = log.iter_after(priority, key.seq).map(|entry| EventKey { priority, seq: entry.seq });
                    let mut rest = rest.filter(|key| !self.has_left_its_lane(*key) && !skip.contains(key));
                    if let Some(key) = rest.next() {
                        return Some(key);
                    }
                }
                Some(key) => return Some(key),
                None => {}
            }
        }
    }
}
