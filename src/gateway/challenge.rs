//! Challenges: the `WWW-Authenticate` header of a refusal (RFC 9110 section 11.6.1, RFC 6750 section 3).

use super::answer::Answer;
use super::config::GatewayConfig;
use super::metadata;
use crate::pem;

/// A Bearer challenge, parameter by parameter.
struct Challenge(String);

impl Challenge {
    fn new() -> Self {
        Self("Bearer".to_owned())
    }

    /// Adds a quoted parameter; what a quoted string cannot hold is left out.
    fn with(mut self, name: &str, value: &str) -> Self {
        self.0.push_str(if self.0 == "Bearer" { " " } else { ", " });
        self.0.push_str(name);
        self.0.push_str("=\"");
        self.0.extend(
            value.chars().filter(|character| matches!(character, ' '..='~') && !matches!(character, '"' | '\\')),
        );
        self.0.push('"');
        self
    }

    fn for_server(self, config: &GatewayConfig, name: &str) -> Self {
        self.with("resource_metadata", &metadata::url(config, name))
    }
}

/// No token: where to learn how to get one, and the scopes to ask for (RFC 9728 section 5.1).
pub(crate) fn missing_token(config: &GatewayConfig, name: &str) -> Answer {
    let scopes = required_scopes(config, name).join(" ");
    let challenge = Challenge::new().for_server(config, name).with("scope", &scopes);
    refuse(401, "missing_token", "A bearer token is required.", challenge)
}

/// A token that is malformed, expired, another's, or refused by the identity provider.
pub(crate) fn invalid_token(config: &GatewayConfig, name: &str) -> Answer {
    let scopes = required_scopes(config, name).join(" ");
    let challenge = Challenge::new().with("error", "invalid_token").for_server(config, name).with("scope", &scopes);
    refuse(401, "invalid_token", "The token is not valid here. Sign in again.", challenge)
}

/// A token without the scopes that the server requires: all of them, and those that it has already.
pub(crate) fn insufficient_scope(config: &GatewayConfig, name: &str, granted: &[&str]) -> Answer {
    let mut scopes = required_scopes(config, name);
    for scope in granted {
        let fits = scope.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\');
        if fits && !scopes.contains(scope) {
            scopes.push(scope);
        }
    }
    let scopes = scopes.join(" ");
    let challenge =
        Challenge::new().with("error", "insufficient_scope").for_server(config, name).with("scope", &scopes);
    refuse(403, "insufficient_scope", "The token has not the scopes that this server requires.", challenge)
}

/// The identity provider wants claims: Entra's form, the claims in base64.
pub(crate) fn insufficient_claims(config: &GatewayConfig, name: &str, claims: &str) -> Answer {
    let claims = pem::encode_base64(claims.as_bytes());
    let challenge =
        Challenge::new().with("error", "insufficient_claims").with("claims", &claims).for_server(config, name);
    refuse(401, "insufficient_claims", "The identity provider asks for more of the user.", challenge)
}

/// The identity provider wants a stronger or fresher sign-in (RFC 9470 section 3).
pub(crate) fn insufficient_authentication(
    config: &GatewayConfig,
    name: &str,
    acr_values: Option<&str>,
    max_age: Option<u64>,
) -> Answer {
    let mut challenge = Challenge::new().with("error", "insufficient_user_authentication");
    if let Some(acr_values) = acr_values {
        challenge = challenge.with("acr_values", acr_values);
    }
    if let Some(max_age) = max_age {
        challenge = challenge.with("max_age", &max_age.to_string());
    }
    let challenge = challenge.for_server(config, name);
    refuse(401, "insufficient_user_authentication", "A stronger or fresher sign-in is required.", challenge)
}

/// Consent is missing, and this scope's authorization request asks for it.
pub(crate) fn consent_required(config: &GatewayConfig, name: &str, consent_scope: Option<&str>) -> Answer {
    let answer = Answer::error(403, "consent_required", "The user or an administrator has to consent first.");
    match consent_scope {
        Some(scope) => {
            let challenge = Challenge::new().with("error", "insufficient_scope").for_server(config, name);
            answer.with_header("www-authenticate", &challenge.with("scope", scope).0)
        }
        None => answer,
    }
}

fn required_scopes<'a>(config: &'a GatewayConfig, name: &str) -> Vec<&'a str> {
    config.server(name).map_or_else(Vec::new, |server| server.inbound.scopes.iter().map(String::as_str).collect())
}

fn refuse(status: u16, error: &str, description: &str, challenge: Challenge) -> Answer {
    Answer::error(status, error, description).with_header("www-authenticate", &challenge.0)
}
