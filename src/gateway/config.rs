//! The gateway's configuration: its servers by name, who may call them, and what they get.

use serde_json::{Map, Value};

use crate::failure::Failure;
use crate::fields::Fields;
use crate::grant;
use crate::url::{ParseUrl, Url};

/// The longest name of a server, in characters.
const MAX_NAME_LENGTH: usize = 64;
/// Transports that MCP knows or knew, which carry no headers for each request.
const HEADERLESS_TRANSPORTS: [&str; 3] = ["stdio", "websocket", "ws"];

/// The gateway.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// The origin that clients see; every URL that is handed out begins with it, never with a `Host` header.
    pub public_origin: String,
    /// The servers with their names.
    servers: Vec<(String, Server)>,
}

/// A server behind the gateway.
#[derive(Clone, Debug)]
pub struct Server {
    /// Where it is.
    pub url: Url,
    /// Whose tokens it takes.
    pub inbound: Inbound,
    /// What they are exchanged for.
    pub obo: OnBehalfOf,
}

/// Which user tokens a server takes.
#[derive(Clone, Debug)]
pub struct Inbound {
    /// The issuer identifier, exactly as tokens carry it.
    pub issuer: String,
    /// Where its keys are; discovered where absent.
    pub jwks_uri: Option<Url>,
    /// The audiences, of which a token must have one.
    pub audience: Vec<String>,
    /// The scopes, of which a token must have all.
    pub scopes: Vec<String>,
}

/// What a user's token is exchanged for.
#[derive(Clone, Debug)]
pub struct OnBehalfOf {
    /// The scopes.
    pub scopes: Vec<String>,
    /// RFC 8707 `resource`.
    pub resource: Vec<String>,
    /// RFC 8693 `audience`.
    pub audience: Vec<String>,
    /// The scope whose authorization request brings the consent screen that a 403 asks for.
    pub consent_scope: Option<String>,
}

impl GatewayConfig {
    /// Reads the gateway's part of the configuration; the exchanger reads its own options, of which `grant` is one.
    ///
    /// # Errors
    /// `misconfigured`, with the path of what is missing, wrong or unknown, the server's name in it.
    pub fn read(config: Value, grant: Option<&str>, parse_url: ParseUrl) -> Result<Self, Failure> {
        if grant::ALL.iter().any(|known| Some(known.name()) == grant && !known.takes_access_tokens()) {
            let problem = "cannot be that of a gateway, which holds neither ID tokens nor SAML assertions";
            return Err(Failure::misconfigured("exchanger.grant", problem));
        }
        Fields::read("", config, |fields| read_gateway(fields, parse_url))
    }

    /// The server of this name.
    pub fn server(&self, name: &str) -> Option<&Server> {
        self.servers().find(|(known, _)| *known == name).map(|(_, server)| server)
    }

    /// The servers with their names.
    pub fn servers(&self) -> impl Iterator<Item = (&str, &Server)> {
        self.servers.iter().map(|(name, server)| (name.as_str(), server))
    }

    /// The `resource` of a server: the URL that clients know it by (RFC 9728 section 2).
    pub fn resource(&self, name: &str) -> String {
        format!("{}/mcp/{name}", self.public_origin)
    }
}

fn read_gateway(fields: &mut Fields, parse_url: ParseUrl) -> Option<GatewayConfig> {
    let origin = fields.url("publicOrigin", parse_url);
    let origin = fields.required("publicOrigin", origin);
    if origin.as_ref().is_some_and(|origin| origin.components().path != "/" || origin.components().has_query) {
        fields.wrong("publicOrigin", "must be an origin, without a path");
    }
    let servers = match fields.take("servers") {
        Some(Value::Object(servers)) => servers,
        _ => Map::new(),
    };
    if servers.is_empty() {
        fields.wrong("servers", "must name at least one server");
    }
    let mut known = Vec::with_capacity(servers.len());
    for (name, value) in servers {
        let path = ["servers.", &name].concat();
        if !is_name(&name) {
            fields.wrong(&path, "must be a name of letters, digits, - and _, at most 64 of them");
        }
        let server = fields.nested(&path, value, |own| read_server(own, parse_url));
        known.extend(server.map(|server| (name, server)));
    }
    Some(GatewayConfig { public_origin: origin?.origin().to_owned(), servers: known })
}

/// Whether `name` can stand in a path as it is.
fn is_name(name: &str) -> bool {
    (1..=MAX_NAME_LENGTH).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

fn read_server(fields: &mut Fields, parse_url: ParseUrl) -> Option<Server> {
    let transport = fields.required_text("type");
    let obo = fields.object("obo", read_on_behalf_of);
    if HEADERLESS_TRANSPORTS.contains(&transport.as_str()) && obo.is_some() {
        let problem = ["cannot be used with ", &transport, ", which carries no request headers"].concat();
        fields.wrong("obo", &problem);
    }
    if transport != "streamable-http" {
        fields.wrong("type", "must be \"streamable-http\"");
    }
    let url = fields.url("url", parse_url);
    let url = fields.required("url", url);
    let inbound = fields.object("inbound", |own| read_inbound(own, parse_url));
    let inbound = fields.required("inbound", inbound);
    if obo.is_none() {
        fields.wrong("obo", "is required: without it nothing would reach the server");
    }
    Some(Server { url: url?, inbound: inbound?, obo: obo? })
}

fn read_inbound(fields: &mut Fields, parse_url: ParseUrl) -> Option<Inbound> {
    let issuer = fields.required_text("issuer");
    // Compared letter by letter with `iss`, so kept as it was written.
    if let Err(problem) = Url::new(&issuer, parse_url) {
        fields.wrong("issuer", problem);
    }
    let jwks_uri = fields.url("jwksUri", parse_url);
    let audience = required_texts(fields, "audience");
    let scopes = read_scopes(fields);
    Some(Inbound { issuer, jwks_uri, audience, scopes })
}

fn read_on_behalf_of(fields: &mut Fields) -> Option<OnBehalfOf> {
    let scopes = read_scopes(fields);
    let resource = fields.texts("resource");
    let audience = fields.texts("audience");
    let consent_scope = fields.text("consentScope");
    if consent_scope.as_deref().is_some_and(|scope| !is_scope(scope)) {
        fields.wrong("consentScope", "must be a scope token");
    }
    Some(OnBehalfOf { scopes, resource, audience, consent_scope })
}

fn required_texts(fields: &mut Fields, name: &str) -> Vec<String> {
    let texts = fields.texts(name);
    if texts.is_empty() {
        fields.wrong(name, "is required");
    }
    texts
}

fn read_scopes(fields: &mut Fields) -> Vec<String> {
    let scopes: Vec<String> = required_texts(fields, "scopes")
        .iter()
        .flat_map(|texts| texts.split(' '))
        .filter(|scope| !scope.is_empty())
        .map(str::to_owned)
        .collect();
    if scopes.is_empty() || !scopes.iter().all(|scope| is_scope(scope)) {
        fields.wrong("scopes", "must be scope tokens separated by spaces");
    }
    scopes
}

/// RFC 6749 section 3.3, scope-token.
fn is_scope(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\')
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::{Value, json};

    use super::GatewayConfig;
    use crate::url::tests::parse;

    pub(crate) fn config() -> Value {
        json!({
            "publicOrigin": "https://gw.example",
            "servers": { "files": {
                "type": "streamable-http",
                "url": "https://files.example/mcp",
                "inbound": { "issuer": "https://login.example", "audience": "api://gateway", "scopes": ["mcp.access"] },
                "obo": { "scopes": "api://files/read api://files/write" },
            } },
        })
    }

    pub(crate) fn read(config: Value) -> GatewayConfig {
        GatewayConfig::read(config, None, parse).unwrap()
    }

    fn problem(pointer: &str, value: Value) -> String {
        let mut config = config();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        config.pointer_mut(parent).unwrap()[name] = value;
        GatewayConfig::read(config, None, parse).unwrap_err().message.clone()
    }

    #[test]
    fn a_complete_configuration_is_read() {
        let config = read(config());
        let server = config.server("files").unwrap();
        assert_eq!(config.resource("files"), "https://gw.example/mcp/files");
        assert_eq!(server.inbound.issuer, "https://login.example");
        assert_eq!(server.obo.scopes, ["api://files/read", "api://files/write"]);
    }

    #[test]
    fn what_is_missing_or_wrong_is_named_with_its_server() {
        for (pointer, value, start) in [
            ("/publicOrigin", json!(null), "publicOrigin is required"),
            ("/publicOrigin", json!("https://gw.example/base"), "publicOrigin must be an origin"),
            ("/publicOrigin", json!("http://gw.example"), "publicOrigin must be https"),
            ("/servers", json!({}), "servers must name"),
            ("/server", json!({}), "server is not a known option"),
            ("/servers/a b", json!({}), "servers.a b must be a name"),
            ("/servers/..", json!({}), "servers... must be a name"),
            ("/servers/files", json!(1), "servers.files must be an object"),
            ("/servers/files/type", json!("stdio"), "servers.files.obo cannot be used with stdio"),
            ("/servers/files/type", json!("websocket"), "servers.files.obo cannot be used with websocket"),
            ("/servers/files/type", json!("gopher"), "servers.files.type must be"),
            ("/servers/files/url", json!("http://files.example"), "servers.files.url must be https"),
            ("/servers/files/inbound", json!(null), "servers.files.inbound is required"),
            ("/servers/files/inbound/issuer", json!("login"), "servers.files.inbound.issuer must be an absolute URL"),
            ("/servers/files/inbound/audience", json!([]), "servers.files.inbound.audience is required"),
            ("/servers/files/inbound/scopes", json!([]), "servers.files.inbound.scopes is required"),
            ("/servers/files/inbound/scopes", json!(["a\"b"]), "servers.files.inbound.scopes must be scope tokens"),
            ("/servers/files/inbound/jwksUri", json!("http://x.example"), "servers.files.inbound.jwksUri must be"),
            ("/servers/files/inbound/audiences", json!([]), "servers.files.inbound.audiences is not a known option"),
            ("/servers/files/obo", json!(null), "servers.files.obo is required"),
            ("/servers/files/obo/scopes", json!(" "), "servers.files.obo.scopes must be a non-empty string"),
            ("/servers/files/obo/scope", json!("x"), "servers.files.obo.scope is not a known option"),
            ("/servers/files/obo/consentScope", json!("a b"), "servers.files.obo.consentScope must be"),
        ] {
            let message = problem(pointer, value);
            assert!(message.starts_with(start), "{message:?} does not begin with {start:?}");
        }
    }

    #[test]
    fn a_grant_that_takes_no_access_tokens_is_none_for_a_gateway() {
        let problem = |grant| GatewayConfig::read(config(), grant, parse).err().map(|failure| failure.message.clone());
        let message = problem(Some("identity-assertion")).unwrap();
        assert!(message.starts_with("exchanger.grant cannot be that of a gateway"), "{message}");
        for grant in [None, Some("on-behalf-of"), Some("token-exchange"), Some("jwt-bearer"), Some("unknown")] {
            assert_eq!(problem(grant), None, "the exchanger says what is wrong with {grant:?}");
        }
    }
}
