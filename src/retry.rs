//! Whether another attempt is made, and when.

use crate::failure::Failure;
use crate::time::Timestamp;

/// The least time that an attempt must be left, in milliseconds.
const MIN_ATTEMPT_MS: u64 = 250;

/// How often a token request is sent, and how far apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Requests in all, the first included.
    pub attempts: u64,
    /// Milliseconds between two, before jitter.
    pub delay_ms: u64,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 2, delay_ms: 300 }
    }
}

impl Retry {
    /// Milliseconds to wait before attempt `made + 1`, or `None` to give up.
    ///
    /// A `Retry-After` is obeyed where it fits the deadline, and ends the exchange where it does not.
    /// `random` makes the jitter: up to half of the delay is added.
    pub fn wait(self, made: u64, failure: &Failure, now: Timestamp, deadline: Timestamp, random: u64) -> Option<u64> {
        if !failure.worth_an_attempt || made >= self.attempts {
            return None;
        }
        let jitter = random.checked_rem((self.delay_ms / 2).saturating_add(1)).unwrap_or(0);
        let asked = failure.retry_after.map_or(0, |seconds| seconds.saturating_mul(1000));
        let wait = asked.max(self.delay_ms).saturating_add(jitter);
        (now.plus(wait).plus(MIN_ATTEMPT_MS) <= deadline).then_some(wait)
    }

    /// Milliseconds for the attempt after `made` others: an equal share of what is left, so that whoever
    /// takes over has a turn too, and the further `legs`.
    pub fn attempt_ms(self, made: u64, legs: u64, now: Timestamp, deadline: Timestamp) -> u64 {
        let left = deadline.after(now);
        let shares = self.attempts.saturating_sub(made).max(1).saturating_add(legs);
        left.checked_div(shares).unwrap_or(left).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::Retry;
    use crate::failure::{Failure, FailureReason};
    use crate::time::Timestamp;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn wait(made: u64, reason: FailureReason, retry_after: Option<u64>, random: u64) -> Option<u64> {
        let mut failure = Failure::new(reason, "");
        failure.retry_after = retry_after;
        Retry::default().wait(made, &failure, NOW, NOW.plus(10_000), random)
    }

    #[test]
    fn only_what_is_transient_is_tried_again_and_only_as_often_as_configured() {
        assert_eq!(wait(1, FailureReason::Unavailable, None, 0), Some(300));
        assert_eq!(wait(1, FailureReason::Throttled, None, 0), Some(300));
        assert_eq!(wait(2, FailureReason::Unavailable, None, 0), None);
        for reason in [
            FailureReason::AssertionRejected,
            FailureReason::InteractionRequired,
            FailureReason::ConsentRequired,
            FailureReason::Blocked,
            FailureReason::Misconfigured,
            FailureReason::InvalidResponse,
        ] {
            assert_eq!(wait(1, reason, None, 0), None, "{reason:?}");
        }
    }

    #[test]
    fn a_retry_after_is_obeyed_where_it_fits_and_ends_the_exchange_where_it_does_not() {
        assert_eq!(wait(1, FailureReason::Unavailable, Some(2), 0), Some(2000));
        assert_eq!(wait(1, FailureReason::Unavailable, Some(0), 0), Some(300));
        assert_eq!(wait(1, FailureReason::Throttled, Some(9), 0), Some(9000));
        assert_eq!(wait(1, FailureReason::Throttled, Some(10), 0), None);
        assert_eq!(wait(1, FailureReason::Throttled, Some(u64::MAX), 0), None);
    }

    #[test]
    fn jitter_adds_at_most_half_of_the_delay() {
        assert_eq!(wait(1, FailureReason::Unavailable, None, 150), Some(450));
        assert_eq!(wait(1, FailureReason::Unavailable, None, 151), Some(300));
    }

    #[test]
    fn an_attempt_gets_an_equal_share_of_what_is_left() {
        let retry = Retry::default();
        assert_eq!(retry.attempt_ms(0, 0, NOW, NOW.plus(10_000)), 5000);
        assert_eq!(retry.attempt_ms(1, 0, NOW, NOW.plus(4700)), 4700);
        assert_eq!(retry.attempt_ms(1, 0, NOW, NOW.minus(5)), 1);
        assert_eq!(retry.attempt_ms(0, 1, NOW, NOW.plus(9000)), 3000);
    }
}
