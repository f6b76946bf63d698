//! The entries of this isolate, bounded by number and bytes.

use super::entry::Entry;
use super::key::DigestMap;
use crate::digest::Digest;
use crate::time::Timestamp;

/// How many entries are kept.
const MAX_ENTRIES: usize = 8192;
/// How many bytes they may take together.
const MAX_BYTES: usize = 12 * 1024 * 1024;
/// How long after a renewal of an entry began another one may, in milliseconds.
const RENEWAL_PAUSE_MS: u64 = 60_000;

/// A bounded cache. What was not used since the hand last passed goes first (the CLOCK algorithm).
pub struct MemoryCache {
    slots: Vec<Option<Slot>>,
    places: DigestMap<usize>,
    free: Vec<usize>,
    hand: usize,
    bytes: usize,
    max_entries: usize,
    max_bytes: usize,
}

struct Slot {
    digest: Digest,
    entry: Entry,
    used: bool,
    /// When the last renewal of this very entry began.
    renewal_began: Option<Timestamp>,
}

impl Default for MemoryCache {
    fn default() -> Self {
        Self::bounded(MAX_ENTRIES, MAX_BYTES)
    }
}

impl MemoryCache {
    /// An empty cache of so many entries and bytes at most.
    pub(crate) fn bounded(max_entries: usize, max_bytes: usize) -> Self {
        Self {
            slots: Vec::new(),
            places: DigestMap::default(),
            free: Vec::new(),
            hand: 0,
            bytes: 0,
            max_entries,
            max_bytes,
        }
    }

    // Inlined into each caller it would cost more than the call.
    #[inline(never)]
    /// The entry of this key, served or as a last resort: the caller looks at its instants.
    pub fn get(&mut self, digest: Digest, now: Timestamp) -> Option<&Entry> {
        let place = *self.places.get(&digest)?;
        if !self.slots.get(place)?.as_ref()?.entry.is_of_use(now) {
            self.remove_at(place);
            return None;
        }
        let slot = self.slots.get_mut(place)?.as_mut()?;
        slot.used = true;
        Some(&slot.entry)
    }

    /// Puts an entry in the place of any other of this key.
    pub fn insert(&mut self, digest: Digest, entry: Entry, now: Timestamp) {
        self.remove(digest);
        let size = entry.size();
        if size > self.max_bytes || !entry.is_of_use(now) {
            return;
        }
        // Two steps of the hand for each entry that comes, so that expired ones leave without being asked for.
        self.turn(now, false);
        self.turn(now, false);
        while !self.places.is_empty()
            && (self.places.len() >= self.max_entries || self.bytes.saturating_add(size) > self.max_bytes)
        {
            self.turn(now, true);
        }
        let slot = Some(Slot { digest, entry, used: false, renewal_began: None });
        let place = match self.free.pop() {
            Some(place) => place,
            None => {
                self.slots.push(None);
                self.slots.len().saturating_sub(1)
            }
        };
        if let Some(empty) = self.slots.get_mut(place) {
            *empty = slot;
            self.places.insert(digest, place);
            self.bytes = self.bytes.saturating_add(size);
        }
    }

    /// Whether a renewal of this key's entry may begin now, which it then does.
    pub(crate) fn begins_renewal(&mut self, digest: Digest, now: Timestamp) -> bool {
        let slot = self.places.get(&digest).and_then(|place| self.slots.get_mut(*place)?.as_mut());
        let Some(slot) = slot else { return false };
        // A clock that went back ends the pause.
        let pauses = slot.renewal_began.is_some_and(|began| began <= now && now < began.plus(RENEWAL_PAUSE_MS));
        if !pauses {
            slot.renewal_began = Some(now);
        }
        !pauses
    }

    /// Removes the entry of this key.
    #[inline(never)]
    pub fn remove(&mut self, digest: Digest) {
        if let Some(place) = self.places.get(&digest) {
            self.remove_at(*place);
        }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// About how many bytes they take together.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    #[inline(never)]
    fn remove_at(&mut self, place: usize) {
        if let Some(slot) = self.slots.get_mut(place).and_then(Option::take) {
            self.places.remove(&slot.digest);
            self.bytes = self.bytes.saturating_sub(slot.entry.size());
            self.free.push(place);
        }
    }

    /// Moves the hand by one slot. An expired entry goes; where room is needed, so does one not used lately.
    fn turn(&mut self, now: Timestamp, make_room: bool) {
        let place = self.hand;
        self.hand = place.saturating_add(1).checked_rem(self.slots.len()).unwrap_or(0);
        let Some(slot) = self.slots.get_mut(place).and_then(Option::as_mut) else { return };
        let expired = !slot.entry.is_of_use(now);
        if expired || (make_room && !slot.used) {
            self.remove_at(place);
        } else if make_room {
            slot.used = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::MemoryCache;
    use crate::cache::entry::tests::entry;
    use crate::digest::Digest;
    use crate::time::Timestamp;

    const NOW: Timestamp = Timestamp::from_secs(1_000_000);

    fn digest(number: u8) -> Digest {
        Digest([number; 32])
    }

    #[test]
    fn an_expired_entry_is_gone_without_being_asked_for() {
        let mut cache = MemoryCache::bounded(100, 1 << 20);
        for number in 0..10 {
            cache.insert(digest(number), entry("short", NOW, 1000), NOW);
        }
        let later = NOW.plus(2000);
        for number in 10..20 {
            cache.insert(digest(number), entry("long", later, 3_600_000), later);
        }
        assert_eq!(cache.len(), 10);
        assert_eq!(cache.get(digest(1), later), None);
        assert!(cache.get(digest(11), later).is_some());
    }

    #[test]
    fn what_is_used_outlives_what_is_not() {
        let mut cache = MemoryCache::bounded(4, 1 << 20);
        for number in 0..4 {
            cache.insert(digest(number), entry("t", NOW, 3_600_000), NOW);
        }
        for number in 4..40 {
            assert!(cache.get(digest(0), NOW).is_some(), "before {number}");
            cache.insert(digest(number), entry("t", NOW, 3_600_000), NOW);
        }
    }

    #[test]
    fn an_entry_larger_than_the_cache_is_not_kept_and_pushes_nothing_out() {
        let mut cache = MemoryCache::bounded(4, 2000);
        cache.insert(digest(1), entry("t", NOW, 3_600_000), NOW);
        cache.insert(digest(2), entry(&"x".repeat(3000), NOW, 3_600_000), NOW);
        assert_eq!((cache.len(), cache.get(digest(2), NOW)), (1, None));
        assert!(cache.get(digest(1), NOW).is_some());
    }

    proptest! {
        #[test]
        fn bounds_hold_and_a_hit_is_what_was_put_there_last(
            steps in prop::collection::vec((any::<bool>(), 0..20_u8, 1..400_usize, 1..100_u64), 1..200)
        ) {
            let mut cache = MemoryCache::bounded(8, 4000);
            let mut last = std::collections::HashMap::new();
            let mut now = NOW;
            for (removes, number, size, milliseconds) in steps {
                now = now.plus(milliseconds);
                if removes {
                    cache.remove(digest(number));
                    last.remove(&number);
                } else {
                    let entry = entry(&"x".repeat(size), now, 10_000);
                    cache.insert(digest(number), entry.clone(), now);
                    last.insert(number, entry);
                }
                prop_assert!(cache.len() <= 8 && cache.bytes() <= 4000);
                for number in 0..20 {
                    if let Some(hit) = cache.get(digest(number), now) {
                        prop_assert_eq!(Some(hit), last.get(&number));
                        prop_assert!(hit.last_resort_until() > now);
                    }
                }
            }
            let sizes: usize = (0..20).filter_map(|number| cache.get(digest(number), now).map(|entry| entry.size())).sum();
            prop_assert_eq!(cache.bytes() >= sizes, true);
        }
    }
}
