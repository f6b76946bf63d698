//! A successful response of a token endpoint, read.

use serde_json::Value;

use crate::failure::Failure;
use crate::json;
use crate::request::Request;
use crate::secret::Secret;
use crate::time::Timestamp;

/// What a token lives whose response does not say, in seconds.
const DEFAULT_EXPIRES_IN_SECONDS: u64 = 3600;
/// The longest life that is believed, in seconds: a year. Serving is bounded far below.
const MAX_EXPIRES_IN_SECONDS: u64 = 365 * 24 * 3600;

/// A token made for a downstream resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// The token itself.
    pub access_token: Secret,
    /// `Bearer`, as RFC 6750 writes it.
    pub token_type: String,
    /// The granted scopes, separated by spaces.
    pub scope: String,
    /// RFC 8693 `issued_token_type`.
    pub issued_token_type: Option<String>,
    /// The token's own expiry.
    pub expires_at: Timestamp,
}

impl Token {
    /// Reads the body of a 2xx response to `request`, which was sent at `sent_at`: the members of RFC 6749
    /// section 5.1 that are used. A refresh token is never read.
    ///
    /// # Errors
    /// `invalid_response`, with the member that is missing or wrong as its field.
    pub fn read(request: &Request, body: &[u8], sent_at: Timestamp) -> Result<Self, Failure> {
        let response = json::object(body).ok_or_else(|| Failure::invalid_response("is not a JSON object"))?;
        let access_token = json::text(&response, "access_token").unwrap_or_default();
        if access_token.is_empty() {
            return Err(wrong("access_token", "has no access_token"));
        }
        if !access_token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(wrong("access_token", "has an access_token that no header can carry"));
        }
        // A server that hands the user's own token back would have it passed through.
        if access_token == request.assertion.reveal() {
            return Err(wrong("access_token", "carries the assertion itself as its access_token"));
        }
        if !json::text(&response, "token_type").is_some_and(|name| name.eq_ignore_ascii_case("bearer")) {
            return Err(wrong("token_type", "has a token_type that is not Bearer"));
        }
        let scope = match json::text(&response, "scope") {
            Some(scope) if !scope.is_empty() => scope.to_owned(),
            // Absent where it is what was asked for (RFC 6749 section 5.1).
            _ => request.scopes.join(" "),
        };
        let seconds = expires_in_seconds(response.get("expires_in").unwrap_or(&Value::Null))
            .ok_or_else(|| wrong("expires_in", "has an expires_in that is not a positive number"))?;
        Ok(Self {
            access_token: Secret::new(access_token),
            token_type: "Bearer".to_owned(),
            scope,
            issued_token_type: None,
            expires_at: sent_at.plus(seconds.saturating_mul(1000)),
        })
    }
}

fn wrong(member: &str, problem: &str) -> Failure {
    let mut failure = Failure::invalid_response(problem);
    failure.field = Some(member.to_owned());
    failure
}

/// `expires_in` in whole seconds: a number, or one in a string as some servers send it.
fn expires_in_seconds(value: &Value) -> Option<u64> {
    let seconds = match value {
        Value::Null => DEFAULT_EXPIRES_IN_SECONDS,
        // The cast saturates.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturation is what is wanted")]
        Value::Number(number) => number.as_f64()? as u64,
        Value::String(text) => text.parse().ok()?,
        _ => return None,
    };
    (seconds > 0).then(|| seconds.min(MAX_EXPIRES_IN_SECONDS))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Token;
    use crate::failure::{Failure, FailureReason};
    use crate::request::{Request, RequestField};
    use crate::time::Timestamp;

    const SENT: Timestamp = Timestamp::from_secs(1000);

    fn read(body: &str) -> Result<Token, Failure> {
        let mut request = Request::new();
        request.set(RequestField::Assertion, "user.token").unwrap();
        request.set(RequestField::Scopes, "b a").unwrap();
        Token::read(&request, body.as_bytes(), SENT)
    }

    fn lifetime(expires_in: &str) -> Option<u64> {
        let body = format!(r#"{{"access_token":"t","token_type":"Bearer","expires_in":{expires_in}}}"#);
        read(&body).ok().map(|token| token.expires_at.after(SENT))
    }

    #[test]
    fn a_complete_response_becomes_a_token() {
        let body =
            json!({"access_token": "t", "token_type": "bearer", "expires_in": 60, "scope": "a", "refresh_token": "r"});
        let token = read(&body.to_string()).unwrap();
        assert_eq!(
            (token.access_token.reveal(), token.token_type.as_str(), token.scope.as_str()),
            ("t", "Bearer", "a")
        );
        assert_eq!(token.expires_at, Timestamp::from_secs(1060));
    }

    #[test]
    fn a_response_without_scope_granted_what_was_asked_for() {
        assert_eq!(read(r#"{"access_token":"t","token_type":"Bearer"}"#).unwrap().scope, "a b");
    }

    #[test]
    fn every_lifetime_ends() {
        assert_eq!(lifetime("3600"), Some(3_600_000));
        assert_eq!(lifetime("\"3600\""), Some(3_600_000));
        assert_eq!(lifetime("3599.9"), Some(3_599_000));
        assert_eq!(lifetime("null"), Some(3_600_000));
        assert_eq!(lifetime("1e18"), Some(365 * 24 * 3_600_000));
        assert_eq!(lifetime("1e308"), Some(365 * 24 * 3_600_000));
        for wrong in [
            "0", "-1", "\"-1\"", "\"abc\"", "\"\"", "\"NaN\"", "\"inf\"", "\"1e3\"", "true", "[]", "{}", "NaN", "1e999",
        ] {
            assert_eq!(lifetime(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_no_token_response_is_refused_and_the_member_named() {
        for (body, field) in [
            ("<html>", None),
            ("", None),
            ("[]", None),
            ("\u{feff}{}", None),
            ("{}", Some("access_token")),
            (r#"{"access_token":"","token_type":"Bearer"}"#, Some("access_token")),
            (r#"{"access_token":7,"token_type":"Bearer"}"#, Some("access_token")),
            (r#"{"access_token":"a b","token_type":"Bearer"}"#, Some("access_token")),
            (r#"{"access_token":"a\r\nX: y","token_type":"Bearer"}"#, Some("access_token")),
            (r#"{"access_token":"user.token","token_type":"Bearer"}"#, Some("access_token")),
            (r#"{"access_token":"t"}"#, Some("token_type")),
            (r#"{"access_token":"t","token_type":"DPoP"}"#, Some("token_type")),
            (r#"{"access_token":"t","token_type":"Bearer","expires_in":"abc"}"#, Some("expires_in")),
        ] {
            let failure = read(body).unwrap_err();
            assert_eq!(failure.reason, FailureReason::InvalidResponse, "{body}");
            assert_eq!(failure.field.as_deref(), field, "{body}");
            assert!(!failure.message.contains("user.token"));
        }
    }
}
