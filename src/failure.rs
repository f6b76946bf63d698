//! Why an exchange gave no token: the reason, and what a caller may do about it.

use core::fmt;
use core::ops::{Deref, DerefMut};

use serde::ser::{Serialize, Serializer};
use serde_json::Value;

use crate::json;
use crate::record;

/// What an exchange failed of, and whose move it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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

    /// How long a failure of this kind is remembered for the same request, in milliseconds.
    pub const fn remembered_ms(self) -> u64 {
        match self {
            Self::AssertionRejected | Self::Blocked => 60_000,
            Self::InteractionRequired | Self::ConsentRequired | Self::Misconfigured => 10_000,
            _ => 0,
        }
    }

    /// Whether it speaks of the presented assertion, so that another assertion of the same user may fare better.
    pub const fn is_about_the_assertion(self) -> bool {
        matches!(self, Self::AssertionRejected | Self::InteractionRequired | Self::Blocked)
    }
}

/// An exchange that gave no token. Boxed, for it is the rare half of every result.
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// As the contract's fields.
impl Serialize for Failure {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use record::Value as Told;
        let codes = Some(self.error_codes.as_slice()).filter(|codes| !codes.is_empty());
        let members = [
            ("reason", Some(Told::Text(self.reason.as_str()))),
            ("message", Some(Told::Text(&self.message))),
            ("retryable", Some(Told::Flag(self.retryable))),
            ("status", self.status.map(|status| Told::Number(status.into()))),
            ("error", Told::text(self.error.as_ref())),
            ("suberror", Told::text(self.suberror.as_ref())),
            ("errorCodes", codes.map(Told::Numbers)),
            ("claims", Told::text(self.claims.as_ref())),
            ("acrValues", Told::text(self.acr_values.as_ref())),
            ("maxAge", self.max_age.map(Told::Number)),
            ("retryAfter", self.retry_after.map(Told::Number)),
            ("correlationId", Told::text(self.correlation_id.as_ref())),
            ("traceId", Told::text(self.trace_id.as_ref())),
            ("field", Told::text(self.field.as_ref())),
        ];
        record::serialize(serializer, members)
    }
}

/// What is known of a failure. Holds nothing secret: no token, no secret, no `error_description`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FailureDetails {
    /// What it failed of.
    pub reason: FailureReason,
    /// A sentence for the operator.
    pub message: String,
    /// Whether the same call may succeed later without anybody doing anything.
    pub retryable: bool,
    /// Whether it is worth another attempt within this exchange; `retryable` without it is for later calls.
    pub(crate) worth_an_attempt: bool,
    /// The HTTP status of the token endpoint's response.
    pub status: Option<u16>,
    /// The response's `error` (RFC 6749 section 5.2).
    pub error: Option<String>,
    /// The response's `suberror` (Entra).
    pub suberror: Option<String>,
    /// The response's `error_codes` (Entra).
    pub error_codes: Vec<u32>,
    /// The claims challenge to hand on to the client, JSON as the identity provider wrote it.
    pub claims: Option<String>,
    /// The authentication context wanted (RFC 9470 section 3).
    pub acr_values: Option<String>,
    /// The age of the sign-in wanted, in seconds (RFC 9470 section 3).
    pub max_age: Option<u64>,
    /// How long to wait, in seconds, as the response said; at most an hour.
    pub retry_after: Option<u64>,
    /// The identity provider's `correlation_id`.
    pub correlation_id: Option<String>,
    /// The identity provider's `trace_id`.
    pub trace_id: Option<String>,
    /// The option or request field that is missing or wrong.
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

    /// A host that does not do what it is asked.
    pub(crate) fn unasked() -> Self {
        Self::new(FailureReason::Misconfigured, "the host reported what was not asked of it")
    }

    /// Reads what another isolate made of a failure: the contract's fields, as JSON. `None` for anything else.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let object = json::object(text.as_bytes())?;
        let member = |name| json::text(&object, name).map(str::to_owned);
        let number = |name| object.get(name).and_then(Value::as_u64);
        let mut failure = Self::new(FailureReason::from_name(json::text(&object, "reason")?)?, member("message")?);
        failure.retryable = object.get("retryable").and_then(Value::as_bool)?;
        failure.worth_an_attempt = false;
        failure.status = number("status").and_then(|status| u16::try_from(status).ok());
        failure.error = member("error");
        failure.suberror = member("suberror");
        let codes = object.get("errorCodes").and_then(Value::as_array);
        failure.error_codes =
            codes.into_iter().flatten().filter_map(|code| u32::try_from(code.as_u64()?).ok()).collect();
        failure.claims = member("claims");
        failure.acr_values = member("acrValues");
        failure.max_age = number("maxAge");
        failure.retry_after = number("retryAfter");
        failure.correlation_id = member("correlationId");
        failure.trace_id = member("traceId");
        failure.field = member("field");
        Some(failure)
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

/// A reason, whether another attempt is worth it now, and whether it is later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What it failed of.
    pub reason: FailureReason,
    /// Whether another attempt within this exchange is worth it.
    pub now: bool,
    /// Whether a later call may succeed without anybody doing anything.
    pub later: bool,
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
