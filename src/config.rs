//! The options of an exchanger, validated once.

use core::fmt;
use serde_json::Value;

use crate::authorization_server::AuthorizationServer;
use crate::client::ClientAuthentication;
use crate::failure::Failure;
use crate::fields::{Fields, one_of};
use crate::grant::{self, Grant};
use crate::pem;
use crate::retry::Retry;
use crate::url::ParseUrl;

/// The shortest store secret, in bytes.
pub const MIN_STORE_SECRET_BYTES: usize = 32;
/// The most store secrets that may be listed: each costs a read of the store before the exchange.
pub const MAX_STORE_SECRETS: usize = 4;

const DEFAULT_TIMEOUT_MS: u64 = 10_000;
const DEFAULT_LIFETIME_MS: u64 = 60 * 60 * 1000;
const MAX_LIFETIME_MS: u64 = 24 * 60 * 60 * 1000;

/// A secret that seals what goes into the store.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreSecret(Vec<u8>);

impl StoreSecret {
    /// The key material itself.
    pub(crate) fn reveal(&self) -> &[u8] {
        &self.0
    }

    /// Reads at least [`MIN_STORE_SECRET_BYTES`] in base64 or base64url, padded or not.
    pub fn from_base64(text: &str) -> Option<Self> {
        let bytes = pem::decode_base64(text)?;
        (bytes.len() >= MIN_STORE_SECRET_BYTES).then_some(Self(bytes))
    }
}

impl fmt::Debug for StoreSecret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[redacted]")
    }
}

/// What an exchanger does, for whom, and how long it may take.
#[derive(Clone, Debug)]
pub struct Config {
    /// The authorization servers, one for each leg of the grant.
    pub servers: Vec<AuthorizationServer>,
    /// The grant.
    pub grant: &'static dyn Grant,
    /// Whether an assertion that can only be refused is refused without a round trip.
    pub inspect_assertion: bool,
    /// How often, and how far apart.
    pub retry: Retry,
    /// Milliseconds for a whole exchange.
    pub timeout_ms: u64,
    /// Milliseconds that an entry of a cache may serve at most.
    pub max_lifetime_ms: u64,
    /// Whether there is a store.
    pub has_store: bool,
    /// Whether there is a coordinator.
    pub has_coordinator: bool,
    /// What seals entries and names them, newest first; empty where there is neither store nor coordinator.
    pub store_secrets: Vec<StoreSecret>,
    /// Takes apart the URLs that metadata has.
    pub parse_url: ParseUrl,
}

/// Which options that are its own objects the host was given.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostObjects {
    /// `store`.
    pub store: bool,
    /// `coordinator`.
    pub coordinator: bool,
    /// `fetch`.
    pub fetch: bool,
}

impl Config {
    /// Reads the options of the contract, less those that are the host's own objects.
    ///
    /// # Errors
    /// `misconfigured` with the option that is missing, wrong or unknown.
    pub fn read(options: Value, host: HostObjects, parse_url: ParseUrl) -> Result<Self, Failure> {
        let config = Fields::read("", options, |fields| read_config(fields, host, parse_url))?;
        for server in &config.servers {
            check_server(server, config.grant)?;
        }
        if (config.has_store || config.has_coordinator) && config.store_secrets.is_empty() {
            let problem = "is required with a store or a coordinator: nothing is kept unsealed";
            return Err(Failure::misconfigured("storeSecrets", problem));
        }
        Ok(config)
    }

    /// The issuer of the last leg's server, empty where it is not known.
    pub(crate) fn resource_issuer(&self) -> &str {
        self.servers.last().and_then(AuthorizationServer::issuer_name).unwrap_or_default()
    }
}

fn read_config(fields: &mut Fields, host: HostObjects, parse_url: ParseUrl) -> Option<Config> {
    let server = AuthorizationServer::read(fields, host.fetch, parse_url);
    let grant = read_grant(fields);
    let resource_server = read_resource_authorization_server(fields, grant, host, parse_url);
    let inspect_assertion = fields.boolean("inspectAssertion").unwrap_or(true);
    let retry = fields.object("retry", read_retry).unwrap_or_default();
    let timeout_ms = fields.whole_number("timeoutMs", 1000, 25_000).unwrap_or(DEFAULT_TIMEOUT_MS);
    let max_lifetime_ms = fields.whole_number("maxLifetimeMs", 1000, MAX_LIFETIME_MS).unwrap_or(DEFAULT_LIFETIME_MS);
    let store_secrets = read_store_secrets(fields);
    // For whoever asks a coordinator, which may serve several.
    fields.text("name");
    Some(Config {
        servers: [server?].into_iter().chain(resource_server).collect(),
        grant,
        inspect_assertion,
        retry,
        timeout_ms,
        max_lifetime_ms,
        has_store: host.store,
        has_coordinator: host.coordinator,
        store_secrets: if host.store || host.coordinator { store_secrets } else { Vec::new() },
        parse_url,
    })
}

fn read_grant(fields: &mut Fields) -> &'static dyn Grant {
    let Some(name) = fields.text("grant") else { return grant::default() };
    let grant = grant::ALL.into_iter().find(|grant| grant.name() == name);
    if grant.is_none() {
        fields.wrong("grant", &one_of(grant::ALL.map(Grant::name)));
    }
    grant.unwrap_or_else(grant::default)
}

/// The server of the second leg, for a grant that has one.
fn read_resource_authorization_server(
    fields: &mut Fields,
    grant: &dyn Grant,
    host: HostObjects,
    parse_url: ParseUrl,
) -> Option<AuthorizationServer> {
    const NAME: &str = "resourceAuthorizationServer";
    if grant.legs().len() < 2 {
        if fields.take(NAME).is_some() {
            fields.wrong(NAME, &["has no part in the grant ", grant.name()].concat());
        }
        return None;
    }
    let server = fields.object(NAME, |own| {
        let server = AuthorizationServer::read(own, host.fetch, parse_url)?;
        if server.issuer.is_none() {
            own.wrong("issuer", "is required: the first leg's assertion is made for it");
        }
        Some(server)
    });
    if server.is_none() {
        fields.wrong(NAME, &["is required with the grant ", grant.name()].concat());
    }
    server
}

/// Whether the grant can be had of this server by this client.
fn check_server(server: &AuthorizationServer, grant: &dyn Grant) -> Result<(), Failure> {
    let issuer = server.issuer.as_ref().map(|(_, url)| url);
    for (name, url) in [("issuer", issuer), ("tokenEndpoint", server.token_endpoint.as_ref())] {
        if let Some(url) = url {
            grant.check_server(url).map_err(|problem| server.problem(name, problem))?;
        }
    }
    if grant.is_for_confidential_clients_only() && server.client_authentication == ClientAuthentication::None {
        let problem = ["must not be none: the grant ", grant.name(), " needs confidential clients"].concat();
        return Err(server.problem("clientAuthentication.method", &problem));
    }
    Ok(())
}

fn read_retry(fields: &mut Fields) -> Option<Retry> {
    let default = Retry::default();
    Some(Retry {
        attempts: fields.whole_number("attempts", 1, 5).unwrap_or(default.attempts),
        delay_ms: fields.whole_number("delayMs", 0, 5000).unwrap_or(default.delay_ms),
    })
}

fn read_store_secrets(fields: &mut Fields) -> Vec<StoreSecret> {
    let texts = fields.texts("storeSecrets");
    if texts.len() > MAX_STORE_SECRETS {
        fields.wrong("storeSecrets", "must list at most 4 secrets");
    }
    let secrets: Option<Vec<_>> = texts.iter().map(|text| StoreSecret::from_base64(text)).collect();
    if secrets.is_none() {
        fields.wrong("storeSecrets", "must each be at least 32 bytes in base64");
    }
    secrets.unwrap_or_default()
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::{Value, json};

    use super::{Config, HostObjects, StoreSecret};
    use crate::url::tests::parse;

    pub(crate) fn options() -> Value {
        json!({
            "tokenEndpoint": "https://login.example/token",
            "clientId": "client",
            "clientAuthentication": { "method": "client_secret_post", "clientSecret": "hunter2" },
        })
    }

    fn with(name: &str, value: Value) -> Value {
        let mut options = options();
        options[name] = value;
        options
    }

    fn problem(options: Value) -> String {
        let failure = Config::read(options, HostObjects::default(), parse).unwrap_err();
        let field = failure.field.clone().unwrap();
        assert!(failure.message.starts_with(&field), "{} does not begin with {field}", failure.message);
        assert!(!failure.message.contains("hunter2"));
        failure.message.clone()
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let config = Config::read(options(), HostObjects::default(), parse).unwrap();
        assert_eq!((config.retry.attempts, config.retry.delay_ms), (2, 300));
        assert_eq!((config.timeout_ms, config.max_lifetime_ms), (10_000, 3_600_000));
        assert_eq!(config.grant.name(), "on-behalf-of");
    }

    #[test]
    fn what_is_missing_or_wrong_is_named_by_its_path() {
        for (options, start) in [
            (json!(null), "options must be an object"),
            (json!({}), "tokenEndpoint or issuer is required"),
            (with("tokenEndpoint", json!("http://login.example/token")), "tokenEndpoint must be https"),
            (with("tokenEndpoint", json!("https://u:p@login.example/")), "tokenEndpoint must not carry"),
            (with("tokenEndpoint", json!("https://login.example/#f")), "tokenEndpoint must not have a fragment"),
            (with("tokenEndpoint", json!("https:\\\\login.example")), "tokenEndpoint must not contain a backslash"),
            (with("tokenEndpoint", json!("https://login.\texample")), "tokenEndpoint must be a URL in ASCII"),
            (with("tokenEndpoint", json!(7)), "tokenEndpoint must be a non-empty string"),
            (with("issuer", json!("nonsense")), "issuer must be an absolute URL"),
            (with("issuer", json!("https://a@login.example")), "issuer must not carry"),
            (with("clientId", json!("")), "clientId must be a non-empty string"),
            (with("clientId", json!(null)), "clientId is required"),
            (with("clientAuthentication", json!(null)), "clientAuthentication is required"),
            (with("clientAuthentication", json!("hunter2")), "clientAuthentication must be an object"),
            (with("clientAuthentication", json!({})), "clientAuthentication.method is required"),
            (with("clientAuthentication", json!({"method": "x"})), "clientAuthentication.method must be \"client"),
            (
                with("clientAuthentication", json!({"method": "client_secret_post"})),
                "clientAuthentication.clientSecret is required",
            ),
            (
                with("clientAuthentication", json!({"method": "client_secret_post", "clientSecret": " "})),
                "clientAuthentication.clientSecret must be",
            ),
            (
                with(
                    "clientAuthentication",
                    json!({"method": "client_secret_post", "clientSecret": "x", "secret": "hunter2"}),
                ),
                "clientAuthentication.secret is not a known option",
            ),
            (with("grant", json!("device")), "grant must be \"on-behalf-of\""),
            (with("retry", json!({"attempts": 0})), "retry.attempts must be a whole number from 1 to 5"),
            (with("retry", json!({"delayMs": 1.5})), "retry.delayMs must be a whole number"),
            (with("retry", json!({"delay": 1})), "retry.delay is not a known option"),
            (with("timeoutMs", json!(999)), "timeoutMs must be a whole number from 1000 to 25000"),
            (with("timeoutMs", json!("10000")), "timeoutMs must be"),
            (with("maxLifetimeMs", json!(86_400_001)), "maxLifetimeMs must be"),
            (with("storeSecrets", json!("hunter2")), "storeSecrets must each be at least 32 bytes"),
            (with("storeSecrets", json!(["", "x"])), "storeSecrets must be a non-empty string or a list"),
            (with("clientID", json!("client")), "clientID is not a known option"),
        ] {
            let message = problem(options);
            assert!(message.starts_with(start), "{message:?} does not begin with {start:?}");
        }
    }

    #[test]
    fn numbers_may_arrive_as_javascript_has_them() {
        let config = Config::read(with("timeoutMs", json!(2000.0)), HostObjects::default(), parse).unwrap();
        assert_eq!(config.timeout_ms, 2000);
    }

    #[test]
    fn a_store_needs_a_secret() {
        let failure =
            Config::read(options(), HostObjects { store: true, ..HostObjects::default() }, parse).unwrap_err();
        assert_eq!(failure.field.as_deref(), Some("storeSecrets"));
        let secret = "A".repeat(43);
        assert!(
            Config::read(
                with("storeSecrets", json!(secret)),
                HostObjects { store: true, ..HostObjects::default() },
                parse
            )
            .is_ok()
        );
    }

    #[test]
    fn store_secrets_are_read_in_both_alphabets() {
        let url = StoreSecret::from_base64(&format!("{}-_8", "A".repeat(41))).unwrap();
        let padded = StoreSecret::from_base64(&format!(" {}+/8=\n", "A".repeat(41))).unwrap();
        assert!(url == padded);
        assert!(StoreSecret::from_base64(&"A".repeat(42)).is_none(), "31 bytes");
        assert!(StoreSecret::from_base64(&"!".repeat(64)).is_none());
    }
}
