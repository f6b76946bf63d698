//! What the gateway answers by itself.

use crate::json;

/// `Retry-After` of an answer that is about a moment, in seconds.
const RETRY_SECONDS: u64 = 5;

/// A response without a body that streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Header names in lower case, and values.
    pub headers: Vec<(&'static str, String)>,
    /// The body, JSON or empty.
    pub body: String,
}

impl Answer {
    /// No body.
    pub(crate) fn empty(status: u16) -> Self {
        Self { status, headers: vec![("cache-control", "no-store".to_owned())], body: String::new() }
    }

    /// A JSON body.
    pub(crate) fn json(status: u16, body: String) -> Self {
        let answer = Self { body, ..Self::empty(status) };
        answer.with_header("content-type", "application/json")
    }

    /// An error in OAuth's form (RFC 6749 section 5.2). The description is ours, never another server's.
    pub(crate) fn error(status: u16, error: &str, description: &str) -> Self {
        let body = ["{\"error\":", &json::quote(error), ",\"error_description\":", &json::quote(description), "}"];
        Self::json(status, body.concat())
    }

    /// The answer with one more header.
    pub(crate) fn with_header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn not_found() -> Self {
        Self::error(404, "not_found", "There is no such server.")
    }

    pub(crate) fn method_not_allowed(allow: &str) -> Self {
        Self::error(405, "method_not_allowed", "The method is not allowed here.").with_header("allow", allow)
    }

    pub(crate) fn token_in_query() -> Self {
        Self::error(400, "invalid_request", "A token must not stand in a URL.")
    }

    /// The keys that tokens are verified with cannot be fetched: nothing is wrong with the token.
    pub fn keys_unavailable() -> Self {
        Self::error(503, "temporarily_unavailable", "The issuer's keys cannot be fetched at the moment.")
            .with_header("retry-after", &RETRY_SECONDS.to_string())
    }

    /// The server could not be reached.
    pub fn upstream_unreachable() -> Self {
        Self::error(502, "upstream_unreachable", "The server could not be reached.")
    }
}
