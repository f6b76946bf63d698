//! URLs, as the host parsed them.
//!
//! The host's own parser takes a URL apart, for the host's own `fetch` will read it again: two parsers
//! that differ are how a check is passed and another address fetched. What is sent out is the
//! serialisation of what was checked here.

/// The parts of a URL as the host's parser sees them, and its serialisation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlComponents {
    /// The scheme without its colon, lower case.
    pub scheme: String,
    /// Whether there is a user name or a password.
    pub has_userinfo: bool,
    /// The host without port; an IPv6 address in its brackets.
    pub host: String,
    /// The origin: scheme, host and port.
    pub origin: String,
    /// The path, from its first slash.
    pub path: String,
    /// Whether there is a query, an empty one excepted.
    pub has_query: bool,
    /// The URL as this parser writes it.
    pub serialisation: String,
}

/// Takes a URL apart: `URL` in JavaScript. `None` where it is none.
pub type ParseUrl = fn(&str) -> Option<UrlComponents>;

/// An absolute https URL (http on a loopback host) without userinfo and fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url(UrlComponents);

impl Url {
    /// Checks `text` and parses it with `parse`.
    ///
    /// # Errors
    /// What is wrong, as the end of a sentence that begins with the name of the field.
    pub fn new(text: &str, parse: ParseUrl) -> Result<Self, &'static str> {
        // The WHATWG parser repairs these in silence, so that what was written is not what is fetched.
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("must be a URL in ASCII without white space");
        }
        if text.contains('\\') {
            return Err("must not contain a backslash");
        }
        if text.contains('#') {
            return Err("must not have a fragment");
        }
        if text.as_bytes().windows(4).any(|window| window == b":///") {
            return Err("must name a host");
        }
        let components = parse(text).ok_or("must be an absolute URL")?;
        if components.has_userinfo {
            return Err("must not carry a user name or password");
        }
        if components.host.is_empty() {
            return Err("must name a host");
        }
        match components.scheme.as_str() {
            "https" => Ok(Self(components)),
            "http" if is_loopback(&components.host) => Ok(Self(components)),
            "http" => Err("must be https (http is for localhost and loopback addresses only)"),
            _ => Err("must be an https URL"),
        }
    }

    /// The URL as it is fetched.
    pub fn as_str(&self) -> &str {
        &self.0.serialisation
    }

    /// Its parts.
    pub fn components(&self) -> &UrlComponents {
        &self.0
    }

    /// The origin, for example `https://gw.example:8443`.
    pub fn origin(&self) -> &str {
        &self.0.origin
    }
}

fn is_loopback(host: &str) -> bool {
    let v4: Option<core::net::Ipv4Addr> = host.parse().ok();
    host == "localhost" || host == "[::1]" || v4.is_some_and(|address| address.is_loopback())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{Url, UrlComponents};

    /// The parser of the native tests: WHATWG's, by the `url` crate.
    pub(crate) fn parse(text: &str) -> Option<UrlComponents> {
        let url = url::Url::parse(text).ok()?;
        Some(UrlComponents {
            scheme: url.scheme().to_owned(),
            has_userinfo: !url.username().is_empty() || url.password().is_some(),
            host: url.host_str().unwrap_or_default().to_owned(),
            origin: url.origin().ascii_serialization(),
            path: url.path().to_owned(),
            has_query: url.query().is_some_and(|query| !query.is_empty()),
            serialisation: url.as_str().to_owned(),
        })
    }

    #[test]
    fn only_https_and_loopback_http_pass() {
        for good in [
            "https://login.example/token",
            "https://login.example:8443/token?p=1",
            "http://localhost:8787/token",
            "http://127.0.0.1/token",
            "http://[::1]:80/token",
        ] {
            assert!(Url::new(good, parse).is_ok(), "{good}");
        }
        for bad in [
            "",
            "token",
            "/token",
            "http://login.example/token",
            "http://127.0.0.1.evil.example/token",
            "http://localhost.evil.example/",
            "ftp://login.example/",
            "javascript:alert(1)",
            "https://user@login.example/token",
            "https://user:password@login.example/token",
            "https://login.example/token#part",
            "https://login.example/token#",
            "https://login.example\\@evil.example/",
            "https://login.\texample/token",
            "https://login.example/to\nken",
            " https://login.example/token",
            "https://login.ex\u{e4}mple/token",
            "https://",
            "https:///token",
        ] {
            assert!(Url::new(bad, parse).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_fetched_is_the_serialisation_of_what_was_checked() {
        let url = Url::new("https://LOGIN.example:443/a/../token", parse).unwrap();
        assert_eq!(url.as_str(), "https://login.example/token");
        assert_eq!(url.origin(), "https://login.example");
        assert_eq!(Url::new("http://localhost:8787?x", parse).unwrap().origin(), "http://localhost:8787");
    }
}
