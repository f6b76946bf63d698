//! Metadata of our servers as protected resources (RFC 9728).

use super::answer::Answer;
use super::config::GatewayConfig;
use crate::json;

/// Where protected resource metadata is (RFC 9728 section 3.1).
pub(crate) const METADATA_PATH: &str = "/.well-known/oauth-protected-resource";

/// The URL of a server's metadata, as challenges name it.
pub fn url(config: &GatewayConfig, name: &str) -> String {
    format!("{}{METADATA_PATH}/mcp/{name}", config.public_origin)
}

/// A server's metadata. Public, and for browsers' clients too.
pub(crate) fn answer(config: &GatewayConfig, name: &str) -> Answer {
    let Some(server) = config.server(name) else { return Answer::not_found() };
    let quoted: Vec<String> = server.inbound.scopes.iter().map(|scope| json::quote(scope)).collect();
    let scopes: Vec<&str> = quoted.iter().map(String::as_str).collect();
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

#[cfg(test)]
mod tests {
    use super::answer;
    use crate::gateway::config::tests::{config, read};

    #[test]
    fn a_servers_metadata_speaks_of_the_public_origin_and_its_own_issuer() {
        let answer = answer(&read(config()), "files");
        let body: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(body["resource"], "https://gw.example/mcp/files");
        assert_eq!(body["authorization_servers"][0], "https://login.example");
        assert_eq!(body["scopes_supported"][0], "mcp.access");
    }
}
