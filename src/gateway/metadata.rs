//! Metadata: of our servers as protected resources (RFC 9728), and of the issuers whose tokens they take
//! (RFC 8414, OpenID Connect Discovery).

use super::answer::Answer;
use super::config::GatewayConfig;
use crate::json;
use crate::url::{ParseUrl, Url};

/// Where protected resource metadata is (RFC 9728 section 3.1).
pub(crate) const METADATA_PATH: &str = "/.well-known/oauth-protected-resource";

/// The URL of a server's metadata, as challenges name it.
pub fn url(config: &GatewayConfig, name: &str) -> String {
    format!("{}{METADATA_PATH}/mcp/{name}", config.public_origin)
}

/// A server's metadata. Public, and for browsers' clients too.
pub(crate) fn answer(config: &GatewayConfig, name: &str) -> Answer {
    let Some(server) = config.server(name) else { return Answer::not_found() };
    let scopes: Vec<String> = server.inbound.scopes.iter().map(|scope| json::quote(scope)).collect();
    let body = [
        "{\"resource\":",
        &json::quote(&config.resource(name)),
        ",\"authorization_servers\":[",
        &json::quote(&server.inbound.issuer),
        "],\"scopes_supported\":[",
        &scopes.join(","),
        "],\"bearer_methods_supported\":[\"header\"],\"resource_name\":",
        &json::quote(name),
        "}",
    ];
    Answer::json(200, body.concat()).with_header("access-control-allow-origin", "*")
}

/// The answer to a browser that asks whether it may read the metadata.
pub(crate) fn preflight() -> Answer {
    Answer::empty(204)
        .with_header("access-control-allow-origin", "*")
        .with_header("access-control-allow-methods", "GET")
        .with_header("access-control-allow-headers", "*")
}

/// Where an issuer's own metadata may be, in the order to try: OpenID Connect Discovery section 4, RFC 8414
/// section 3.
pub fn issuer_metadata_urls(issuer: &str, parse_url: ParseUrl<'_>) -> Vec<String> {
    let Ok(url) = Url::new(issuer, parse_url) else { return Vec::new() };
    let origin = url.origin();
    let path = url.components().path.trim_end_matches('/');
    vec![
        format!("{origin}{path}/.well-known/openid-configuration"),
        format!("{origin}/.well-known/oauth-authorization-server{path}"),
    ]
}

/// The `jwks_uri` of an issuer's metadata, which must name that very issuer (RFC 8414 section 3.3).
pub fn jwks_uri(issuer: &str, metadata: &str, parse_url: ParseUrl<'_>) -> Option<String> {
    let metadata = json::object(metadata.as_bytes())?;
    if json::text(&metadata, "issuer")? != issuer {
        return None;
    }
    let url = Url::new(json::text(&metadata, "jwks_uri")?, parse_url).ok()?;
    // A document from the network must not point at this machine unless it came from there.
    let from_loopback = Url::new(issuer, parse_url).is_ok_and(|issuer| issuer.components().scheme == "http");
    (url.components().scheme == "https" || from_loopback).then(|| url.as_str().to_owned())
}

#[cfg(test)]
mod tests {
    use super::{answer, issuer_metadata_urls, jwks_uri};
    use crate::gateway::config::tests::{config, read};
    use crate::url::tests::parse;

    #[test]
    fn a_servers_metadata_speaks_of_the_public_origin_and_its_own_issuer() {
        let answer = answer(&read(config()), "files");
        let body: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(body["resource"], "https://gw.example/mcp/files");
        assert_eq!(body["authorization_servers"][0], "https://login.example");
        assert_eq!(body["scopes_supported"][0], "mcp.access");
    }

    #[test]
    fn both_well_known_places_of_an_issuer_are_known() {
        assert_eq!(
            issuer_metadata_urls("https://login.example/tenant/v2.0", &parse),
            [
                "https://login.example/tenant/v2.0/.well-known/openid-configuration",
                "https://login.example/.well-known/oauth-authorization-server/tenant/v2.0",
            ]
        );
        assert_eq!(
            issuer_metadata_urls("https://login.example/", &parse)[0],
            "https://login.example/.well-known/openid-configuration"
        );
    }

    #[test]
    fn keys_are_taken_from_metadata_that_names_the_issuer_exactly() {
        let uri = |issuer: &str, keys: &str| {
            let metadata = format!(r#"{{"issuer":"{issuer}","jwks_uri":"{keys}"}}"#);
            jwks_uri("https://login.example", &metadata, &parse)
        };
        let keys = "https://login.example/keys";
        assert_eq!(uri("https://login.example", keys).as_deref(), Some(keys));
        assert_eq!(uri("https://login.example/", keys), None);
        assert_eq!(uri("https://evil.example", keys), None);
        assert_eq!(uri("https://login.example", "http://login.example/keys"), None);
        assert_eq!(uri("https://login.example", "http://127.0.0.1/keys"), None);
        assert_eq!(jwks_uri("https://login.example", "<html>", &parse), None);
    }
}
