//! Failures of the exchange, answered by the table, and what a server's own status is answered with where it does
//! not pass.

use super::answer::Answer;
use super::challenge;
use super::config::GatewayConfig;
use crate::failure::FailureReason;
use crate::source::Source;

/// `Retry-After` where the identity provider named none, in seconds.
const UNAVAILABLE_RETRY_SECONDS: u64 = 5;
/// The same where it throttles.
const THROTTLED_RETRY_SECONDS: u64 = 60;

/// What a failed exchange is answered with.
pub fn failed_exchange(
    config: &GatewayConfig,
    name: &str,
    reason: FailureReason,
    claims: Option<&str>,
    acr_values: Option<&str>,
    max_age: Option<u64>,
    retry_after: Option<u64>,
) -> Answer {
    let later = |seconds: u64| {
        Answer::error(503, "temporarily_unavailable", "The identity provider cannot answer at the moment.")
            .with_header("retry-after", &retry_after.unwrap_or(seconds).max(1).to_string())
    };
    match reason {
        FailureReason::Unavailable | FailureReason::Cancelled => later(UNAVAILABLE_RETRY_SECONDS),
        FailureReason::Throttled => later(THROTTLED_RETRY_SECONDS),
        FailureReason::AssertionRejected => challenge::invalid_token(config, name),
        FailureReason::InteractionRequired => match claims {
            Some(claims) => challenge::insufficient_claims(config, name, claims),
            None if acr_values.is_some() || max_age.is_some() => {
                challenge::insufficient_authentication(config, name, acr_values, max_age)
            }
            None => challenge::invalid_token(config, name),
        },
        FailureReason::ConsentRequired => {
            let consent_scope = config.server(name).and_then(|server| server.obo.consent_scope.as_deref());
            challenge::consent_required(config, name, consent_scope)
        }
        FailureReason::Blocked => Answer::error(403, "access_denied", "A policy refuses access."),
        FailureReason::NotTrusted => Answer::error(403, "not_trusted", "This server's definition may not be used."),
        FailureReason::InvalidResponse => {
            Answer::error(502, "bad_gateway", "The identity provider's answer cannot be used.")
        }
        FailureReason::Misconfigured | FailureReason::InvalidRequest => {
            Answer::error(500, "server_error", "The gateway's configuration has to be looked at.")
        }
    }
}

/// Whether a server's refusal may be about a token that was good when it was kept, and a fresh one worth a try.
pub fn is_worth_a_fresh_token(status: u16, source: &str) -> bool {
    status == 401 && [Source::Memory, Source::Store].iter().any(|kept| kept.as_str() == source)
}

/// What a server's own status is answered with, where it does not pass: a redirect is not followed, and a 401
/// to a token that is fresh says nothing that the client could mend.
pub fn refused_upstream(status: u16) -> Option<Answer> {
    match status {
        401 => Some(Answer::error(502, "upstream_refused", "The server refused a fresh token.")),
        300..=399 => Some(Answer::error(502, "upstream_redirect", "The server answered with a redirect.")),
        407 | 0..=199 => Some(Answer::error(502, "upstream_invalid", "The server's answer cannot be passed on.")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{failed_exchange, refused_upstream};
    use crate::failure::FailureReason::{self, *};
    use crate::gateway::config::tests::{config, read};
    use serde_json::json;

    fn answer(
        reason: FailureReason,
        claims: Option<&str>,
        acr: Option<&str>,
        retry: Option<u64>,
    ) -> (u16, String, String) {
        let answer = failed_exchange(&read(config()), "files", reason, claims, acr, None, retry);
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let header = |name| answer.header(name).unwrap_or_default().to_owned();
        (answer.status, header("www-authenticate"), header("retry-after"))
    }

    #[test]
    fn only_a_401_to_a_token_that_was_kept_is_worth_a_fresh_one() {
        assert!(super::is_worth_a_fresh_token(401, "memory") && super::is_worth_a_fresh_token(401, "store"));
        for (status, source) in [(401, "issuer"), (401, "flight"), (403, "memory"), (200, "memory"), (401, "")] {
            assert!(!super::is_worth_a_fresh_token(status, source), "{status} {source}");
        }
    }

    #[test]
    fn failures_are_answered_by_the_table() {
        assert_eq!(answer(Unavailable, None, None, None), (503, String::new(), "5".into()));
        assert_eq!(answer(Throttled, None, None, None), (503, String::new(), "60".into()));
        assert_eq!(answer(Throttled, None, None, Some(7)), (503, String::new(), "7".into()));
        assert_eq!(answer(Unavailable, None, None, Some(0)), (503, String::new(), "1".into()));
        assert_eq!(answer(Blocked, None, None, None).0, 403);
        assert_eq!(answer(NotTrusted, None, None, None).0, 403);
        assert_eq!(answer(ConsentRequired, None, None, None), (403, String::new(), String::new()));
        assert_eq!(answer(Misconfigured, None, None, None).0, 500);
        assert_eq!(answer(InvalidResponse, None, None, None).0, 502);
        let (status, challenge, _) = answer(AssertionRejected, None, None, None);
        assert_eq!(status, 401);
        assert!(challenge.starts_with("Bearer error=\"invalid_token\", resource_metadata=\"https://gw.example/"));
    }

    #[test]
    fn a_claims_challenge_is_handed_on_in_base64_with_the_metadata_in_one_header() {
        let (status, challenge, _) = answer(InteractionRequired, Some(r#"{"access_token":{"a":"\"é"}}"#), None, None);
        assert_eq!(status, 401);
        let start = "Bearer error=\"insufficient_claims\", claims=\"eyJhY2Nlc3NfdG9rZW4iOnsiYSI6Ilwiw6kifX0=\", resource_metadata=";
        assert!(challenge.starts_with(start), "{challenge}");
    }

    #[test]
    fn a_stronger_sign_in_is_asked_for_as_rfc_9470_has_it_and_else_a_new_one() {
        let (status, challenge, _) = answer(InteractionRequired, None, Some("urn:mfa \"x"), None);
        assert_eq!(status, 401);
        assert!(
            challenge.contains("error=\"insufficient_user_authentication\", acr_values=\"urn:mfa x\""),
            "{challenge}"
        );
        assert!(answer(InteractionRequired, None, None, None).1.contains("error=\"invalid_token\""));
    }

    #[test]
    fn missing_consent_names_the_configured_scope() {
        let mut config = config();
        config["servers"]["files"]["obo"]["consentScope"] = json!("api://gateway/consent");
        let answer = failed_exchange(&read(config), "files", ConsentRequired, None, None, None, None);
        assert_eq!(answer.status, 403);
        assert!(answer.header("www-authenticate").unwrap().contains("scope=\"api://gateway/consent\""));
    }

    #[test]
    fn an_upstreams_401_and_redirects_never_reach_the_client() {
        for status in [401, 301, 302, 307, 308, 407, 0] {
            assert_eq!(refused_upstream(status).unwrap().status, 502, "{status}");
        }
        for status in [200, 202, 400, 403, 404, 405, 429, 500, 503] {
            assert_eq!(refused_upstream(status), None, "{status}");
        }
    }
}
