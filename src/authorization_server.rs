//! An authorization server, and what this client is there: the options of one side of an exchange.

use serde_json::{Map, Value};

use crate::certificate::Certificate;
use crate::client::{ClientAuthentication, SigningAlgorithm, SigningKey};
use crate::failure::Failure;
use crate::fields::{Fields, one_of};
use crate::json;
use crate::pem;
use crate::secret::Secret;
use crate::url::{ParseUrl, Url};

/// The methods of client authentication.
const METHODS: [&str; 6] =
    ["client_secret_post", "client_secret_basic", "private_key_jwt", "client_assertion", "tls_client_auth", "none"];
/// `rsaEncryption` (RFC 8017 appendix C), and `id-ecPublicKey` with P-256 (RFC 5480 section 2.1.1), as a PKCS #8
/// key names its algorithm in DER.
const RSA: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const EC_P256: &[u8] =
    &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
/// How far into a PKCS #8 key its algorithm stands.
const PKCS8_HEAD_BYTES: usize = 40;

/// An authorization server, and this client at it.
#[derive(Clone, Debug)]
pub struct AuthorizationServer {
    /// Where the options stand: empty, or `resourceAuthorizationServer`.
    path: String,
    /// The issuer identifier, exactly as metadata must have it, and as it is fetched.
    pub issuer: Option<(String, Url)>,
    /// Where tokens are made; discovered from the issuer where absent.
    pub token_endpoint: Option<Url>,
    /// This client's id.
    pub client_id: String,
    /// How this client proves who it is.
    pub client_authentication: ClientAuthentication,
}

impl AuthorizationServer {
    /// Takes the options of an authorization server out of `fields`.
    #[inline(never)]
    pub(crate) fn read(fields: &mut Fields, has_fetch: bool, parse_url: ParseUrl) -> Option<Self> {
        let issuer = fields.text("issuer").and_then(|text| match Url::new(&text, parse_url) {
            Ok(url) => Some((text, url)),
            Err(problem) => {
                fields.wrong("issuer", problem);
                None
            }
        });
        // RFC 8414 section 2.
        if issuer.as_ref().is_some_and(|(_, url)| url.components().has_query) {
            fields.wrong("issuer", "must not have a query");
        }
        let token_endpoint = fields.url("tokenEndpoint", parse_url);
        if issuer.is_none() && token_endpoint.is_none() {
            fields.wrong("tokenEndpoint", "or issuer is required");
        }
        let client_id = fields.required_text("clientId");
        let read = |own: &mut Fields| read_client_authentication(own, has_fetch);
        let client_authentication = fields.object("clientAuthentication", read);
        let client_authentication = fields.required("clientAuthentication", client_authentication)?;
        Some(Self { path: fields.path(""), issuer, token_endpoint, client_id, client_authentication })
    }

    /// The path of the option `name`.
    pub(crate) fn path(&self, name: &str) -> String {
        [self.path.as_str(), name].concat()
    }

    /// A failure about the option `name`.
    pub(crate) fn problem(&self, name: &str, problem: &str) -> Failure {
        Failure::misconfigured(&self.path(name), problem)
    }

    /// The issuer identifier, where there is one.
    pub(crate) fn issuer_name(&self) -> Option<&str> {
        self.issuer.as_ref().map(|(name, _)| name.as_str())
    }
}

fn read_client_authentication(fields: &mut Fields, has_fetch: bool) -> Option<ClientAuthentication> {
    let method = fields.required_text("method");
    let mut secret = || Secret::new(fields.required_text("clientSecret"));
    Some(match method.as_str() {
        "client_secret_post" => ClientAuthentication::ClientSecretPost(secret()),
        "client_secret_basic" => ClientAuthentication::ClientSecretBasic(secret()),
        "private_key_jwt" => ClientAuthentication::PrivateKeyJwt(read_signing_key(fields)?),
        "client_assertion" => {
            // The host says `true` where it has a function, and `false` where it has anything else.
            let given = fields.take("clientAssertion");
            if fields.required("clientAssertion", given)? != Value::Bool(true) {
                fields.wrong("clientAssertion", "must be a function");
            }
            ClientAuthentication::ClientAssertion
        }
        "tls_client_auth" => {
            if !has_fetch {
                let problem = "tls_client_auth needs the option fetch: it is what has the client's certificate";
                fields.wrong("method", problem);
            }
            ClientAuthentication::TlsClientAuth
        }
        "none" => ClientAuthentication::None,
        _ => {
            fields.wrong("method", &one_of(METHODS));
            return None;
        }
    })
}

fn read_signing_key(fields: &mut Fields) -> Option<SigningKey> {
    let algorithm = fields.required_text("algorithm");
    let algorithm = SigningAlgorithm::ALL.into_iter().find(|known| known.as_str() == algorithm);
    let Some(algorithm) = algorithm else {
        fields.wrong("algorithm", &one_of(SigningAlgorithm::ALL.map(SigningAlgorithm::as_str)));
        return None;
    };
    let problem = match fields.take("key") {
        None => Some("is required"),
        Some(Value::String(text)) => problem_of_pem(&text, algorithm),
        Some(Value::Object(jwk)) => problem_of_jwk(&jwk, algorithm),
        // The host holds a CryptoKey.
        Some(Value::Bool(true)) => None,
        Some(_) => Some("must be a PKCS #8 PEM, a JWK or a CryptoKey"),
    };
    if let Some(problem) = problem {
        fields.wrong("key", problem);
    }
    let certificate = fields.text("certificate").and_then(|text| {
        let certificate = Certificate::from_pem(&text);
        if certificate.is_none() {
            fields.wrong("certificate", "must be a certificate in PEM");
        }
        certificate
    });
    Some(SigningKey { algorithm, key_id: fields.text("kid"), certificate })
}

/// What is wrong with a key in PEM (RFC 7468 section 10): an unencrypted PKCS #8 key of the algorithm's kind.
fn problem_of_pem(text: &str, algorithm: SigningAlgorithm) -> Option<&'static str> {
    if pem::place(text, "ENCRYPTED").is_some() {
        return Some("is encrypted: decrypt it first (openssl pkcs8 -in key.pem -out decrypted.pem)");
    }
    let Some(der) = pem::decode(text, "PRIVATE KEY") else {
        return Some(
            "must be a PKCS #8 PEM, which begins with -----BEGIN PRIVATE KEY----- (openssl pkcs8 -topk8 -nocrypt)",
        );
    };
    let head = der.get(..PKCS8_HEAD_BYTES).unwrap_or(&der);
    let (wanted, problem) = match algorithm {
        SigningAlgorithm::Es256 => (EC_P256, NO_P256_KEY),
        SigningAlgorithm::Rs256 | SigningAlgorithm::Ps256 => (RSA, NO_RSA_KEY),
    };
    let is_of_its_kind = head.windows(wanted.len()).any(|window| window == wanted);
    (!is_of_its_kind).then_some(problem)
}

/// What is wrong with a key as a JWK (RFC 7518 section 6).
fn problem_of_jwk(jwk: &Map<String, Value>, algorithm: SigningAlgorithm) -> Option<&'static str> {
    let (kind, curve, problem) = match algorithm {
        SigningAlgorithm::Es256 => ("EC", Some("P-256"), NO_P256_KEY),
        SigningAlgorithm::Rs256 | SigningAlgorithm::Ps256 => ("RSA", None, NO_RSA_KEY),
    };
    if json::text(jwk, "kty") != Some(kind) || (curve.is_some() && json::text(jwk, "crv") != curve) {
        return Some(problem);
    }
    // RFC 7517 section 4.2.
    if json::text(jwk, "use").is_some_and(|purpose| purpose != "sig") {
        return Some("is not for signing, by its member use");
    }
    json::text(jwk, "d").is_none().then_some("is a public key: the private one signs")
}

const NO_RSA_KEY: &str = "is no RSA key, which algorithm RS256 or PS256 needs";
const NO_P256_KEY: &str = "is no EC key on P-256, which algorithm ES256 needs";
