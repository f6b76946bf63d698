//! Which headers pass, by allow-list, in both directions. Everything else stays: cookies, credentials,
//! forwarding headers, challenges, redirects, policies of another origin.

/// From the client to the server.
const UPSTREAM: [&str; 13] = [
    "accept",
    "accept-language",
    "content-encoding",
    "content-language",
    "content-type",
    "last-event-id",
    "mcp-method",
    "mcp-name",
    "mcp-protocol-version",
    "mcp-session-id",
    "traceparent",
    "tracestate",
    "x-accel-buffering",
];
/// Headers of MCP that carry a tool's parameters.
const UPSTREAM_PREFIX: &str = "mcp-param-";

/// From the server to the client.
const DOWNSTREAM: [&str; 7] = [
    "allow",
    "content-language",
    "content-type",
    "mcp-protocol-version",
    "mcp-session-id",
    "retry-after",
    "x-accel-buffering",
];

/// Whether a request header of this name goes to the server.
pub fn passes_upstream(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    UPSTREAM.contains(&name.as_str()) || name.strip_prefix(UPSTREAM_PREFIX).is_some_and(|rest| !rest.is_empty())
}

/// Whether a response header of this name goes to the client.
pub fn passes_downstream(name: &str) -> bool {
    DOWNSTREAM.contains(&name.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::{passes_downstream, passes_upstream};

    #[test]
    fn what_mcp_needs_passes_and_what_would_leak_does_not() {
        for name in
            ["Accept", "Content-Type", "MCP-Protocol-Version", "Mcp-Session-Id", "Mcp-Param-Path", "Last-Event-ID"]
        {
            assert!(passes_upstream(name), "{name}");
        }
        for name in [
            "Authorization",
            "Cookie",
            "Proxy-Authorization",
            "Proxy-Connection",
            "Cf-Connecting-Ip",
            "Cf-Access-Jwt-Assertion",
            "X-Forwarded-For",
            "X-Forwarded-Host",
            "Forwarded",
            "Host",
            "Origin",
            "Referer",
            "Connection",
            "Upgrade",
            "Transfer-Encoding",
            "Mcp-Param-",
            "X-Api-Key",
            "",
        ] {
            assert!(!passes_upstream(name), "{name}");
        }
        for name in ["content-type", "mcp-session-id", "retry-after"] {
            assert!(passes_downstream(name), "{name}");
        }
        for name in [
            "Set-Cookie",
            "WWW-Authenticate",
            "Location",
            "Access-Control-Allow-Origin",
            "Alt-Svc",
            "Strict-Transport-Security",
            "Authorization",
            "Clear-Site-Data",
            "Refresh",
            "Link",
            "Cache-Control",
            "Content-Encoding",
            "Authentication-Info",
        ] {
            assert!(!passes_downstream(name), "{name}");
        }
    }
}
