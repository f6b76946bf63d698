//! The digests of the assertions seen last, so that a hit does not hash a token of kilobytes again.

use crate::assertion::AssertionFacts;
use crate::secret::Secret;

/// How many assertions are remembered: as many as come, up to this.
const MAX_SLOTS: usize = 512;
/// How many are at first: an exchanger of a coordinator sees one.
const FIRST_SLOTS: usize = 8;
/// The longest assertion that is remembered, in bytes; longer ones are hashed each time.
const MAX_REMEMBERED_BYTES: usize = 8 * 1024;

/// A table of the assertions seen last, each at the place that its own last bytes choose.
pub struct AssertionTable {
    slots: Vec<Slot>,
    client_id: String,
}

impl AssertionTable {
    /// An empty table, of assertions that this client presents.
    pub fn new(client_id: &str) -> Self {
        Self { slots: empty(FIRST_SLOTS), client_id: client_id.to_owned() }
    }

    /// The facts of `assertion`: remembered, or found out and remembered in the place of another.
    pub fn facts(&mut self, assertion: &Secret) -> AssertionFacts {
        let text = assertion.reveal();
        let size = self.slots.len();
        let known = self.slots.get(place(text, size)).and_then(Option::as_ref);
        // In constant time: how much of a guess is right must not show.
        if let Some((known, facts)) = known
            && constant_time_eq::constant_time_eq(known.reveal().as_bytes(), text.as_bytes())
        {
            return *facts;
        }
        // Another one's place: room for more, in which each finds its new place when it comes again.
        if known.is_some() && size < MAX_SLOTS {
            self.slots = empty(size.saturating_mul(2));
        }
        let facts = AssertionFacts::of(text, &self.client_id);
        let place = place(text, self.slots.len());
        if text.len() <= MAX_REMEMBERED_BYTES
            && let Some(slot) = self.slots.get_mut(place)
        {
            *slot = Some((assertion.clone(), facts));
        }
        facts
    }
}

type Slot = Option<(Secret, AssertionFacts)>;

fn empty(slots: usize) -> Vec<Slot> {
    (0..slots).map(|_| None).collect()
}

/// The end of a signed token is its signature, so it spreads well. The number of `slots` is a power of two.
fn place(text: &str, slots: usize) -> usize {
    let tail = text.as_bytes().iter().rev().take(8);
    tail.fold(text.len(), |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte))) & slots.wrapping_sub(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::AssertionTable;
    use crate::assertion::AssertionFacts;
    use crate::secret::Secret;

    #[test]
    fn a_table_of_one_assertion_stays_small_and_one_of_many_grows_to_its_bound() {
        let mut table = AssertionTable::new("client");
        for _ in 0..100 {
            table.facts(&Secret::new("a"));
        }
        assert_eq!(table.slots.len(), super::FIRST_SLOTS);
        for number in 0..10_000 {
            table.facts(&Secret::new(format!("a{number}")));
        }
        assert_eq!(table.slots.len(), super::MAX_SLOTS);
    }

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
