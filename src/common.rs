//! What the flights of an exchanger have in common, beside the tokens: what one of them learnt, the next one uses.

use crate::cache::memory::MemoryCache;
use crate::client::KeptClientAssertion;
use crate::journal::Journal;
use crate::metadata::MetadataCache;

/// The most authorization servers that an exchange asks.
const MAX_SERVERS: usize = 2;
/// How many identity assertions are kept, and how many bytes they may take together.
const IDENTITY_ASSERTIONS: (usize, usize) = (1024, 2 * 1024 * 1024);

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
}

impl Default for Common {
    fn default() -> Self {
        let (entries, bytes) = IDENTITY_ASSERTIONS;
        Self {
            journal: Journal::default(),
            metadata: Default::default(),
            client_assertion: None,
            identity_assertions: MemoryCache::bounded(entries, bytes),
        }
    }
}
