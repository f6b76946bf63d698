//! SHA-256 digests, as the keys of tables.

use core::hash::{Hash, Hasher};

/// A SHA-256 digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

#[allow(clippy::derived_hash_with_manual_eq, reason = "equal digests hash alike")]
impl Hash for Digest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0);
    }
}
