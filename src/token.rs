//! A successful response of a token endpoint, read.

use serde_json::Value;

use crate::assertion::jwt_part;
use crate::failure::Failure;
use crate::grant::Leg;
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
    /// `Bearer`, as RFC 6750 writes it; `N_A` for what is no access token (RFC 8693 section 2.2.1).
    pub token_type: String,
    /// The granted scopes, separated by spaces.
    pub scope: String,
    /// RFC 8693 `issued_token_type`.
    pub issued_token_type: Option<String>,
    /// The token's own expiry.
    pub expires_at: Timestamp,
    /// From when on the server wants it renewed (`refresh_in`, Entra); [`Timestamp::NEVER`] where it does not say.
    pub refresh_at: Timestamp,
}

impl Token {
    /// Reads the body of a 2xx response to `leg` of `request`, which presented `assertion` at `sent_at`: the
    /// members of RFC 6749 section 5.1 and RFC 8693 section 2.2.1 that are used. A refresh token is never read.
    ///
    /// # Errors
    /// `invalid_response`, with the member that is missing or wrong as its field.
    pub fn read(
        leg: &dyn Leg,
        request: &Request,
        assertion: &Secret,
        body: &[u8],
        sent_at: Timestamp,
    ) -> Result<Self, Failure> {
        let response = json::object(body).ok_or_else(|| Failure::invalid_response("is not a JSON object"))?;
        let access_token = json::text(&response, "access_token").unwrap_or_default();
        if access_token.is_empty() {
            return Err(wrong("access_token", "has no access_token"));
        }
        if !access_token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(wrong("access_token", "has an access_token that no header can carry"));
        }
        // A server that hands the user's own token back, or the actor's, would have it passed through.
        let presented = [Some(&request.assertion), Some(assertion), request.actor_token.as_ref()];
        if presented.into_iter().flatten().any(|token| token.reveal() == access_token) {
            return Err(wrong("access_token", "carries a token that was sent as its access_token"));
        }
        if let Some(wanted) = leg.jwt_type()
            && !jwt_type(access_token).is_some_and(|name| is_media_type(&name, wanted))
        {
            return Err(wrong("access_token", &["has an access_token that is no JWT of typ ", wanted].concat()));
        }
        let token_type = leg.token_type();
        if !json::text(&response, "token_type").is_some_and(|name| name.eq_ignore_ascii_case(token_type)) {
            return Err(wrong("token_type", &["has a token_type that is not ", token_type].concat()));
        }
        let issued_token_type = json::text(&response, "issued_token_type");
        let issuable = leg.issued_token_types();
        if !issuable.is_empty() && !issued_token_type.is_some_and(|name| issuable.contains(&name)) {
            let problem = ["has an issued_token_type that is not ", &issuable.join(" or ")].concat();
            return Err(wrong("issued_token_type", &problem));
        }
        let scope = match json::text(&response, "scope") {
            Some(scope) if !scope.is_empty() => scope.to_owned(),
            // Absent where it is what was asked for (RFC 6749 section 5.1).
            _ => request.scope(),
        };
        let expires_in = match response.get("expires_in") {
            None | Some(Value::Null) => Some(DEFAULT_EXPIRES_IN_SECONDS),
            Some(value) => positive_seconds(value),
        };
        let expires_in =
            expires_in.ok_or_else(|| wrong("expires_in", "has an expires_in that is not a positive number"))?;
        let after = |seconds: u64| sent_at.plus(seconds.saturating_mul(1000));
        Ok(Self {
            access_token: Secret::new(access_token),
            token_type: token_type.to_owned(),
            scope,
            // Only where the grant has it is it known to be one of the standard's names.
            issued_token_type: issued_token_type.filter(|name| issuable.contains(name)).map(str::to_owned),
            expires_at: after(expires_in),
            // One that makes no sense is none: it is advice.
            refresh_at: response.get("refresh_in").and_then(positive_seconds).map_or(Timestamp::NEVER, after),
        })
    }
}

fn jwt_type(token: &str) -> Option<String> {
    Some(json::text(&jwt_part(token, 0)?, "typ")?.to_owned())
}

/// Whether a `typ` names this type, with or without `application/` (RFC 7515 section 4.1.9).
fn is_media_type(name: &str, wanted: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.strip_prefix("application/").unwrap_or(&name) == wanted
}

fn wrong(member: &str, problem: &str) -> Failure {
    let mut failure = Failure::invalid_response(problem);
    failure.field = Some(member.to_owned());
    failure
}

/// `expires_in` in whole seconds: a number, or one in a string as some servers send it.
fn positive_seconds(value: &Value) -> Option<u64> {
    let seconds = match value {
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
    use crate::grant;
    use crate::request::{Request, RequestField};
    use crate::secret::Secret;
    use crate::time::Timestamp;

    const SENT: Timestamp = Timestamp::from_secs(1000);

    fn read(body: &str) -> Result<Token, Failure> {
        let mut request = Request::new();
        request.set(RequestField::Assertion, "user.token").unwrap();
        request.set(RequestField::Scopes, "b a").unwrap();
        Token::read(grant::ALL[0].legs()[0], &request, &request.assertion, body.as_bytes(), SENT)
    }

    fn read_as(grant: usize, leg: usize, body: &serde_json::Value) -> Result<Token, Option<String>> {
        let mut request = Request::new();
        request.set(RequestField::Assertion, "user.token").unwrap();
        let presented = Secret::new("presented");
        let token = Token::read(grant::ALL[grant].legs()[leg], &request, &presented, body.to_string().as_bytes(), SENT);
        token.map_err(|failure| failure.field.clone())
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

    #[test]
    fn a_token_exchange_must_say_that_it_issued_an_access_token() {
        let with = |issued: &str, token_type: &str| {
            let issued = ["urn:ietf:params:oauth:token-type:", issued].concat();
            read_as(1, 0, &json!({"access_token": "t", "token_type": token_type, "issued_token_type": issued}))
        };
        let token = with("access_token", "bearer").unwrap();
        assert_eq!(token.issued_token_type.as_deref(), Some("urn:ietf:params:oauth:token-type:access_token"));
        assert!(with("jwt", "Bearer").is_ok());
        for other in ["refresh_token", "id_token", "saml2", "id-jag", ""] {
            assert_eq!(with(other, "Bearer").unwrap_err().as_deref(), Some("issued_token_type"), "{other}");
        }
        assert_eq!(with("access_token", "N_A").unwrap_err().as_deref(), Some("token_type"));
        let without = json!({"access_token": "t", "token_type": "Bearer"});
        assert_eq!(read_as(1, 0, &without).unwrap_err().as_deref(), Some("issued_token_type"));
        assert!(read_as(2, 0, &without).is_ok(), "jwt-bearer need not");
    }

    #[test]
    fn no_token_that_was_sent_is_taken_for_the_one_that_was_asked_for() {
        let mut request = Request::new();
        request.set(RequestField::Assertion, "user.token").unwrap();
        request.set(RequestField::ActorToken, "actor.token").unwrap();
        let field = |access_token: &str| {
            let body = json!({"access_token": access_token, "token_type": "Bearer"}).to_string();
            let presented = Secret::new("identity.assertion");
            let token = Token::read(grant::ALL[2].legs()[0], &request, &presented, body.as_bytes(), SENT);
            token.err().and_then(|failure| failure.field.clone())
        };
        for sent in ["user.token", "actor.token", "identity.assertion"] {
            assert_eq!(field(sent).as_deref(), Some("access_token"), "{sent}");
        }
        assert_eq!(field("another.token"), None);
    }

    #[test]
    fn an_identity_assertion_is_known_by_its_type_in_the_response_and_in_its_header() {
        let jwt = |typ: &str| {
            use base64ct::{Base64UrlUnpadded, Encoding};
            format!("{}.e30.c2ln", Base64UrlUnpadded::encode_string(json!({"typ": typ}).to_string().as_bytes()))
        };
        let with = |token: &str, token_type: &str, issued: &str| {
            read_as(3, 0, &json!({"access_token": token, "token_type": token_type, "issued_token_type": issued}))
        };
        const ID_JAG: &str = "urn:ietf:params:oauth:token-type:id-jag";
        assert!(with(&jwt("oauth-id-jag+jwt"), "N_A", ID_JAG).is_ok());
        assert!(with(&jwt("application/OAuth-ID-JAG+jwt"), "n_a", ID_JAG).is_ok());
        let field = |token: &str, token_type, issued| with(token, token_type, issued).unwrap_err();
        assert_eq!(field(&jwt("JWT"), "N_A", ID_JAG).as_deref(), Some("access_token"));
        assert_eq!(field("opaque", "N_A", ID_JAG).as_deref(), Some("access_token"));
        assert_eq!(field(&jwt("oauth-id-jag+jwt"), "Bearer", ID_JAG).as_deref(), Some("token_type"));
        assert_eq!(field(&jwt("oauth-id-jag+jwt"), "N_A", "x").as_deref(), Some("issued_token_type"));
        assert_eq!(field("presented", "N_A", ID_JAG).as_deref(), Some("access_token"), "what was presented");
    }
}
