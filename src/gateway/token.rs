//! Which user tokens a server takes: the form before verification, the claims after it.

use serde_json::{Map, Value};

use super::answer::Answer;
use super::challenge;
use super::config::GatewayConfig;
use crate::request::MAX_ASSERTION_BYTES;

/// The signature algorithms of user tokens (RFC 7518 section 3.1, RFC 8037): asymmetric ones only, so that no
/// public key is ever taken for a shared secret.
pub const ALGORITHMS: [&str; 10] =
    ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"];

/// The token of an `Authorization` header (RFC 6750 section 2.1).
///
/// # Errors
/// The challenge to answer with.
pub fn bearer<'a>(config: &GatewayConfig, name: &str, authorization: Option<&'a str>) -> Result<&'a str, Answer> {
    let Some(authorization) = authorization else { return Err(challenge::missing_token(config, name)) };
    let token = match authorization.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim_ascii(),
        _ => return Err(challenge::missing_token(config, name)),
    };
    let fits = (1..=MAX_ASSERTION_BYTES).contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic());
    if fits { Ok(token) } else { Err(challenge::invalid_token(config, name)) }
}

/// Judges a token whose signature, issuer, audience and times have been verified.
///
/// # Errors
/// The challenge to answer with.
pub fn judge(
    config: &GatewayConfig,
    name: &str,
    header: &Map<String, Value>,
    claims: &Map<String, Value>,
) -> Result<(), Answer> {
    let Some(server) = config.server(name) else { return Err(Answer::not_found()) };
    let granted = granted_scopes(claims);
    // An id_token of the same registration has the same issuer, keys and audience: it has no scope.
    let is_access_token = is_access_token_type(header.get("typ"))
        && !granted.is_empty()
        && claims.get("idtyp").is_none_or(|kind| kind.as_str().is_some_and(|kind| kind != "app"))
        // The token is of use only to whoever proves a key (RFC 7800); until that is checked it is nobody's.
        && claims.get("cnf").is_none();
    if !is_access_token {
        return Err(challenge::invalid_token(config, name));
    }
    if server.inbound.scopes.iter().all(|scope| granted.contains(&scope.as_str())) {
        Ok(())
    } else {
        Err(challenge::insufficient_scope(config, name, &granted))
    }
}

/// `typ` absent, `JWT`, or `at+jwt` (RFC 9068 section 2.1), without regard to case and to `application/`.
fn is_access_token_type(typ: Option<&Value>) -> bool {
    match typ {
        None => true,
        Some(typ) => typ.as_str().is_some_and(|typ| {
            let typ = typ.to_ascii_lowercase();
            matches!(typ.strip_prefix("application/").unwrap_or(&typ), "jwt" | "at+jwt")
        }),
    }
}

/// The scopes of `scope` (RFC 9068 section 2.2.3) or `scp` (Entra, Okta): a string or a list.
fn granted_scopes(claims: &Map<String, Value>) -> Vec<&str> {
    let mut granted = Vec::new();
    for claim in ["scope", "scp"] {
        match claims.get(claim) {
            Some(Value::String(scopes)) => granted.extend(scopes.split(' ').filter(|scope| !scope.is_empty())),
            Some(Value::Array(scopes)) => granted.extend(scopes.iter().filter_map(Value::as_str)),
            _ => {}
        }
    }
    granted
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{bearer, judge};
    use crate::gateway::config::tests::{config, read};

    fn verdict(header: Value, claims: Value) -> Option<(u16, String)> {
        let refusal =
            judge(&read(config()), "files", header.as_object().unwrap(), claims.as_object().unwrap()).err()?;
        Some((refusal.status, refusal.header("www-authenticate").unwrap().to_owned()))
    }

    #[test]
    fn a_delegated_access_token_with_the_servers_scopes_is_taken() {
        for typ in [json!({}), json!({"typ": "JWT"}), json!({"typ": "at+jwt"}), json!({"typ": "application/at+JWT"})] {
            assert_eq!(verdict(typ, json!({"scp": "other mcp.access"})), None);
        }
        assert_eq!(verdict(json!({}), json!({"scope": "mcp.access"})), None);
        assert_eq!(verdict(json!({}), json!({"scp": ["mcp.access"]})), None);
        assert_eq!(verdict(json!({}), json!({"scp": "mcp.access", "idtyp": "user"})), None);
    }

    #[test]
    fn what_is_no_access_token_of_a_user_is_invalid() {
        for (header, claims) in [
            (json!({}), json!({})),
            (json!({}), json!({"scp": ""})),
            (json!({}), json!({"scp": " "})),
            (json!({}), json!({"scp": []})),
            (json!({}), json!({"scp": {"mcp.access": true}})),
            (json!({"typ": "id+jwt"}), json!({"scp": "mcp.access"})),
            (json!({"typ": "dpop+jwt"}), json!({"scp": "mcp.access"})),
            (json!({"typ": 1}), json!({"scp": "mcp.access"})),
            (json!({}), json!({"scp": "mcp.access", "idtyp": "app"})),
            (json!({}), json!({"scp": "mcp.access", "idtyp": 1})),
            (json!({}), json!({"scp": "mcp.access", "cnf": {"jkt": "x"}})),
            (json!({}), json!({"scp": "mcp.access", "cnf": null})),
        ] {
            let (status, challenge) = verdict(header.clone(), claims.clone()).unwrap();
            assert_eq!(status, 401, "{header} {claims}");
            assert!(challenge.contains("error=\"invalid_token\""));
        }
    }

    #[test]
    fn a_token_without_the_servers_scopes_is_told_which_it_needs_beside_its_own() {
        let (status, challenge) = verdict(json!({}), json!({"scp": "mail.read"})).unwrap();
        assert_eq!(status, 403);
        assert!(challenge.contains("error=\"insufficient_scope\""));
        assert!(challenge.contains("scope=\"mcp.access mail.read\""), "{challenge}");
        // A part of a scope's name is not the scope.
        assert_eq!(verdict(json!({}), json!({"scp": "mcp.access2 xmcp.access"})).unwrap().0, 403);
        // What a header cannot carry is left out of it.
        let (_, challenge) = verdict(json!({}), json!({"scp": ["a\"b", "c\r\nd", "e"]})).unwrap();
        assert!(challenge.contains("scope=\"mcp.access e\""), "{challenge}");
    }

    #[test]
    fn a_bearer_token_is_taken_from_the_header_and_nothing_else_is() {
        let config = read(config());
        let take = |header: &'static str| bearer(&config, "files", Some(header)).map_err(|answer| answer.status);
        assert_eq!(take("Bearer a.b.c"), Ok("a.b.c"));
        assert_eq!(take("bearer  a.b.c "), Ok("a.b.c"));
        for wrong in ["", "Bearer", "Bearer ", "Basic YTpi", "a.b.c", "Bearer a b", "Bearer \u{e4}", "DPoP a.b.c"] {
            assert_eq!(take(wrong), Err(401), "{wrong}");
        }
        let missing = bearer(&config, "files", None).unwrap_err();
        let challenge = missing.header("www-authenticate").unwrap();
        assert!(!challenge.contains("error="), "RFC 6750 section 3.1: no error code where there was no token");
        assert!(
            challenge
                .contains("resource_metadata=\"https://gw.example/.well-known/oauth-protected-resource/mcp/files\"")
        );
        let oversized = format!("Bearer {}", "x".repeat(70_000));
        assert_eq!(bearer(&config, "files", Some(&oversized)).unwrap_err().status, 401);
    }
}
