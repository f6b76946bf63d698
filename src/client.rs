//! Client authentication at the token endpoint (RFC 6749 section 2.3), and the form that carries it.

use base64ct::{Base64, Encoding};
use form_urlencoded::byte_serialize;

use crate::secret::Secret;

/// How the client proves who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientAuthentication {
    /// `client_id` and `client_secret` in the body (RFC 6749 section 2.3.1).
    ClientSecretPost(Secret),
    /// Both in an `Authorization: Basic` header (RFC 6749 section 2.3.1).
    ClientSecretBasic(Secret),
}

impl ClientAuthentication {
    /// Adds the client's parameters to `form`; returns the value of the `Authorization` header, if there is one.
    pub(crate) fn apply(&self, client_id: &str, form: &mut Form) -> Option<Secret> {
        match self {
            Self::ClientSecretPost(secret) => {
                form.add("client_id", client_id);
                form.add("client_secret", secret.reveal());
                None
            }
            Self::ClientSecretBasic(secret) => {
                // Form-urlencoded each before they are joined, or an id with a colon names another client.
                let mut credentials: String = byte_serialize(client_id.as_bytes()).collect();
                credentials.push(':');
                credentials.extend(byte_serialize(secret.reveal().as_bytes()));
                Some(Secret::new(format!("Basic {}", Base64::encode_string(credentials.as_bytes()))))
            }
        }
    }
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
    use super::{ClientAuthentication, Form};
    use crate::secret::Secret;

    #[test]
    fn client_secret_post_puts_id_and_secret_into_the_body() {
        let mut form = Form::default();
        let header = ClientAuthentication::ClientSecretPost(Secret::new("s&c=r+t /\u{e4}")).apply("client", &mut form);
        assert_eq!(header, None);
        assert_eq!(form.into_body().reveal(), "client_id=client&client_secret=s%26c%3Dr%2Bt+%2F%C3%A4");
    }

    #[test]
    fn client_secret_basic_encodes_id_and_secret_before_it_joins_them() {
        let mut form = Form::default();
        let authentication = ClientAuthentication::ClientSecretBasic(Secret::new("a b%c"));
        let header = authentication.apply("id:with colon", &mut form).unwrap();
        // base64("id%3Awith+colon:a+b%25c")
        assert_eq!(header.reveal(), "Basic aWQlM0F3aXRoK2NvbG9uOmErYiUyNWM=");
        assert_eq!(form.into_body().reveal(), "");
    }

    #[test]
    fn the_example_of_rfc_6749_section_2_3_1_comes_out_as_it_is_printed_there() {
        let authentication = ClientAuthentication::ClientSecretBasic(Secret::new("7Fjfp0ZBr1KtDRbnfVdmIw"));
        let header = authentication.apply("s6BhdRkqt3", &mut Form::default()).unwrap();
        assert_eq!(header.reveal(), "Basic czZCaGRSa3F0Mzo3RmpmcDBaQnIxS3REUmJuZlZkbUl3");
    }
}
