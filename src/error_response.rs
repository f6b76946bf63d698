//! The token endpoint's error response (RFC 6749 section 5.2): the table that tells one failure from another.

use serde_json::Value;

use crate::failure::{Failure, FailureReason, Verdict};
use crate::grant::Leg;
use crate::json;
use crate::pem;
use crate::request::is_claims;
use crate::secret::Secret;
use crate::time::Timestamp;

/// The oldest sign-in that a challenge names, in seconds: a year.
const MAX_MAX_AGE_SECONDS: u64 = 365 * 24 * 3600;
/// The longest wait that a `Retry-After` is believed for, in seconds.
pub const MAX_RETRY_AFTER_SECONDS: u64 = 3600;

/// Classifies a response that is not 2xx. First match wins: the HTTP status, the throttling codes, claims,
/// the suberror, the known codes, `error`. Never the text.
///
/// A member in which one of the `presented` tokens comes back is dropped.
pub fn classify(
    leg: &dyn Leg,
    presented: [&Secret; 3],
    status: u16,
    retry_after: Option<&str>,
    body: &[u8],
    now: Timestamp,
) -> Failure {
    let response = json::object(body);
    let is_json = response.is_some();
    // RFC 6749 section 5.2, Entra's, RFC 9470's. Each member may be of any type.
    let response = response.unwrap_or_default();
    let member = |name| {
        json::text(&response, name)
            .filter(|text| !presented.iter().any(|token| pem::place(text, token.reveal()).is_some()))
    };
    let error = member("error").and_then(error_name);
    let suberror = member("suberror").and_then(error_name);
    let error_codes: Vec<u32> = response.get("error_codes").and_then(Value::as_array).map_or_else(Vec::new, |codes| {
        codes.iter().take(16).filter_map(|code| u32::try_from(code.as_u64()?).ok()).collect()
    });
    let claims = member("claims").filter(|claims| is_claims(claims)).map(str::to_owned);

    let verdict = match status {
        429 => Verdict::of(FailureReason::Throttled),
        408 | 500..=599 => Verdict::of(FailureReason::Unavailable),
        _ if !is_json => {
            return with_status(Failure::invalid_response(&format!("has status {status} and is not JSON")), status);
        }
        _ if leg.is_throttled(&error_codes) => Verdict::not_now(FailureReason::Throttled),
        _ if claims.is_some() => Verdict::of(FailureReason::InteractionRequired),
        _ => leg
            .refine(&error_codes, suberror.as_deref())
            .or_else(|| error.as_deref().and_then(|error| by_error(leg, error)))
            .unwrap_or_else(|| {
                // A JSON `error` that nobody knows is ours to look into; no `error` is no error response.
                let known = member("error").is_some();
                Verdict::of(if known { FailureReason::Misconfigured } else { FailureReason::InvalidResponse })
            }),
    };

    let mut failure = Failure::new(verdict.reason, "");
    failure.message = match &error {
        Some(error) => format!("the token endpoint answered {status} {error}"),
        None => format!("the token endpoint answered {status}"),
    };
    if let Some(code) = error_codes.first() {
        failure.message.push_str(&format!(" ({code})"));
    }
    failure.retryable = failure.retryable && verdict.later;
    failure.worth_an_attempt = failure.worth_an_attempt && verdict.now;
    failure.status = Some(status);
    failure.error = error;
    failure.suberror = suberror;
    failure.error_codes = error_codes;
    failure.claims = claims;
    failure.acr_values = member("acr_values").filter(|values| is_acr_values(values)).map(str::to_owned);
    let max_age = response.get("max_age").and_then(|age| age.as_u64().or_else(|| age.as_str()?.parse().ok()));
    failure.max_age = max_age.map(|seconds| seconds.min(MAX_MAX_AGE_SECONDS));
    failure.retry_after = retry_after.and_then(|value| retry_after_seconds(value, now));
    failure.correlation_id = member("correlation_id").and_then(trace_name);
    failure.trace_id = member("trace_id").and_then(trace_name);
    failure
}

fn with_status(mut failure: Failure, status: u16) -> Failure {
    failure.status = Some(status);
    failure
}

/// What the standards' error codes mean (RFC 6749 section 5.2, RFC 8693 section 2.2.2, RFC 9470 section 3,
/// OpenID Connect Core section 3.1.2.6).
fn by_error(leg: &dyn Leg, error: &str) -> Option<Verdict> {
    let reason = match error {
        "temporarily_unavailable" | "server_error" => FailureReason::Unavailable,
        "interaction_required" | "login_required" | "insufficient_user_authentication" => {
            FailureReason::InteractionRequired
        }
        "consent_required" => FailureReason::ConsentRequired,
        "access_denied" => FailureReason::Blocked,
        "invalid_grant" => FailureReason::AssertionRejected,
        "invalid_request" | "invalid_token" if leg.blames_the_subject_token() => FailureReason::AssertionRejected,
        "invalid_request"
        | "invalid_client"
        | "unauthorized_client"
        | "unsupported_grant_type"
        | "invalid_scope"
        | "invalid_target"
        | "invalid_resource" => FailureReason::Misconfigured,
        _ => return None,
    };
    Some(Verdict::of(reason))
}

/// An error code as the standards write them. Anything else may be an echo of what was sent, and is dropped.
fn error_name(text: &str) -> Option<String> {
    let fits = (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    fits.then(|| text.to_owned())
}

/// An identifier as identity providers write them (a UUID), for the same reason.
fn trace_name(text: &str) -> Option<String> {
    let fits = (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    fits.then(|| text.to_owned())
}

/// A space-separated list of authentication contexts, which ends up in a quoted string of a header.
fn is_acr_values(text: &str) -> bool {
    (1..=512).contains(&text.len())
        && text.bytes().all(|byte| (byte.is_ascii_graphic() && byte != b'"' && byte != b'\\') || byte == b' ')
}

/// `Retry-After` (RFC 9110 section 10.2.3) in seconds: a number, or a date after `now`.
fn retry_after_seconds(value: &str, now: Timestamp) -> Option<u64> {
    let value = value.trim_ascii();
    let seconds = if value.bytes().all(|byte| byte.is_ascii_digit()) && !value.is_empty() {
        value.parse().unwrap_or(u64::MAX)
    } else {
        Timestamp::from_http_date(value)?.after(now).div_ceil(1000)
    };
    Some(seconds.min(MAX_RETRY_AFTER_SECONDS))
}
