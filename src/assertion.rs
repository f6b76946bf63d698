//! What an assertion says of itself, read without trusting it: to serve for less long, and to spare a round trip
//! that can only fail. An opaque one says nothing.

use base64ct::{Base64UrlUnpadded, Encoding};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use crate::digest::Digest;
use crate::json;
use crate::time::Timestamp;

/// An assertion that ends within this time is as good as ended, in milliseconds: the request takes a while too.
const ABOUT_TO_EXPIRE_MS: u64 = 5000;
/// How far the issuer's clock may be ahead of ours, in milliseconds.
const CLOCK_TOLERANCE_MS: u64 = 60_000;
/// Where Entra's issuers begin, of v1 and v2 tokens in all clouds.
const ENTRA_ISSUERS: [&str; 5] = [
    "https://login.microsoftonline.com/",
    "https://login.microsoftonline.us/",
    "https://login.partner.microsoftonline.cn/",
    "https://sts.windows.net/",
    "https://sts.chinacloudapi.cn/",
];
/// Where the identifiers of Microsoft's own resources begin: no client of anybody else's.
const FOREIGN_AUDIENCES: [&str; 3] =
    ["https://graph.microsoft.com", "https://graph.windows.net", "https://management.azure.com"];

/// What an assertion says without being asked to prove it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AssertionFacts {
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// Its `exp` (RFC 7519 section 4.1.4). It is only ever used to serve for less long.
    pub expires_at: Option<Timestamp>,
    /// Its `nbf` (RFC 7519 section 4.1.5).
    pub not_before: Option<Timestamp>,
    /// Whether it has what only an ID token has (OpenID Connect Core section 2).
    pub is_id_token: bool,
    /// Whether Entra says that it stands for no user.
    pub is_app_only: bool,
    /// Whether it is Entra's and has no `scp`.
    pub lacks_scp: bool,
    /// Whether each of its audiences is certainly not this client. An App ID URI may be any name, so it is not.
    pub is_for_another: bool,
}

impl AssertionFacts {
    /// Hashes and reads `assertion`, which is to be presented by the client `client_id`.
    pub fn of(assertion: &str, client_id: &str) -> Self {
        let claims = jwt_part(assertion, 1).unwrap_or_default();
        let text = |name| json::text(&claims, name).unwrap_or_default();
        let has = |name| claims.contains_key(name);
        // Of any type: some write a list.
        let has_scope = has("scp") || has("scope");
        Self {
            digest: Digest(Sha256::digest(assertion.as_bytes()).into()),
            expires_at: instant(&claims, "exp"),
            not_before: instant(&claims, "nbf"),
            // Keycloak says so; others have members of the sign-in, or its nonce and no scope.
            is_id_token: text("typ") == "ID" || has("at_hash") || has("c_hash") || (has("nonce") && !has_scope),
            is_app_only: text("idtyp") == "app",
            lacks_scp: text("scp").is_empty() && ENTRA_ISSUERS.iter().any(|issuer| text("iss").starts_with(issuer)),
            is_for_another: match claims.get("aud") {
                Some(Value::String(audience)) => is_another(audience, client_id),
                Some(Value::Array(list)) if !list.is_empty() => {
                    list.iter().all(|audience| audience.as_str().is_some_and(|text| is_another(text, client_id)))
                }
                _ => false,
            },
        }
    }

    /// Whether it says that it has ended.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|expiry| expiry <= now)
    }

    /// What an identity provider would refuse it for at this time.
    pub fn untimely(&self, now: Timestamp) -> Option<&'static str> {
        if self.is_expired(now.plus(ABOUT_TO_EXPIRE_MS)) {
            return Some("has expired or is about to");
        }
        let is_early = self.not_before.is_some_and(|begin| begin > now.plus(CLOCK_TOLERANCE_MS));
        is_early.then_some("is not valid yet")
    }
}

/// The header (0) or the claims (1) of a JWT in compact serialisation (RFC 7515 section 7.1).
pub(crate) fn jwt_part(text: &str, part: usize) -> Option<Map<String, Value>> {
    if text.bytes().filter(|byte| *byte == b'.').count() != 2 {
        return None;
    }
    json::object(&Base64UrlUnpadded::decode_vec(text.split('.').nth(part)?).ok()?)
}

/// A NumericDate (RFC 7519 section 2).
fn instant(claims: &Map<String, Value>, name: &str) -> Option<Timestamp> {
    let seconds = claims.get(name)?.as_f64()?;
    // The cast saturates: a negative date is 1970, a huge one never bounds anything.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturation is what is wanted")]
    Some(Timestamp::from_millis((seconds * 1000.0) as u64))
}

/// Whether an audience names a client or resource that is certainly another: by a client id that is not ours, by
/// itself or in the App ID URI that Entra proposes, or one of Microsoft's own.
fn is_another(audience: &str, client_id: &str) -> bool {
    let name = audience.strip_prefix("api://").unwrap_or(audience);
    let name = name.split('/').next().unwrap_or_default();
    let is_other_client = is_uuid(name) && is_uuid(client_id) && !name.eq_ignore_ascii_case(client_id);
    is_other_client || FOREIGN_AUDIENCES.iter().any(|foreign| audience.starts_with(foreign))
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(place, byte)| match place {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
pub(crate) mod tests {
    use base64ct::{Base64UrlUnpadded, Encoding};

    use super::AssertionFacts;
    use crate::time::Timestamp;

    const CLIENT: &str = "11112222-bbbb-3333-cccc-4444dddd5555";
    const OTHER: &str = "99998888-bbbb-3333-cccc-4444dddd5555";

    /// An unsigned JWT with this payload.
    pub(crate) fn jwt(payload: &str) -> String {
        format!("e30.{}.c2ln", Base64UrlUnpadded::encode_string(payload.as_bytes()))
    }

    fn facts(payload: &str) -> AssertionFacts {
        AssertionFacts::of(&jwt(payload), CLIENT)
    }

    #[test]
    fn the_expiry_of_a_jwt_is_read_and_anything_else_has_none() {
        let expiry = |assertion: &str| AssertionFacts::of(assertion, CLIENT).expires_at;
        assert_eq!(expiry(&jwt(r#"{"exp":1700000000}"#)), Some(Timestamp::from_secs(1_700_000_000)));
        assert_eq!(expiry(&jwt(r#"{"exp":1.5}"#)), Some(Timestamp::from_millis(1500)));
        assert_eq!(expiry(&jwt(r#"{"exp":-1}"#)), Some(Timestamp::from_millis(0)));
        for opaque in ["opaque", "a.b", "a.b.c", "a.b.c.d.e", "..", &jwt("{}"), &jwt(r#"{"exp":"1"}"#), &jwt("[]")] {
            assert_eq!(expiry(opaque), None, "{opaque}");
        }
    }

    #[test]
    fn an_opaque_assertion_is_objected_to_for_nothing() {
        for opaque in ["opaque", "a.b.c", "PHNhbWw-", &jwt("7"), &jwt("{}")] {
            let facts = AssertionFacts::of(opaque, CLIENT);
            assert!(!(facts.is_id_token || facts.is_app_only || facts.lacks_scp || facts.is_for_another), "{opaque}");
            assert_eq!(facts.untimely(Timestamp::from_secs(1_700_000_000)), None);
        }
    }

    #[test]
    fn an_assertion_is_untimely_once_expired_or_about_to_and_before_it_is_valid() {
        let facts = facts(r#"{"nbf":1000,"exp":2000}"#);
        assert_eq!(facts.untimely(Timestamp::from_secs(939)), Some("is not valid yet"));
        assert_eq!(facts.untimely(Timestamp::from_secs(940)), None, "clocks differ");
        assert_eq!(facts.untimely(Timestamp::from_secs(1994)), None);
        assert_eq!(facts.untimely(Timestamp::from_secs(1995)), Some("has expired or is about to"));
        assert_eq!(facts.untimely(Timestamp::from_secs(3000)), Some("has expired or is about to"));
    }

    #[test]
    fn an_id_token_is_known_by_what_only_it_has() {
        for id_token in [r#"{"at_hash":"x"}"#, r#"{"c_hash":"x"}"#, r#"{"nonce":"x"}"#, r#"{"typ":"ID"}"#] {
            assert!(facts(id_token).is_id_token, "{id_token}");
        }
        for access_token in [
            r#"{"nonce":"x","scp":["a"]}"#,
            r#"{"nonce":"x","scp":"a"}"#,
            r#"{"nonce":"x","scope":"a"}"#,
            r#"{"typ":"Bearer"}"#,
        ] {
            assert!(!facts(access_token).is_id_token, "{access_token}");
        }
    }

    #[test]
    fn only_entras_own_tokens_need_an_scp() {
        assert!(facts(r#"{"iss":"https://login.microsoftonline.com/t/v2.0"}"#).lacks_scp);
        assert!(facts(r#"{"iss":"https://sts.windows.net/t/","scp":""}"#).lacks_scp);
        assert!(!facts(r#"{"iss":"https://sts.windows.net/t/","scp":"a"}"#).lacks_scp);
        assert!(!facts(r#"{"iss":"https://login.example/"}"#).lacks_scp);
        assert!(!facts(r#"{"iss":"https://login.microsoftonline.com.evil.example/"}"#).lacks_scp);
        assert!(facts(r#"{"idtyp":"app"}"#).is_app_only);
        assert!(!facts(r#"{"idtyp":"user"}"#).is_app_only);
    }

    #[test]
    fn an_audience_is_anothers_only_where_that_is_certain() {
        let foreign = |audience: &str| facts(&format!(r#"{{"aud":{audience}}}"#)).is_for_another;
        for own in [
            &format!("\"{CLIENT}\""),
            &format!("\"{}\"", CLIENT.to_uppercase()),
            &format!("\"api://{CLIENT}\""),
            &format!("\"api://{CLIENT}/mcp\""),
            "\"api://gateway.contoso.example\"",
            "\"https://contoso.example/gateway\"",
            &format!("[\"{OTHER}\",\"{CLIENT}\"]"),
            "[]",
            "7",
            "null",
        ] {
            assert!(!foreign(own), "{own}");
        }
        for other in [
            &format!("\"{OTHER}\""),
            &format!("\"api://{OTHER}\""),
            &format!("\"api://{OTHER}/x\""),
            "\"https://graph.microsoft.com\"",
            "\"https://graph.microsoft.com/\"",
            "\"00000003-0000-0000-c000-000000000000\"",
            &format!("[\"{OTHER}\"]"),
        ] {
            assert!(foreign(other), "{other}");
        }
        let named = AssertionFacts::of(&jwt(&format!(r#"{{"aud":"{OTHER}"}}"#)), "gateway");
        assert!(!named.is_for_another, "a client id that is no UUID is no client of Entra's");
    }
}
