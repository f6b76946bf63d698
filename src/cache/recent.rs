//! What is known of a key for a while: a bounded table of notes, each with its end.

use std::collections::VecDeque;

use super::entry::CLOCK_TOLERANCE_MS;
use crate::digest::Digest;
use crate::time::Timestamp;

/// Notes, oldest first. Beyond its bound the oldest go.
pub(crate) struct Recent<V> {
    notes: VecDeque<Note<V>>,
    most: usize,
}

/// A note.
pub(crate) struct Note<V> {
    digest: Digest,
    /// When it was made.
    pub(crate) since: Timestamp,
    until: Timestamp,
    /// What is known.
    pub(crate) value: V,
}

impl<V> Note<V> {
    /// Whether it was made by a clock that has gone back since.
    pub(crate) fn is_from_the_future(&self, now: Timestamp) -> bool {
        now.plus(CLOCK_TOLERANCE_MS) < self.since
    }
}

impl<V> Recent<V> {
    /// An empty table of so many notes at most.
    pub(crate) const fn bounded(most: usize) -> Self {
        Self { notes: VecDeque::new(), most }
    }

    /// Makes a note in the place of any other of this key.
    pub(crate) fn insert(&mut self, digest: Digest, value: V, now: Timestamp, until: Timestamp) {
        self.notes.retain(|note| note.digest != digest && now < note.until);
        if self.notes.len() >= self.most {
            self.notes.pop_front();
        }
        self.notes.push_back(Note { digest, since: now, until, value });
    }

    /// The note of this key, if it has not ended.
    pub(crate) fn get(&mut self, digest: Digest, now: Timestamp) -> Option<&mut Note<V>> {
        self.notes.iter_mut().find(|note| note.digest == digest && now < note.until)
    }

    /// Removes the note of this key.
    pub(crate) fn remove(&mut self, digest: Digest) {
        self.notes.retain(|note| note.digest != digest);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Recent;
    use crate::digest::Digest;
    use crate::time::Timestamp;

    proptest! {
        #[test]
        fn a_note_is_what_was_noted_last_until_its_end_and_the_table_stays_bounded(
            steps in prop::collection::vec((0..12_u8, 1..50_u64, any::<bool>()), 1..100),
        ) {
            let mut table = Recent::bounded(8);
            let mut last = std::collections::HashMap::new();
            let mut now = Timestamp::from_secs(1000);
            for (number, (key, life_ms, removes)) in steps.into_iter().enumerate() {
                let digest = Digest([key; 32]);
                if removes {
                    table.remove(digest);
                    last.remove(&key);
                } else {
                    table.insert(digest, number, now, now.plus(life_ms));
                    last.insert(key, (number, now.plus(life_ms)));
                }
                prop_assert!(table.notes.len() <= 8);
                now = now.plus(7);
                for key in 0..12 {
                    if let Some(note) = table.get(Digest([key; 32]), now) {
                        let (number, until) = last[&key];
                        prop_assert!(note.value == number && now < until);
                    }
                }
            }
        }

        #[test]
        fn the_latest_notes_are_there(keys in prop::collection::vec(0..30_u8, 1..60)) {
            let now = Timestamp::from_secs(1000);
            let mut table = Recent::bounded(8);
            for key in &keys {
                table.insert(Digest([*key; 32]), (), now, now.plus(1));
            }
            let mut latest: Vec<u8> = Vec::new();
            for key in keys.iter().rev() {
                if latest.len() < 8 && !latest.contains(key) {
                    latest.push(*key);
                }
            }
            prop_assert!(latest.iter().all(|key| table.get(Digest([*key; 32]), now).is_some()));
        }
    }
}
