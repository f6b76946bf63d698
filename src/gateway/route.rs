//! Which of the gateway's places a request is for.

use super::answer::Answer;
use super::config::GatewayConfig;
use super::metadata::{self, METADATA_PATH};

/// A place of the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// The server of this name.
    Server(String),
    /// An answer that needs nothing else.
    Answer(Answer),
}

/// Finds the place for a method, a path and a query (without its question mark).
pub fn route(config: &GatewayConfig, method: &str, path: &str, query: &str) -> Route {
    if let Some(name) = path.strip_prefix(METADATA_PATH).and_then(|rest| server_of(config, rest)) {
        return Route::Answer(match method {
            "GET" => metadata::answer(config, &name),
            "OPTIONS" => metadata::preflight(),
            _ => Answer::method_not_allowed("GET, OPTIONS"),
        });
    }
    let Some(name) = server_of(config, path) else { return Route::Answer(Answer::not_found()) };
    // A token in a URL ends up in logs (RFC 9700 section 4.3.2); MCP forbids it.
    if has_parameter(query, "access_token") {
        return Route::Answer(Answer::token_in_query());
    }
    match method {
        "GET" | "POST" | "DELETE" => Route::Server(name),
        _ => Route::Answer(Answer::method_not_allowed("GET, POST, DELETE")),
    }
}

fn server_of(config: &GatewayConfig, path: &str) -> Option<String> {
    let name = path.strip_prefix("/mcp/")?;
    config.server(name).map(|_| name.to_owned())
}

/// Whether a query has a parameter of this name, whichever of its letters are encoded.
fn has_parameter(query: &str, name: &str) -> bool {
    query.split('&').any(|pair| decoded(pair.split('=').next().unwrap_or_default()).eq(name.bytes()))
}

/// The bytes of a name in a query (URL Standard section 5.1). The library's parser makes text of them, at 2 kB of wasm.
fn decoded(text: &str) -> impl Iterator<Item = u8> {
    let mut bytes = text.bytes();
    core::iter::from_fn(move || {
        let byte = bytes.next()?;
        let mut ahead = bytes.clone();
        let mut digit = || char::from(ahead.next()?).to_digit(16);
        match (byte, byte == b'%', digit(), digit()) {
            (_, true, Some(high), Some(low)) => {
                bytes = ahead;
                u8::try_from(high << 4 | low).ok()
            }
            (b'+', ..) => Some(b' '),
            (other, ..) => Some(other),
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Route, has_parameter, route};
    use crate::gateway::config::tests::{config, read};

    fn status(method: &str, path: &str, query: &str) -> Option<u16> {
        match route(&read(config()), method, path, query) {
            Route::Server(name) => {
                assert_eq!(name, "files");
                None
            }
            Route::Answer(answer) => Some(answer.status),
        }
    }

    proptest! {
        #[test]
        fn a_query_is_read_as_the_library_reads_it(query in "([&=+%46aA]|[a-z0-9%]{0,3}){0,12}") {
            let is_there = form_urlencoded::parse(query.as_bytes()).any(|(name, _)| name == "a") ;
            prop_assert_eq!(has_parameter(&query, "a"), is_there);
        }
    }

    #[test]
    fn only_configured_servers_are_reached_and_only_by_their_exact_path() {
        for method in ["GET", "POST", "DELETE"] {
            assert_eq!(status(method, "/mcp/files", ""), None);
        }
        for path in [
            "/",
            "/mcp",
            "/mcp/",
            "/mcp/other",
            "/mcp/files/",
            "/mcp/files/x",
            "/MCP/files",
            "//mcp/files",
            "/mcp/%66iles",
            "/mcp/../mcp/files",
            "/mcp/files;x",
            "/x/mcp/files",
        ] {
            assert_eq!(status("POST", path, ""), Some(404), "{path}");
        }
        assert_eq!(status("PUT", "/mcp/files", ""), Some(405));
        assert_eq!(status("OPTIONS", "/mcp/files", ""), Some(405));
    }

    #[test]
    fn a_token_in_the_query_is_refused() {
        assert_eq!(status("POST", "/mcp/files", "access_token=x"), Some(400));
        assert_eq!(status("POST", "/mcp/files", "a=1&access_token=x"), Some(400));
        assert_eq!(status("POST", "/mcp/files", "%61ccess%5Ftoken=x"), Some(400));
        assert_eq!(status("POST", "/mcp/files", "a=access_token"), None);
    }

    #[test]
    fn metadata_stands_under_the_well_known_path_of_each_server() {
        assert_eq!(status("GET", "/.well-known/oauth-protected-resource/mcp/files", ""), Some(200));
        assert_eq!(status("GET", "/.well-known/oauth-protected-resource/mcp/other", ""), Some(404));
        assert_eq!(status("GET", "/.well-known/oauth-protected-resource", ""), Some(404));
        assert_eq!(status("POST", "/.well-known/oauth-protected-resource/mcp/files", ""), Some(405));
    }
}
