//! An issuer's own metadata (RFC 8414, OpenID Connect Discovery): where it may be, what is read of it, and how
//! long it is believed.

use serde_json::Value;

use crate::json;
use crate::time::Timestamp;
use crate::url::{ParseUrl, Url};

/// The longest document that is read, in bytes.
pub const MAX_METADATA_BYTES: usize = 1024 * 1024;
/// How long metadata is used without looking again, in milliseconds.
const FRESH_MS: u64 = 60 * 60 * 1000;
/// How long it is used at most, however often the look fails, in milliseconds.
const STALE_MS: u64 = 24 * 60 * 60 * 1000;
/// How long after a look that failed old metadata is used without another, in milliseconds.
const COOLDOWN_MS: u64 = 60 * 1000;

/// What is read of an authorization server's metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// `token_endpoint`.
    pub token_endpoint: Url,
    /// The token endpoint for clients with a certificate (RFC 8705 section 5).
    pub mtls_token_endpoint: Option<Url>,
    /// `token_endpoint_auth_methods_supported`, where it is said.
    pub authentication_methods: Option<Vec<String>>,
    /// `token_endpoint_auth_signing_alg_values_supported`, where it is said.
    pub signing_algorithms: Option<Vec<String>>,
}

impl Metadata {
    /// Reads a document that must name `issuer` exactly (RFC 8414 section 3.3).
    ///
    /// # Errors
    /// The end of a sentence that begins with the name of the option.
    pub fn read(issuer: &str, document: &[u8], parse_url: ParseUrl) -> Result<Self, &'static str> {
        let document = json::object(document).ok_or("publishes metadata that is not a JSON object")?;
        if json::text(&document, "issuer") != Some(issuer) {
            return Err(NAMES_ANOTHER);
        }
        let endpoint = |text: &Value| endpoint(issuer, text.as_str()?, parse_url);
        let token_endpoint = document.get("token_endpoint").and_then(endpoint);
        let aliases = document.get("mtls_endpoint_aliases").and_then(|aliases| aliases.get("token_endpoint"));
        let mtls_token_endpoint = aliases.and_then(endpoint);
        if aliases.is_some() && mtls_token_endpoint.is_none() {
            return Err("publishes an mtls_endpoint_aliases.token_endpoint that is no https URL");
        }
        Ok(Self {
            token_endpoint: token_endpoint.ok_or("publishes no token_endpoint that is an https URL")?,
            mtls_token_endpoint,
            authentication_methods: texts(document.get("token_endpoint_auth_methods_supported")),
            signing_algorithms: texts(document.get("token_endpoint_auth_signing_alg_values_supported")),
        })
    }
}

/// What is wrong with an issuer whose metadata is another's.
pub(crate) const NAMES_ANOTHER: &str = "publishes metadata that names another issuer";

/// Where an issuer's metadata may be, in the order to try: OpenID Connect Discovery section 4, which most have,
/// then RFC 8414 section 3.
pub fn metadata_urls(issuer: &Url) -> [String; 2] {
    let origin = issuer.origin();
    let path = issuer.components().path.trim_end_matches('/');
    [
        [origin, path, "/.well-known/openid-configuration"].concat(),
        [origin, "/.well-known/oauth-authorization-server", path].concat(),
    ]
}

/// The `jwks_uri` of an issuer's metadata, which must name that very issuer (RFC 8414 section 3.3).
pub fn jwks_uri(issuer: &str, document: &str, parse_url: ParseUrl) -> Option<String> {
    let document = json::object(document.as_bytes())?;
    if json::text(&document, "issuer")? != issuer {
        return None;
    }
    endpoint(issuer, json::text(&document, "jwks_uri")?, parse_url).map(|url| url.as_str().to_owned())
}

/// An endpoint of metadata. A document from the network must not point at this machine unless it came from there.
fn endpoint(issuer: &str, text: &str, parse_url: ParseUrl) -> Option<Url> {
    let url = Url::new(text, parse_url).ok()?;
    let from_loopback = Url::new(issuer, parse_url).is_ok_and(|issuer| issuer.components().scheme == "http");
    (url.components().scheme == "https" || from_loopback).then_some(url)
}

fn texts(value: Option<&Value>) -> Option<Vec<String>> {
    let list = value?.as_array()?;
    Some(list.iter().filter_map(Value::as_str).map(str::to_owned).collect())
}

/// What is known of one authorization server.
#[derive(Debug, Default)]
pub struct MetadataCache {
    known: Option<(Metadata, Timestamp)>,
    failed_at: Option<Timestamp>,
}

impl MetadataCache {
    /// What may be used without a look: it is fresh, or the last look has just failed and it is not too old.
    pub fn usable(&self, now: Timestamp) -> Option<&Metadata> {
        let failed_lately = self.failed_at.is_some_and(|at| age(at, now) < COOLDOWN_MS);
        self.younger_than(if failed_lately { STALE_MS } else { FRESH_MS }, now)
    }

    /// Keeps what a look found.
    pub fn keep(&mut self, metadata: Metadata, now: Timestamp) {
        *self = Self { known: Some((metadata, now)), failed_at: None };
    }

    /// A look has failed; what may be used all the same.
    pub fn failed(&mut self, now: Timestamp) -> Option<&Metadata> {
        self.failed_at = Some(now);
        self.younger_than(STALE_MS, now)
    }

    fn younger_than(&self, most_ms: u64, now: Timestamp) -> Option<&Metadata> {
        self.known.as_ref().filter(|(_, kept_at)| age(*kept_at, now) < most_ms).map(|(metadata, _)| metadata)
    }
}

/// How old something is, in milliseconds. What a clock that went back puts into the future is of unknown age.
fn age(since: Timestamp, now: Timestamp) -> u64 {
    if since > now.plus(COOLDOWN_MS) { u64::MAX } else { now.after(since) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::url::tests::parse;

    const ISSUER: &str = "https://login.example/tenant";

    fn read(document: &serde_json::Value) -> Result<Metadata, &'static str> {
        Metadata::read(ISSUER, document.to_string().as_bytes(), parse)
    }

    fn document(name: &str, value: serde_json::Value) -> serde_json::Value {
        let mut document = json!({"issuer": ISSUER, "token_endpoint": "https://tokens.example/t"});
        document[name] = value;
        document
    }

    #[test]
    fn both_well_known_places_of_an_issuer_are_known() {
        let urls = |issuer| metadata_urls(&Url::new(issuer, parse).unwrap());
        assert_eq!(
            urls("https://login.example/tenant/v2.0"),
            [
                "https://login.example/tenant/v2.0/.well-known/openid-configuration",
                "https://login.example/.well-known/oauth-authorization-server/tenant/v2.0",
            ]
        );
        assert_eq!(urls("https://login.example/")[0], "https://login.example/.well-known/openid-configuration");
    }

    #[test]
    fn keys_are_taken_from_metadata_that_names_the_issuer_exactly() {
        let uri = |issuer: &str, keys: &str| {
            let metadata = format!(r#"{{"issuer":"{issuer}","jwks_uri":"{keys}"}}"#);
            jwks_uri("https://login.example", &metadata, parse)
        };
        let keys = "https://login.example/keys";
        assert_eq!(uri("https://login.example", keys).as_deref(), Some(keys));
        assert_eq!(uri("https://login.example/", keys), None);
        assert_eq!(uri("https://evil.example", keys), None);
        assert_eq!(uri("https://login.example", "http://login.example/keys"), None);
        assert_eq!(uri("https://login.example", "http://127.0.0.1/keys"), None);
        assert_eq!(jwks_uri("https://login.example", "<html>", parse), None);
    }

    #[test]
    fn what_is_read_of_metadata_is_the_endpoints_and_what_clients_may_do() {
        let metadata = read(&json!({
            "issuer": ISSUER,
            "token_endpoint": "https://tokens.example/t",
            "mtls_endpoint_aliases": {"token_endpoint": "https://mtls.example/t"},
            "token_endpoint_auth_methods_supported": ["tls_client_auth", 7],
            "token_endpoint_auth_signing_alg_values_supported": ["PS256"],
        }))
        .unwrap();
        assert_eq!(metadata.token_endpoint.as_str(), "https://tokens.example/t");
        assert_eq!(metadata.mtls_token_endpoint.unwrap().as_str(), "https://mtls.example/t");
        assert_eq!(metadata.authentication_methods.unwrap(), ["tls_client_auth"]);
        assert_eq!(metadata.signing_algorithms.unwrap(), ["PS256"]);
    }

    #[test]
    fn metadata_that_cannot_be_used_says_why() {
        for (document, problem) in [
            (json!(7), "publishes metadata that is not a JSON object"),
            (document("issuer", json!("https://login.example/tenant/")), NAMES_ANOTHER),
            (document("issuer", json!("https://login.example/{tenantid}")), NAMES_ANOTHER),
            (document("issuer", json!(null)), NAMES_ANOTHER),
            (document("token_endpoint", json!(null)), "publishes no token_endpoint that is an https URL"),
            (
                document("token_endpoint", json!("http://tokens.example/")),
                "publishes no token_endpoint that is an https URL",
            ),
            (
                document("token_endpoint", json!("http://127.0.0.1/")),
                "publishes no token_endpoint that is an https URL",
            ),
            (
                document("token_endpoint", json!("https://u:p@t.example")),
                "publishes no token_endpoint that is an https URL",
            ),
            (
                document("mtls_endpoint_aliases", json!({"token_endpoint": "x"})),
                "publishes an mtls_endpoint_aliases.token_endpoint that is no https URL",
            ),
        ] {
            assert_eq!(read(&document).unwrap_err(), problem, "{document}");
        }
    }

    #[test]
    fn metadata_is_fresh_for_an_hour_and_used_for_a_day_while_the_look_fails() {
        const HOUR: u64 = 60 * 60 * 1000;
        let start = Timestamp::from_secs(1_000_000);
        let metadata = read(&document("x", json!(null))).unwrap();
        let mut cache = MetadataCache::default();
        assert!(cache.usable(start).is_none() && cache.failed(start).is_none());
        cache.keep(metadata, start);
        assert!(cache.usable(start.plus(HOUR - 1)).is_some());
        assert!(cache.usable(start.plus(HOUR)).is_none());
        assert!(cache.failed(start.plus(HOUR)).is_some());
        assert!(cache.usable(start.plus(HOUR + COOLDOWN_MS - 1)).is_some(), "no look for a minute");
        assert!(cache.usable(start.plus(HOUR + COOLDOWN_MS)).is_none());
        assert!(cache.failed(start.plus(24 * HOUR)).is_none());
        assert!(cache.usable(start.plus(24 * HOUR)).is_none());
        assert!(cache.usable(start.minus(HOUR)).is_none(), "a clock that went back");
    }
}
