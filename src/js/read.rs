//! The options, out of JavaScript.

use crate::config::{Config, HostObjects};
use crate::failure::Failure;
use crate::url::UrlComponents;

/// Reads the options of an exchanger, which JavaScript wrote as JSON.
pub(super) fn config(options: &str, host: HostObjects) -> Result<Config, Failure> {
    Config::read(serde_json::from_slice(options.as_bytes()).unwrap_or_default(), host, parse_url)
}

/// Takes a URL apart with the very parser that `fetch` uses.
pub(super) fn parse_url(text: &str) -> Option<UrlComponents> {
    let url = web_sys::Url::new(text).ok()?;
    Some(UrlComponents {
        scheme: url.protocol().trim_end_matches(':').to_owned(),
        has_userinfo: !url.username().is_empty() || !url.password().is_empty(),
        host: url.hostname(),
        origin: url.origin(),
        path: url.pathname(),
        has_query: !url.search().is_empty(),
        serialisation: url.href(),
    })
}
