//! The digests of the assertions seen last, so that a hit does not hash a token of kilobytes again.

use base64ct::{Base64UrlUnpadded, Encoding};
use sha2::{Digest as _, Sha256};

use super::key::Digest;
use crate::json;
use crate::secret::Secret;
use crate::time::Timestamp;

/// How many assertions are remembered.
const SLOTS: usize = 512;
/// The longest assertion that is remembered, in bytes; longer ones are hashed each time.
const MAX_REMEMBERED_BYTES: usize = 8 * 1024;

/// What an assertion says without being asked to prove it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AssertionFacts {
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// Its `exp`, where it is a JWT that has one. It is only ever used to serve for less long.
    pub expires_at: Option<Timestamp>,
}

impl AssertionFacts {
    /// Hashes and reads `assertion`.
    pub fn of(assertion: &str) -> Self {
        Self { digest: Digest(Sha256::digest(assertion.as_bytes()).into()), expires_at: expires_at(assertion) }
    }

    /// Whether it says that it has ended.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|expiry| expiry <= now)
    }
}

/// A table of the assertions seen last, each at the place that its own last bytes choose.
pub struct AssertionTable {
    slots: Vec<Option<(Secret, AssertionFacts)>>,
}

impl Default for AssertionTable {
    fn default() -> Self {
        Self { slots: (0..SLOTS).map(|_| None).collect() }
    }
}

impl AssertionTable {
    /// The facts of `assertion`: remembered, or found out and remembered in the place of another.
    pub fn facts(&mut self, assertion: &Secret) -> AssertionFacts {
        let text = assertion.reveal();
        let Some(slot) = self.slots.get_mut(place(text)) else { return AssertionFacts::of(text) };
        if let Some((known, facts)) = slot {
            // In constant time: how much of a guess is right must not show.
            if constant_time_eq::constant_time_eq(known.reveal().as_bytes(), text.as_bytes()) {
                return *facts;
            }
        }
        let facts = AssertionFacts::of(text);
        if text.len() <= MAX_REMEMBERED_BYTES {
            *slot = Some((assertion.clone(), facts));
        }
        facts
    }
}

/// The end of a signed token is its signature, so it spreads well.
fn place(text: &str) -> usize {
    let tail = text.as_bytes().iter().rev().take(8);
    tail.fold(text.len(), |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte))) & (SLOTS - 1)
}

/// The `exp` of a JWT in compact serialisation (RFC 7519 section 4.1.4).
fn expires_at(assertion: &str) -> Option<Timestamp> {
    let mut parts = assertion.split('.');
    let payload = match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(_), Some(payload), Some(_), None) => payload,
        _ => return None,
    };
    let claims = json::object(&Base64UrlUnpadded::decode_vec(payload).ok()?)?;
    let seconds = claims.get("exp")?.as_f64()?;
    // The cast saturates: a negative date is 1970, a huge one never bounds anything.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturation is what is wanted")]
    Some(Timestamp::from_millis((seconds * 1000.0) as u64))
}

#[cfg(test)]
pub(crate) mod tests {
    use base64ct::{Base64UrlUnpadded, Encoding};
    use proptest::prelude::*;

    use super::{AssertionFacts, AssertionTable};
    use crate::secret::Secret;
    use crate::time::Timestamp;

    /// An unsigned JWT with this payload.
    pub(crate) fn jwt(payload: &str) -> String {
        format!("e30.{}.c2ln", Base64UrlUnpadded::encode_string(payload.as_bytes()))
    }

    #[test]
    fn the_expiry_of_a_jwt_is_read_and_anything_else_has_none() {
        let expiry = |assertion: &str| AssertionFacts::of(assertion).expires_at;
        assert_eq!(expiry(&jwt(r#"{"exp":1700000000}"#)), Some(Timestamp::from_secs(1_700_000_000)));
        assert_eq!(expiry(&jwt(r#"{"exp":1.5}"#)), Some(Timestamp::from_millis(1500)));
        assert_eq!(expiry(&jwt(r#"{"exp":-1}"#)), Some(Timestamp::from_millis(0)));
        for opaque in ["opaque", "a.b", "a.b.c", "a.b.c.d.e", "..", &jwt("{}"), &jwt(r#"{"exp":"1"}"#), &jwt("[]")] {
            assert_eq!(expiry(opaque), None, "{opaque}");
        }
    }

    proptest! {
        #[test]
        fn a_remembered_assertion_never_answers_for_another(texts in prop::collection::vec("[ab]{1,4}x{0,9}", 1..60)) {
            let mut table = AssertionTable::default();
            for text in texts {
                prop_assert_eq!(table.facts(&Secret::new(text.clone())), AssertionFacts::of(&text));
            }
        }
    }
}
