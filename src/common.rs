//! What the flights of an exchanger have in common, beside the tokens: what one of them learnt, the next one uses.

use crate::cache::memory::MemoryCache;
use crate::cache::recent::Recent;
use crate::client::KeptClientAssertion;
use crate::digest::Digest;
use crate::journal::Journal;
use crate::metadata::MetadataCache;
use crate::throttle::Throttles;
use crate::time::Timestamp;

/// The most authorization servers that an exchange asks.
const MAX_SERVERS: usize = 2;
/// How many identity assertions are kept, and how many bytes they may take together.
const IDENTITY_ASSERTIONS: (usize, usize) = (1024, 2 * 1024 * 1024);

/// How many evictions are known at once.
const MAX_TOMBSTONES: usize = 1024;

/// The common knowledge.
pub struct Common {
    /// What happened.
    pub(crate) journal: Journal,
    /// The metadata of each server.
    pub(crate) metadata: [MetadataCache; MAX_SERVERS],
    /// The client assertion, where the grant reuses one.
    pub(crate) client_assertion: Option<KeptClientAssertion>,
    /// What the first of two legs gave, by the key of the exchange.
    pub(crate) identity_assertions: MemoryCache,
    /// Who is held back.
    pub(crate) throttles: Throttles,
    /// What was evicted, by the key of the exchange.
    tombstones: Recent<Tombstone>,
    /// How many evictions there were.
    pub(crate) evictions: u64,
}

struct Tombstone {
    /// Which eviction, from 1.
    number: u64,
    /// Entries made until then are the evicted one, or older.
    minted_until: Timestamp,
}

impl Default for Common {
    fn default() -> Self {
        let (entries, bytes) = IDENTITY_ASSERTIONS;
        Self {
            journal: Journal::default(),
            metadata: Default::default(),
            client_assertion: None,
            identity_assertions: MemoryCache::bounded(entries, bytes),
            throttles: Throttles::default(),
            tombstones: Recent::bounded(MAX_TOMBSTONES),
            evictions: 0,
        }
    }
}

impl Common {
    /// Leaves a tombstone for the entries of this key that were made until `minted_until`. It stays until `until`,
    /// when none of them is served any more.
    pub(crate) fn bury(&mut self, digest: Digest, minted_until: Timestamp, now: Timestamp, until: Timestamp) {
        self.evictions = self.evictions.saturating_add(1);
        self.tombstones.insert(digest, Tombstone { number: self.evictions, minted_until }, now, until);
    }

    /// Whether an entry of this key, made then, was evicted.
    pub(crate) fn is_buried(&mut self, digest: Digest, minted_at: Timestamp, now: Timestamp) -> bool {
        self.tombstones.get(digest, now).is_some_and(|note| minted_at <= note.value.minted_until)
    }

    /// Whether this key was evicted after so many evictions.
    pub(crate) fn was_evicted_since(&mut self, digest: Digest, evictions: u64, now: Timestamp) -> bool {
        self.tombstones.get(digest, now).is_some_and(|note| evictions < note.value.number)
    }

    /// Whether this key was evicted within the last `pause_ms`.
    pub(crate) fn was_evicted_lately(&mut self, digest: Digest, pause_ms: u64, now: Timestamp) -> bool {
        let note = self.tombstones.get(digest, now);
        note.is_some_and(|note| !note.is_from_the_future(now) && now < note.since.plus(pause_ms))
    }
}
