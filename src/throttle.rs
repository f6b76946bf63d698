//! Who is held back, because the identity provider throttles, and until when.
//!
//! A 429 is about the client: it holds all of its requests to that server, but for a probe now and then. Entra's
//! 50196 is about one user at one client, and holds nobody else.

use crate::cache::recent::Recent;
use crate::digest::Digest;
use crate::error_response::MAX_RETRY_AFTER_SECONDS;
use crate::failure::Failure;
use crate::time::Timestamp;

/// How long a hold lasts where no `Retry-After` says, in seconds.
const DEFAULT_HOLD_SECONDS: u64 = 60;
/// How far apart requests are that find out whether the client is still throttled, in milliseconds.
const PROBE_INTERVAL_MS: u64 = 5000;
/// How many holds are known at once.
const MAX_HOLDS: usize = 512;

/// The holds of an exchanger.
pub(crate) struct Throttles(Recent<Hold>);

struct Hold {
    failure: Failure,
    until: Timestamp,
    /// When the next request may find out; `None` where none may.
    probe_at: Option<Timestamp>,
}

/// Whom a hold is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Throttled {
    /// Which of the configured servers.
    pub(crate) server: usize,
    /// One user of it, or the client.
    pub(crate) user: Option<Digest>,
}

impl Throttled {
    fn digest(self) -> Digest {
        let Digest(mut bytes) = self.user.unwrap_or(Digest([0; 32]));
        if let Some(first) = bytes.first_mut() {
            *first ^= u8::from(self.server > 0);
        }
        Digest(bytes)
    }
}

/// How a request gets past the holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    /// There is none.
    Free,
    /// It finds out whether the hold is still needed.
    Probe,
}

impl Default for Throttles {
    fn default() -> Self {
        Self(Recent::bounded(MAX_HOLDS))
    }
}

impl Throttles {
    /// Whether a request may leave now.
    ///
    /// # Errors
    /// The failure that the hold began with, with what is left of it as `retryAfter`.
    pub(crate) fn pass(&mut self, server: usize, user: Digest, now: Timestamp) -> Result<Pass, Failure> {
        let mut passed = Pass::Free;
        for user in [Some(user), None] {
            let note = self.0.get(Throttled { server, user }.digest(), now);
            let Some(note) = note.filter(|note| !note.is_from_the_future(now)) else { continue };
            let hold = &mut note.value;
            // A clock that went back must not put the probe off.
            if hold.probe_at.is_some_and(|probe_at| probe_at <= now || now.plus(PROBE_INTERVAL_MS) < probe_at) {
                hold.probe_at = Some(now.plus(PROBE_INTERVAL_MS));
                passed = Pass::Probe;
                continue;
            }
            let mut failure = hold.failure.clone();
            failure.retry_after = Some(hold.until.after(now).div_ceil(1000));
            // Neither now nor later within this exchange: whoever asks is told when.
            failure.worth_an_attempt = false;
            return Err(failure);
        }
        Ok(passed)
    }

    /// Holds requests back for what `failure` says. Returns whether that is news.
    pub(crate) fn hold(&mut self, throttled: Throttled, failure: &Failure, now: Timestamp) -> bool {
        let digest = throttled.digest();
        let is_news = self.0.get(digest, now).is_none_or(|note| note.is_from_the_future(now));
        let seconds = failure.retry_after.unwrap_or(DEFAULT_HOLD_SECONDS).min(MAX_RETRY_AFTER_SECONDS);
        let until = now.plus(seconds.saturating_mul(1000));
        let probe_at = throttled.user.is_none().then(|| now.plus(PROBE_INTERVAL_MS));
        self.0.insert(digest, Hold { failure: failure.clone(), until, probe_at }, now, until);
        is_news
    }

    /// The server takes the client's requests again.
    pub(crate) fn lift(&mut self, server: usize) {
        self.0.remove(Throttled { server, user: None }.digest());
    }
}

#[cfg(test)]
mod tests {
    use super::{Pass, Throttled, Throttles};
    use crate::digest::Digest;
    use crate::failure::{Failure, FailureReason};
    use crate::time::Timestamp;

    const NOW: Timestamp = Timestamp::from_secs(1_000_000);
    const ANN: Digest = Digest([1; 32]);
    const BOB: Digest = Digest([2; 32]);
    const CLIENT: Throttled = Throttled { server: 0, user: None };

    fn throttled(retry_after: Option<u64>) -> Failure {
        let mut failure = Failure::new(FailureReason::Throttled, "");
        failure.retry_after = retry_after;
        failure
    }

    fn left(throttles: &mut Throttles, server: usize, user: Digest, now: Timestamp) -> Option<u64> {
        throttles.pass(server, user, now).err().and_then(|failure| failure.retry_after)
    }

    #[test]
    fn a_hold_of_the_client_holds_every_user_at_that_server_only_but_for_a_probe_each_five_seconds() {
        let mut throttles = Throttles::default();
        assert!(throttles.hold(CLIENT, &throttled(None), NOW));
        assert_eq!(left(&mut throttles, 0, ANN, NOW), Some(60));
        assert_eq!(throttles.pass(1, ANN, NOW), Ok(Pass::Free));
        let later = NOW.plus(5000);
        assert_eq!(throttles.pass(0, BOB, later), Ok(Pass::Probe));
        assert_eq!(left(&mut throttles, 0, ANN, later.plus(1)), Some(55));
        assert_eq!(throttles.pass(0, ANN, later.plus(5000)), Ok(Pass::Probe));
        throttles.lift(0);
        assert_eq!(throttles.pass(0, ANN, later.plus(5001)), Ok(Pass::Free));
    }

    #[test]
    fn a_hold_of_a_user_holds_nobody_else_and_is_not_probed() {
        let mut throttles = Throttles::default();
        throttles.hold(Throttled { server: 0, user: Some(ANN) }, &throttled(Some(30)), NOW);
        assert_eq!(left(&mut throttles, 0, ANN, NOW.plus(29_001)), Some(1));
        assert_eq!(throttles.pass(0, BOB, NOW), Ok(Pass::Free));
        assert_eq!(throttles.pass(1, ANN, NOW), Ok(Pass::Free));
        assert_eq!(throttles.pass(0, ANN, NOW.plus(30_000)), Ok(Pass::Free));
    }

    #[test]
    fn no_hold_is_longer_than_an_hour() {
        let mut throttles = Throttles::default();
        throttles.hold(CLIENT, &throttled(Some(u64::MAX)), NOW);
        assert_eq!(left(&mut throttles, 0, ANN, NOW), Some(3600));
    }

    #[test]
    fn a_clock_that_goes_back_ends_a_hold_or_allows_a_probe() {
        let mut throttles = Throttles::default();
        throttles.hold(CLIENT, &throttled(Some(3600)), NOW);
        assert_eq!(throttles.pass(0, ANN, NOW.minus(3_600_000)), Ok(Pass::Free));
        assert_eq!(throttles.pass(0, ANN, NOW.minus(30_000)), Ok(Pass::Probe));
    }
}
