//! The digests of the assertions seen last, so that a hit does not hash a token of kilobytes again.

use crate::assertion::AssertionFacts;
use crate::secret::Secret;

/// How many assertions are remembered.
const SLOTS: usize = 512;
/// The longest assertion that is remembered, in bytes; longer ones are hashed each time.
const MAX_REMEMBERED_BYTES: usize = 8 * 1024;

/// A table of the assertions seen last, each at the place that its own last bytes choose.
pub struct AssertionTable {
    slots: Vec<Option<(Secret, AssertionFacts)>>,
    client_id: String,
}

impl AssertionTable {
    /// An empty table, of assertions that this client presents.
    pub fn new(client_id: &str) -> Self {
        Self { slots: (0..SLOTS).map(|_| None).collect(), client_id: client_id.to_owned() }
    }

    /// The facts of `assertion`: remembered, or found out and remembered in the place of another.
    pub fn facts(&mut self, assertion: &Secret) -> AssertionFacts {
        let text = assertion.reveal();
        let Some(slot) = self.slots.get_mut(place(text)) else { return AssertionFacts::of(text, &self.client_id) };
        if let Some((known, facts)) = slot {
            // In constant time: how much of a guess is right must not show.
            if constant_time_eq::constant_time_eq(known.reveal().as_bytes(), text.as_bytes()) {
                return *facts;
            }
        }
        let facts = AssertionFacts::of(text, &self.client_id);
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::AssertionTable;
    use crate::assertion::AssertionFacts;
    use crate::secret::Secret;

    proptest! {
        #[test]
        fn a_remembered_assertion_never_answers_for_another(texts in prop::collection::vec("[ab]{1,4}x{0,9}", 1..60)) {
            let mut table = AssertionTable::new("client");
            for text in texts {
                let facts = table.facts(&Secret::new(text.clone()));
                prop_assert_eq!(facts, AssertionFacts::of(&text, "client"));
            }
        }
    }
}
