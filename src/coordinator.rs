//! What a coordinator answers: the one place in the world where the exchanges of a key are made.
//!
//! It hands out a token sealed as it is in a store, so that only who can open it there can read it here, and a failure
//! as the contract's fields.

use crate::failure::Failure;
use crate::source::Source;

/// The share of an exchange's time that a coordinator gets, in hundredths; the exchanger's own exchange gets the rest.
pub(crate) const SHARE_PERCENT: u64 = 60;
/// The least time that it is asked for, in milliseconds.
pub(crate) const MIN_TIME_MS: u64 = 50;

/// A coordinator's answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer<'a> {
    /// A sealed entry, and where the coordinator has it from.
    Sealed(Source, &'a str),
    /// Why its exchange gave none.
    Failed(Failure),
}

impl<'a> Answer<'a> {
    /// Reads an answer; `None` for anything else.
    pub(crate) fn read(text: &'a str) -> Option<Self> {
        if text.starts_with('{') {
            return Failure::read(text).map(Self::Failed);
        }
        let (source, sealed) = text.split_once(' ')?;
        Some(Self::Sealed(Source::from_name(source)?, sealed))
    }
}

/// The answer with a token.
pub(crate) fn sealed(source: Source, sealed: &str) -> String {
    [source.as_str(), " ", sealed].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Answer, sealed};
    use crate::failure::FailureReason;
    use crate::source::Source;

    #[test]
    fn an_answer_is_read_as_it_was_written() {
        for source in [Source::Memory, Source::Store, Source::Flight, Source::Issuer] {
            assert_eq!(Answer::read(&sealed(source, "2.abc")), Some(Answer::Sealed(source, "2.abc")));
        }
        let text = r#"{"reason":"interaction_required","message":"m","retryable":false,"status":400,"error":"e",
            "suberror":"s","errorCodes":[50076,-1,"x"],"claims":"{}","acrValues":"a","maxAge":5,"retryAfter":6,
            "correlationId":"c","traceId":"t","field":"f","name":"ExchangeError"}"#;
        let Some(Answer::Failed(failure)) = Answer::read(text) else { panic!("no failure") };
        assert_eq!(failure.reason, FailureReason::InteractionRequired);
        assert_eq!((failure.status, failure.max_age, failure.retry_after), (Some(400), Some(5), Some(6)));
        assert_eq!(failure.error_codes, [50076]);
        assert_eq!((failure.retryable, failure.worth_an_attempt), (false, false));
        let texts = [&failure.error, &failure.suberror, &failure.claims, &failure.acr_values, &failure.correlation_id];
        assert_eq!(texts.map(|text| text.as_deref().unwrap()), ["e", "s", "{}", "a", "c"]);
        assert_eq!((failure.trace_id.as_deref(), failure.field.as_deref()), (Some("t"), Some("f")));
    }

    #[test]
    fn what_is_no_answer_is_none() {
        for text in ["", "issuer", "elsewhere 2.abc", "{", "{}", r#"{"reason":"magic","message":"m","retryable":true}"#]
        {
            assert_eq!(Answer::read(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "\\PC{0,40}") {
            let _ = Answer::read(&text);
        }
    }
}
