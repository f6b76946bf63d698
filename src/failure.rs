//! Why an exchange gave no token: the reason, what a caller may do about it, and the table that tells
//! one from the other.

use core::fmt;
use core::ops::{Deref, DerefMut};

use serde::Serialize;
use serde_json::Value;

use crate::grant::Grant;
use crate::json;
use crate::secret::Secret;
use crate::time::Timestamp;

/// The longest wait that a `Retry-After` is believed for, in seconds.
pub const MAX_RETRY_AFTER_SECONDS: u64 = 3600;

/// What an exchange failed of, and whose move it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FailureReason {
    /// The caller's request is incomplete or malformed; `field` names the place. The caller's code is to blame.
    InvalidRequest,
    /// The user's token is expired, revoked, made for another audience, or no user's. The user signs in again.
    AssertionRejected,
    /// The identity provider wants to see the user: a second factor, a device, a claims challenge. The user acts.
    InteractionRequired,
    /// The user or an administrator has not consented to this scope. One of them acts.
    ConsentRequired,
    /// A policy refuses this user, and a prompt does not help. An administrator acts.
    Blocked,
    /// The identity provider refuses for now because of the number of requests. Nobody acts; wait.
    Throttled,
    /// The identity provider did not answer, or said that it cannot at the moment. Nobody acts; try later.
    Unavailable,
    /// Client, secret, certificate, scope or resource is wrong. The operator acts.
    Misconfigured,
    /// The answer is not one of a token endpoint, or carries a token that must not be used. The identity
    /// provider, or something in between, is to blame.
    InvalidResponse,
    /// The definition of the target may not be used at present. Whoever administers the targets acts.
    NotTrusted,
    /// The caller's own signal ended its wait; the shared exchange went on.
    Cancelled,
}

impl FailureReason {
    /// All reasons.
    const ALL: [Self; 11] = [
        Self::InvalidRequest,
        Self::AssertionRejected,
        Self::InteractionRequired,
        Self::ConsentRequired,
        Self::Blocked,
        Self::Throttled,
        Self::Unavailable,
        Self::Misconfigured,
        Self::InvalidResponse,
        Self::NotTrusted,
        Self::Cancelled,
    ];

    /// The name of the contract, for example `assertion_rejected`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::AssertionRejected => "assertion_rejected",
            Self::InteractionRequired => "interaction_required",
            Self::ConsentRequired => "consent_required",
            Self::Blocked => "blocked",
            Self::Throttled => "throttled",
            Self::Unavailable => "unavailable",
            Self::Misconfigured => "misconfigured",
            Self::InvalidResponse => "invalid_response",
            Self::NotTrusted => "not_trusted",
            Self::Cancelled => "cancelled",
        }
    }

    /// The reason of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == name)
    }

    /// Whether it speaks of the presented assertion, so that another assertion of the same user may fare better.
    pub const fn is_about_the_assertion(self) -> bool {
        matches!(self, Self::AssertionRejected | Self::InteractionRequired | Self::Blocked)
    }
}

/// An exchange that gave no token. Boxed, for it is the rare half of every result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Failure(Box<FailureDetails>);

impl Deref for Failure {
    type Target = FailureDetails;

    fn deref(&self) -> &FailureDetails {
        &self.0
    }
}

impl DerefMut for Failure {
    fn deref_mut(&mut self) -> &mut FailureDetails {
        &mut self.0
    }
}

/// What is known of a failure. Holds nothing secret: no token, no secret, no `error_description`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct FailureDetails {
    /// What it failed of.
    pub reason: FailureReason,
    /// A sentence for the operator.
    pub message: String,
    /// Whether the same call may succeed later without anybody doing anything.
    pub retryable: bool,
    /// Whether it is worth another attempt within this exchange; `retryable` without it is for later calls.
    #[serde(skip)]
    pub(crate) worth_an_attempt: bool,
    /// The HTTP status of the token endpoint's response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The response's `error` (RFC 6749 section 5.2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The response's `suberror` (Entra).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suberror: Option<String>,
    /// The response's `error_codes` (Entra).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub error_codes: Vec<u32>,
    /// The claims challenge to hand on to the client, JSON as the identity provider wrote it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claims: Option<String>,
    /// The authentication context wanted (RFC 9470 section 3).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acr_values: Option<String>,
    /// The age of the sign-in wanted, in seconds (RFC 9470 section 3).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<u64>,
    /// How long to wait, in seconds, as the response said; at most [`MAX_RETRY_AFTER_SECONDS`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
    /// The identity provider's `correlation_id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// The identity provider's `trace_id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// The option or request field that is missing or wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}

impl Failure {
    /// A failure of `reason` with a sentence for the operator.
    pub fn new(reason: FailureReason, message: impl Into<String>) -> Self {
        let later = matches!(reason, FailureReason::Throttled | FailureReason::Unavailable);
        Self(Box::new(FailureDetails {
            reason,
            message: message.into(),
            retryable: later,
            worth_an_attempt: later,
            status: None,
            error: None,
            suberror: None,
            error_codes: Vec::new(),
            claims: None,
            acr_values: None,
            max_age: None,
            retry_after: None,
            correlation_id: None,
            trace_id: None,
            field: None,
        }))
    }

    /// A failure that names the `field` of the options or the request; `problem` ends the sentence.
    pub fn of_field(reason: FailureReason, field: &str, problem: &str) -> Self {
        let mut failure = Self::new(reason, format!("{field} {problem}"));
        failure.field = Some(field.to_owned());
        failure
    }

    /// A request that is missing something or has it wrong.
    pub fn invalid_request(field: &str, problem: &str) -> Self {
        Self::of_field(FailureReason::InvalidRequest, field, problem)
    }

    /// An option that is missing or wrong.
    pub fn misconfigured(field: &str, problem: &str) -> Self {
        Self::of_field(FailureReason::Misconfigured, field, problem)
    }

    /// A response that is not what a token endpoint answers.
    pub fn invalid_response(problem: &str) -> Self {
        Self::new(FailureReason::InvalidResponse, format!("the token endpoint's response {problem}"))
    }

    /// A caller whose own signal fired.
    pub fn cancelled() -> Self {
        Self::new(FailureReason::Cancelled, "the caller's signal ended the wait")
    }

    /// A caller whose own time is up.
    pub fn timed_out() -> Self {
        Self::new(FailureReason::Unavailable, "the exchange did not end within timeoutMs")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl core::error::Error for Failure {}

/// How a token request can fail before there is a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportFailure {
    /// No connection, or one that broke.
    Network,
    /// The step's time was up.
    TimedOut,
    /// The body is longer than the limit that the request named.
    TooLarge,
    /// The server answered with a redirect, which is never followed.
    Redirected,
}

impl From<TransportFailure> for Failure {
    fn from(transport: TransportFailure) -> Self {
        match transport {
            TransportFailure::Network => {
                Self::new(FailureReason::Unavailable, "the token endpoint could not be reached")
            }
            TransportFailure::TimedOut => {
                Self::new(FailureReason::Unavailable, "the token endpoint did not answer in time")
            }
            TransportFailure::TooLarge => Self::invalid_response("is larger than 1 MiB"),
            TransportFailure::Redirected => Self::invalid_response("is a redirect"),
        }
    }
}

/// Classifies a response that is not 2xx. First match wins: the HTTP status, the throttling codes, claims,
/// the suberror, the known codes, `error`. Never the text.
///
/// A member in which `assertion` itself comes back is dropped.
pub fn classify(
    grant: Grant,
    assertion: &Secret,
    status: u16,
    retry_after: Option<&str>,
    body: &[u8],
    now: Timestamp,
) -> Failure {
    let response = json::object(body);
    let is_json = response.is_some();
    // RFC 6749 section 5.2, Entra's, RFC 9470's. Each member may be of any type.
    let response = response.unwrap_or_default();
    let member = |name| json::text(&response, name).filter(|text| !text.contains(assertion.reveal()));
    let error = member("error").and_then(error_name);
    let suberror = member("suberror").and_then(error_name);
    let error_codes: Vec<u32> = response.get("error_codes").and_then(Value::as_array).map_or_else(Vec::new, |codes| {
        codes.iter().take(16).filter_map(|code| u32::try_from(code.as_u64()?).ok()).collect()
    });
    let claims = member("claims").filter(|claims| is_claims(claims)).map(str::to_owned);

    let verdict = match status {
        429 => Verdict::of(FailureReason::Throttled),
        408 | 500..=599 => Verdict::of(FailureReason::Unavailable),
        300..=399 => return with_status(Failure::invalid_response("is a redirect"), status),
        _ if !is_json => {
            return with_status(Failure::invalid_response(&format!("has status {status} and is not JSON")), status);
        }
        _ if grant.is_throttled(&error_codes) => Verdict::not_now(FailureReason::Throttled),
        _ if claims.is_some() => Verdict::of(FailureReason::InteractionRequired),
        _ => grant
            .refine(&error_codes, suberror.as_deref())
            .or_else(|| error.as_deref().and_then(|error| by_error(grant, error)))
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
    failure.max_age = response.get("max_age").and_then(|age| age.as_u64().or_else(|| age.as_str()?.parse().ok()));
    failure.retry_after = retry_after.and_then(|value| retry_after_seconds(value, now));
    failure.correlation_id = member("correlation_id").and_then(trace_name);
    failure.trace_id = member("trace_id").and_then(trace_name);
    failure
}

fn with_status(mut failure: Failure, status: u16) -> Failure {
    failure.status = Some(status);
    failure
}

/// A reason, whether another attempt is worth it now, and whether it is later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) reason: FailureReason,
    pub(crate) now: bool,
    pub(crate) later: bool,
}

impl Verdict {
    pub(crate) const fn of(reason: FailureReason) -> Self {
        Self { reason, now: true, later: true }
    }

    /// Another attempt within this exchange would make it worse; a later call may succeed.
    pub(crate) const fn not_now(reason: FailureReason) -> Self {
        Self { reason, now: false, later: true }
    }

    /// Transient in name only.
    pub(crate) const fn never(reason: FailureReason) -> Self {
        Self { reason, now: false, later: false }
    }
}

/// What the standards' error codes mean (RFC 6749 section 5.2, RFC 8693 section 2.2.2, RFC 9470 section 3,
/// OpenID Connect Core section 3.1.2.6).
fn by_error(grant: Grant, error: &str) -> Option<Verdict> {
    let reason = match error {
        "temporarily_unavailable" | "server_error" => FailureReason::Unavailable,
        "interaction_required" | "login_required" | "insufficient_user_authentication" => {
            FailureReason::InteractionRequired
        }
        "consent_required" => FailureReason::ConsentRequired,
        "access_denied" => FailureReason::Blocked,
        "invalid_grant" => FailureReason::AssertionRejected,
        "invalid_request" | "invalid_token" if grant.blames_the_subject_token() => FailureReason::AssertionRejected,
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

/// A claims request (OpenID Connect Core section 5.5): a JSON object of a size that fits a header.
pub(crate) fn is_claims(text: &str) -> bool {
    text.len() <= 4096 && json::object(text.as_bytes()).is_some()
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
