//! A token as the caches keep it: with the instants that bound its serving, and as bytes for the store.

use std::rc::Rc;

use crate::secret::Secret;
use crate::time::Timestamp;
use crate::token::Token;

/// How long before its expiry a token is served no more, in milliseconds; at most half of its life.
const SKEW_MS: u64 = 300_000;
/// The same where a renewal has failed because the identity provider is away.
const LAST_RESORT_SKEW_MS: u64 = 10_000;

/// By how much the clocks of two edges, or one clock before and after it was set, may differ, in milliseconds. What
/// was made later than that from now was made by a clock that was wrong, and so are its instants.
pub(crate) const CLOCK_TOLERANCE_MS: u64 = 60_000;

/// A token, and for how long it may be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The token.
    pub token: Rc<Token>,
    /// When it was made.
    pub minted_at: Timestamp,
    /// Served no longer than this, whatever the token's own life: the assertion's `exp` and `maxLifetimeMs`.
    pub bound: Timestamp,
}

impl Entry {
    /// An entry for a token made at `minted_at` for an assertion that ends at `assertion_expires_at`.
    pub fn new(
        token: Token,
        minted_at: Timestamp,
        assertion_expires_at: Option<Timestamp>,
        max_lifetime_ms: u64,
    ) -> Self {
        let bound = minted_at.plus(max_lifetime_ms);
        let bound = assertion_expires_at.map_or(bound, |expiry| expiry.min(bound));
        Self { token: Rc::new(token), minted_at, bound }
    }

    /// Until when it is served.
    pub fn serve_until(&self) -> Timestamp {
        let life = self.token.expires_at.after(self.minted_at);
        self.token.expires_at.minus(SKEW_MS.min(life / 2)).min(self.bound)
    }

    /// Whether it is served now.
    pub fn is_served(&self, now: Timestamp) -> bool {
        self.is_of_use(now) && now < self.serve_until()
    }

    /// Whether it is served now, or may be as a last resort.
    pub fn is_of_use(&self, now: Timestamp) -> bool {
        self.minted_at <= now.plus(CLOCK_TOLERANCE_MS) && now < self.last_resort_until()
    }

    /// From when on a renewal in the background is due: in the last fifth of its serving time, or when the server
    /// said.
    pub fn renew_at(&self) -> Timestamp {
        let serving_ms = self.serve_until().after(self.minted_at);
        self.minted_at.plus((serving_ms / 5).saturating_mul(4)).min(self.token.refresh_at)
    }

    /// Until when it is served where a renewal has failed as unavailable or throttled.
    pub fn last_resort_until(&self) -> Timestamp {
        self.token.expires_at.minus(LAST_RESORT_SKEW_MS).min(self.bound).max(self.serve_until())
    }

    /// About how much memory it takes, in bytes.
    pub fn size(&self) -> usize {
        const OVERHEAD: usize = 256;
        self.token.access_token.reveal().len().saturating_add(self.token.scope.len()).saturating_add(OVERHEAD)
    }

    /// The entry as bytes.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.size());
        for instant in [self.minted_at, self.token.expires_at, self.bound, self.token.refresh_at] {
            bytes.extend_from_slice(&instant.as_millis().to_be_bytes());
        }
        let issued_token_type = self.token.issued_token_type.as_deref().unwrap_or_default();
        for text in [self.token.access_token.reveal(), &self.token.token_type, &self.token.scope, issued_token_type] {
            bytes.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
        bytes
    }

    /// Reads what [`Entry::to_bytes`] wrote; `None` for anything else.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let (minted_at, expires_at) = (reader.instant()?, reader.instant()?);
        let (bound, refresh_at) = (reader.instant()?, reader.instant()?);
        let (access_token, token_type, scope) = (reader.text()?, reader.text()?, reader.text()?);
        let issued_token_type = Some(reader.text()?).filter(|text| !text.is_empty());
        let access_token = Secret::new(access_token);
        let token = Token { access_token, token_type, scope, issued_token_type, expires_at, refresh_at };
        reader.0.is_empty().then(|| Self { token: Rc::new(token), minted_at, bound })
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn instant(&mut self) -> Option<Timestamp> {
        let (head, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(Timestamp::from_millis(u64::from_be_bytes(*head)))
    }

    fn text(&mut self) -> Option<String> {
        let (head, rest) = self.0.split_first_chunk::<4>()?;
        let (text, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*head)).ok()?)?;
        self.0 = rest;
        String::from_utf8(text.to_vec()).ok()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::Entry;
    use crate::secret::Secret;
    use crate::time::Timestamp;
    use crate::token::Token;

    const NOW: Timestamp = Timestamp::from_secs(1_000_000);
    const HOUR: u64 = 3_600_000;

    /// An entry minted at `now` that lives for `life_ms`.
    pub(crate) fn entry(access_token: &str, now: Timestamp, life_ms: u64) -> Entry {
        let token = Token {
            access_token: Secret::new(access_token),
            token_type: "Bearer".into(),
            scope: "s".into(),
            issued_token_type: None,
            expires_at: now.plus(life_ms),
            refresh_at: Timestamp::NEVER,
        };
        Entry::new(token, now, None, 24 * HOUR)
    }

    #[test]
    fn serving_ends_five_minutes_before_the_token_or_at_half_of_a_short_life() {
        assert_eq!(entry("t", NOW, HOUR).serve_until(), NOW.plus(HOUR - 300_000));
        assert_eq!(entry("t", NOW, 60_000).serve_until(), NOW.plus(30_000));
        assert_eq!(entry("t", NOW, 1000).serve_until(), NOW.plus(500));
    }

    #[test]
    fn the_last_resort_ends_ten_seconds_before_the_token_and_never_before_serving_does() {
        assert_eq!(entry("t", NOW, HOUR).last_resort_until(), NOW.plus(HOUR - 10_000));
        assert_eq!(entry("t", NOW, 10_000).last_resort_until(), NOW.plus(5000));
    }

    #[test]
    fn the_assertions_own_expiry_and_the_longest_lifetime_bound_both() {
        let token = (*entry("t", NOW, HOUR).token).clone();
        let bounded = Entry::new(token.clone(), NOW, Some(NOW.plus(60_000)), HOUR);
        assert_eq!((bounded.serve_until(), bounded.last_resort_until()), (NOW.plus(60_000), NOW.plus(60_000)));
        let bounded = Entry::new(token, NOW, Some(NOW.plus(HOUR)), 1000);
        assert_eq!((bounded.serve_until(), bounded.last_resort_until()), (NOW.plus(1000), NOW.plus(1000)));
    }

    #[test]
    fn a_renewal_is_due_in_the_last_fifth_of_the_serving_time_or_when_the_server_said() {
        let hour = entry("t", NOW, HOUR);
        assert_eq!(hour.renew_at(), NOW.plus((HOUR - 300_000) / 5 * 4));
        let mut token = (*hour.token).clone();
        token.refresh_at = NOW.plus(60_000);
        assert_eq!(Entry::new(token, NOW, None, HOUR).renew_at(), NOW.plus(60_000));
    }

    #[test]
    fn what_was_made_in_the_future_is_of_no_use() {
        let entry = entry("t", NOW, HOUR);
        assert!(entry.is_served(NOW.minus(60_000)), "clocks differ");
        assert!(!entry.is_of_use(NOW.minus(60_001)) && !entry.is_served(NOW.minus(60_001)));
        assert!(entry.is_of_use(NOW.plus(HOUR - 300_000)) && !entry.is_served(NOW.plus(HOUR - 300_000)));
    }

    proptest! {
        #[test]
        fn an_entry_is_read_as_it_was_written(
            access_token in "[!-~]{1,40}", scope in ".{0,20}", issued in prop::option::of(".{1,9}"),
            minted in any::<u64>(), expires in any::<u64>(), bound in any::<u64>(), refresh in any::<u64>(),
        ) {
            let token = Token {
                access_token: Secret::new(access_token), token_type: "Bearer".into(), scope,
                issued_token_type: issued, expires_at: Timestamp::from_millis(expires),
                refresh_at: Timestamp::from_millis(refresh),
            };
            let entry = Entry {
                token: token.into(), minted_at: Timestamp::from_millis(minted), bound: Timestamp::from_millis(bound),
            };
            let bytes = entry.to_bytes();
            prop_assert_eq!(Entry::from_bytes(&bytes), Some(entry.clone()));
            // A part of it, or more than it, is none.
            prop_assert_eq!(Entry::from_bytes(&bytes[..bytes.len() - 1]), None);
            prop_assert_eq!(Entry::from_bytes(&[bytes, vec![0]].concat()), None);
            prop_assert!(entry.last_resort_until() >= entry.serve_until());
            prop_assert!(entry.last_resort_until() <= entry.bound.max(entry.serve_until()));
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = Entry::from_bytes(&bytes);
        }
    }
}
