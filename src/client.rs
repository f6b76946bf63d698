//! Client authentication at the token endpoint (RFC 6749 section 2.3), and the form that carries it.

use base64ct::{Base64UrlUnpadded, Encoding};
use form_urlencoded::byte_serialize;

use crate::certificate::Certificate;
use crate::json;
use crate::metadata::Metadata;
use crate::pem;
use crate::secret::Secret;
use crate::time::Timestamp;

/// RFC 7523 section 2.2.
const CLIENT_ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// How long a client assertion is good for that is used once, in milliseconds: servers take a minute or two.
const SINGLE_USE_LIFE_MS: u64 = 60 * 1000;
/// How long one is good for that is used again, in milliseconds: Entra takes 5 to 10 minutes.
const REUSED_LIFE_MS: u64 = 10 * 60 * 1000;
/// How long before its end a client assertion is used no more, in milliseconds.
const CLIENT_ASSERTION_SKEW_MS: u64 = 60 * 1000;
/// The longest client assertion, in bytes.
const MAX_CLIENT_ASSERTION_BYTES: usize = 16 * 1024;

/// How the client proves who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientAuthentication {
    /// `client_id` and `client_secret` in the body (RFC 6749 section 2.3.1).
    ClientSecretPost(Secret),
    /// Both in an `Authorization: Basic` header (RFC 6749 section 2.3.1).
    ClientSecretBasic(Secret),
    /// A JWT that the host signs with the client's key (OpenID Connect Core section 9, RFC 7523 section 2.2).
    PrivateKeyJwt(SigningKey),
    /// A JWT that the operator's callback gives: workload identity federation (RFC 7523 section 2.2).
    ClientAssertion,
    /// The client's certificate, by the operator's `fetch` (RFC 8705 section 2).
    TlsClientAuth,
    /// A public client: its id and no proof.
    None,
}

/// What names the key that the host holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigningKey {
    /// The algorithm (RFC 7518 section 3.1).
    pub algorithm: SigningAlgorithm,
    /// `kid`.
    pub key_id: Option<String>,
    /// Gives `x5t#S256`, and bounds when the key may be used.
    pub certificate: Option<Certificate>,
}

/// How a client assertion is signed (RFC 7518 section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the algorithm of its name")]
pub enum SigningAlgorithm {
    Rs256,
    Ps256,
    Es256,
}

impl SigningAlgorithm {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Rs256, Self::Ps256, Self::Es256];

    /// The name of the RFC.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Ps256 => "PS256",
            Self::Es256 => "ES256",
        }
    }
}

/// A JWT to be signed: its header and its claims, JSON.
#[derive(Debug, PartialEq, Eq)]
pub struct UnsignedJwt {
    /// The JOSE header.
    pub header: String,
    /// The claims.
    pub claims: String,
}

impl SigningKey {
    /// A client assertion for `audience` (RFC 7523 section 3), with a `jti` that nobody had before, to be used once
    /// or again.
    pub(crate) fn client_assertion(
        &self,
        client_id: &str,
        audience: &str,
        jti: [u8; 16],
        is_reused: bool,
        now: Timestamp,
    ) -> UnsignedJwt {
        let mut header = ["{\"alg\":\"", self.algorithm.as_str(), "\",\"typ\":\"JWT\""].concat();
        let thumbprint = self.certificate.as_ref().map(|certificate| certificate.thumbprint.as_str());
        for (name, value) in [("kid", self.key_id.as_deref()), ("x5t#S256", thumbprint)] {
            if let Some(value) = value {
                header.push_str(&[",\"", name, "\":", &json::quote(value)].concat());
            }
        }
        header.push('}');
        let (client_id, audience) = (json::quote(client_id), json::quote(audience));
        let jti = Base64UrlUnpadded::encode_string(&jti);
        let seconds = now.as_millis() / 1000;
        let life_ms = if is_reused { REUSED_LIFE_MS } else { SINGLE_USE_LIFE_MS };
        let expiry = now.plus(life_ms).as_millis() / 1000;
        let claims = format!(
            "{{\"iss\":{client_id},\"sub\":{client_id},\"aud\":{audience},\"jti\":\"{jti}\",\
             \"nbf\":{seconds},\"iat\":{seconds},\"exp\":{expiry}}}"
        );
        UnsignedJwt { header, claims }
    }
}

/// A client assertion that further token requests carry too, until shortly before it expires.
#[derive(Debug)]
pub(crate) struct KeptClientAssertion {
    audience: String,
    pub(crate) text: Secret,
    made_at: Timestamp,
}

impl KeptClientAssertion {
    /// One that was made for `audience` just now.
    pub(crate) fn new(audience: String, text: Secret, made_at: Timestamp) -> Self {
        Self { audience, text, made_at }
    }

    /// Whether it serves for this audience now.
    pub(crate) fn is_good_for(&self, audience: &str, now: Timestamp) -> bool {
        let life_ms = REUSED_LIFE_MS.saturating_sub(CLIENT_ASSERTION_SKEW_MS);
        // A clock that went back behind its `nbf` makes it one of the future.
        self.audience == audience && self.made_at <= now && now < self.made_at.plus(life_ms)
    }
}

impl ClientAuthentication {
    /// The method's name in the options and in the registry of RFC 7591 section 4.2.
    pub const fn method(&self) -> &'static str {
        match self {
            Self::ClientSecretPost(_) => "client_secret_post",
            Self::ClientSecretBasic(_) => "client_secret_basic",
            Self::PrivateKeyJwt(_) => "private_key_jwt",
            Self::ClientAssertion => "client_assertion",
            Self::TlsClientAuth => "tls_client_auth",
            Self::None => "none",
        }
    }

    /// The option that a server's metadata speaks against, and the end of a sentence about it.
    pub(crate) fn refused_by(&self, metadata: &Metadata) -> Option<(&'static str, &'static str)> {
        let lists = |list: &Option<Vec<String>>, names: &[&str]| {
            list.as_ref().is_none_or(|list| list.iter().any(|listed| names.contains(&listed.as_str())))
        };
        let names: &[&str] = match self {
            // A federated JWT takes the place of one that the client signs itself.
            Self::ClientAssertion => &["private_key_jwt", "client_secret_jwt"],
            Self::TlsClientAuth => &["tls_client_auth", "self_signed_tls_client_auth"],
            other => &[other.method()],
        };
        if !lists(&metadata.authentication_methods, names) {
            let problem = "is not one that the server's token_endpoint_auth_methods_supported lists";
            return Some(("clientAuthentication.method", problem));
        }
        match self {
            Self::PrivateKeyJwt(key) if !lists(&metadata.signing_algorithms, &[key.algorithm.as_str()]) => {
                let problem = "is not one that the server's token_endpoint_auth_signing_alg_values_supported lists";
                Some(("clientAuthentication.algorithm", problem))
            }
            _ => None,
        }
    }

    /// Adds the client's parameters to `form`; returns the value of the `Authorization` header, if there is one.
    pub(crate) fn apply(&self, client_id: &str, client_assertion: Option<&Secret>, form: &mut Form) -> Option<Secret> {
        if let Self::ClientSecretBasic(secret) = self {
            // Form-urlencoded each before they are joined, or an id with a colon names another client.
            let mut credentials: String = byte_serialize(client_id.as_bytes()).collect();
            credentials.push(':');
            credentials.extend(byte_serialize(secret.reveal().as_bytes()));
            return Some(Secret::new(["Basic ", &pem::encode_base64(credentials.as_bytes())].concat()));
        }
        form.add("client_id", client_id);
        if let Self::ClientSecretPost(secret) = self {
            form.add("client_secret", secret.reveal());
        }
        if let Some(assertion) = client_assertion {
            form.add("client_assertion_type", CLIENT_ASSERTION_TYPE);
            form.add("client_assertion", assertion.reveal());
        }
        None
    }
}

/// Whether a text can be a client assertion: a JWT in compact serialisation.
pub(crate) fn is_client_assertion(text: &str) -> bool {
    let of_its_letters = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    of_its_letters
        && text.len() <= MAX_CLIENT_ASSERTION_BYTES
        && text.split('.').filter(|part| !part.is_empty()).count() == 3
}

/// An `application/x-www-form-urlencoded` body.
#[derive(Default)]
pub struct Form(String);

impl Form {
    /// Adds a parameter; a name may stand several times.
    pub fn add(&mut self, name: &str, value: &str) {
        if !self.0.is_empty() {
            self.0.push('&');
        }
        self.0.extend(byte_serialize(name.as_bytes()));
        self.0.push('=');
        self.0.extend(byte_serialize(value.as_bytes()));
    }

    /// The body.
    pub fn into_body(self) -> Secret {
        Secret::new(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificate::tests::PEM;

    #[test]
    fn client_secret_post_puts_id_and_secret_into_the_body() {
        let mut form = Form::default();
        let authentication = ClientAuthentication::ClientSecretPost(Secret::new("s&c=r+t /\u{e4}"));
        assert_eq!(authentication.apply("client", None, &mut form), None);
        assert_eq!(form.into_body().reveal(), "client_id=client&client_secret=s%26c%3Dr%2Bt+%2F%C3%A4");
    }

    #[test]
    fn client_secret_basic_encodes_id_and_secret_before_it_joins_them() {
        let mut form = Form::default();
        let authentication = ClientAuthentication::ClientSecretBasic(Secret::new("a b%c"));
        let header = authentication.apply("id:with colon", None, &mut form).unwrap();
        // base64("id%3Awith+colon:a+b%25c")
        assert_eq!(header.reveal(), "Basic aWQlM0F3aXRoK2NvbG9uOmErYiUyNWM=");
        assert_eq!(form.into_body().reveal(), "");
    }

    #[test]
    fn the_example_of_rfc_6749_section_2_3_1_comes_out_as_it_is_printed_there() {
        let authentication = ClientAuthentication::ClientSecretBasic(Secret::new("7Fjfp0ZBr1KtDRbnfVdmIw"));
        let header = authentication.apply("s6BhdRkqt3", None, &mut Form::default()).unwrap();
        assert_eq!(header.reveal(), "Basic czZCaGRSa3F0Mzo3RmpmcDBaQnIxS3REUmJuZlZkbUl3");
    }

    #[test]
    fn a_public_client_sends_its_id_alone() {
        for authentication in [ClientAuthentication::None, ClientAuthentication::TlsClientAuth] {
            let mut form = Form::default();
            assert_eq!(authentication.apply("client", None, &mut form), None);
            assert_eq!(form.into_body().reveal(), "client_id=client");
        }
    }

    #[test]
    fn a_client_assertion_names_its_key_and_all_that_rfc_7523_asks_for() {
        let key = SigningKey {
            algorithm: SigningAlgorithm::Ps256,
            key_id: Some("key\"1".to_owned()),
            certificate: Certificate::from_pem(PEM),
        };
        let jwt =
            key.client_assertion("client", "https://login.example", [255; 16], true, Timestamp::from_millis(1_000_999));
        let once =
            key.client_assertion("client", "https://login.example", [0; 16], false, Timestamp::from_millis(1_000_999));
        assert!(once.claims.ends_with(r#""nbf":1000,"iat":1000,"exp":1060}"#), "{}", once.claims);
        assert_eq!(
            jwt.header,
            r#"{"alg":"PS256","typ":"JWT","kid":"key\"1","x5t#S256":"T-jEJOIOuzxNB1BEcznNkK1BA5IjjhMjShnbCfcth6Y"}"#
        );
        assert_eq!(
            jwt.claims,
            r#"{"iss":"client","sub":"client","aud":"https://login.example","jti":"_____________________w","nbf":1000,"iat":1000,"exp":1600}"#
        );
    }

    #[test]
    fn only_a_jwt_is_a_client_assertion() {
        assert!(is_client_assertion("e30.e30.c2ln-_"));
        for wrong in ["", "e30", "e30.e30", "e30.e30.", "a.b.c.d", "a.b.c d", "a.b.c&x=y", "a.b.\u{e4}"] {
            assert!(!is_client_assertion(wrong), "{wrong}");
        }
        assert!(!is_client_assertion(&format!("a.b.{}", "c".repeat(MAX_CLIENT_ASSERTION_BYTES))));
    }
}
