//! One caller's request, checked.

use crate::failure::Failure;
use crate::json;
use crate::secret::Secret;

/// The longest assertion, in bytes. Headers of this size pass no server, SAML assertions stay below.
pub const MAX_ASSERTION_BYTES: usize = 64 * 1024;
/// The longest of the other fields, in bytes.
pub const MAX_FIELD_BYTES: usize = 4096;
/// The most elements that a list may have.
pub const MAX_LIST_LENGTH: usize = 64;

/// What is to be exchanged, and for what.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The user's access token, exactly as it came.
    pub assertion: Secret,
    /// RFC 8693 `subject_token_type`; absent means what the grant takes first.
    pub assertion_type: Option<String>,
    /// RFC 8693 `actor_token`.
    pub actor_token: Option<Secret>,
    /// RFC 8693 `actor_token_type`.
    pub actor_token_type: Option<String>,
    /// The scopes, sorted, each once.
    pub scopes: Vec<String>,
    /// Who the assertion was verified to be of, where renewed assertions of one user may share a token.
    pub subject: Option<VerifiedSubject>,
    /// RFC 8707 `resource`.
    pub resource: Vec<String>,
    /// RFC 8693 `audience`.
    pub audience: Vec<String>,
    /// The claims request of a claims challenge, JSON.
    pub claims: Option<String>,
    /// Whether a token that was made before may be the answer.
    pub from_cache: bool,
}

/// Who an assertion is of, from its verified claims.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifiedSubject {
    /// The issuer that vouches for `id`.
    pub issuer: String,
    /// The tenant, where the issuer has several.
    pub tenant: Option<String>,
    /// The subject, unique at the issuer and tenant.
    pub id: String,
    /// What makes two sessions of one user unlike: client, session, scopes, authentication context.
    pub context: Option<String>,
}

/// The fields of a request, as a face hands them over. The order is the face's numbering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs, reason = "each is the field of the contract with the same name")]
pub enum RequestField {
    Assertion,
    AssertionType,
    ActorToken,
    ActorTokenType,
    Scopes,
    Resource,
    Audience,
    Claims,
    SubjectIssuer,
    SubjectTenant,
    SubjectId,
    SubjectContext,
}

impl RequestField {
    /// All fields, each at the place that is its number, with its name in the contract.
    pub const ALL: [(Self, &'static str); 12] = [
        (Self::Assertion, "assertion"),
        (Self::AssertionType, "assertionType"),
        (Self::ActorToken, "actorToken"),
        (Self::ActorTokenType, "actorTokenType"),
        (Self::Scopes, "scopes"),
        (Self::Resource, "resource"),
        (Self::Audience, "audience"),
        (Self::Claims, "claims"),
        (Self::SubjectIssuer, "subject.issuer"),
        (Self::SubjectTenant, "subject.tenant"),
        (Self::SubjectId, "subject.id"),
        (Self::SubjectContext, "subject.context"),
    ];

    /// The field with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).map(|(field, _)| *field)
    }

    /// Its name in the contract.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(field, _)| *field == self).map_or("", |(_, name)| name)
    }
}

impl Request {
    /// A request without any field, that may be answered from a cache.
    pub fn new() -> Self {
        Self { from_cache: true, ..Self::default() }
    }

    /// Sets a field, or adds an element to the field that is a list (`scopes` takes several at once,
    /// separated by spaces).
    ///
    /// # Errors
    /// `invalid_request` with the field's name.
    pub fn set(&mut self, field: RequestField, value: &str) -> Result<(), Failure> {
        let invalid = |problem| Err(Failure::invalid_request(field.name(), problem));
        let is_token = matches!(field, RequestField::Assertion | RequestField::ActorToken);
        if value.is_empty() {
            return invalid("must not be empty");
        }
        if value.len() > if is_token { MAX_ASSERTION_BYTES } else { MAX_FIELD_BYTES } {
            return invalid("is too long");
        }
        // A token is made of visible characters (RFC 6750 section 2.1). Elsewhere U+FFFD is what an encoder
        // makes of every unpaired surrogate, so that two unlike strings would become one.
        if is_token {
            if !value.bytes().all(|byte| byte.is_ascii_graphic()) {
                return invalid("must be visible ASCII characters without spaces");
            }
        } else if value.chars().any(|character| character.is_control() || character == '\u{fffd}') {
            return invalid("must be well-formed text without control characters");
        }
        match field {
            RequestField::Assertion => self.assertion = Secret::new(value),
            RequestField::AssertionType => self.assertion_type = Some(value.to_owned()),
            RequestField::ActorToken => self.actor_token = Some(Secret::new(value)),
            RequestField::ActorTokenType => self.actor_token_type = Some(value.to_owned()),
            RequestField::Scopes => self.add_scopes(value)?,
            RequestField::Resource => add(&mut self.resource, field, value)?,
            RequestField::Audience => add(&mut self.audience, field, value)?,
            RequestField::Claims if is_claims(value) => self.claims = Some(value.to_owned()),
            RequestField::Claims => return invalid("must be a JSON object"),
            RequestField::SubjectIssuer => value.clone_into(&mut self.subject().issuer),
            RequestField::SubjectTenant => self.subject().tenant = Some(value.to_owned()),
            RequestField::SubjectId => value.clone_into(&mut self.subject().id),
            RequestField::SubjectContext => self.subject().context = Some(value.to_owned()),
        }
        Ok(())
    }

    /// The scopes as one text (RFC 6749 section 3.3).
    pub fn scope(&self) -> String {
        let scopes: Vec<&str> = self.scopes.iter().map(String::as_str).collect();
        scopes.join(" ")
    }

    /// The fields that are there, in the order of their numbers, a list's one by one; without `subject`.
    pub fn fields(&self) -> impl Iterator<Item = (RequestField, &str)> {
        let texts = [
            (RequestField::Assertion, Some(self.assertion.reveal())),
            (RequestField::AssertionType, self.assertion_type.as_deref()),
            (RequestField::ActorToken, self.actor_token.as_ref().map(Secret::reveal)),
            (RequestField::ActorTokenType, self.actor_token_type.as_deref()),
            (RequestField::Claims, self.claims.as_deref()),
        ];
        let lists = [
            (RequestField::Scopes, &self.scopes),
            (RequestField::Resource, &self.resource),
            (RequestField::Audience, &self.audience),
        ];
        let lists = lists.into_iter().flat_map(|(field, list)| list.iter().map(move |text| (field, text.as_str())));
        texts.into_iter().filter_map(|(field, text)| Some((field, text?))).chain(lists)
    }

    fn subject(&mut self) -> &mut VerifiedSubject {
        self.subject.get_or_insert_with(VerifiedSubject::default)
    }

    fn add_scopes(&mut self, value: &str) -> Result<(), Failure> {
        for scope in value.split(' ').filter(|scope| !scope.is_empty()) {
            // RFC 6749 section 3.3, scope-token.
            if !scope.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\') {
                return Err(Failure::invalid_request("scopes", "must be scope tokens separated by spaces"));
            }
            if let Err(place) = self.scopes.binary_search_by(|known| known.as_str().cmp(scope)) {
                self.scopes.insert(place, scope.to_owned());
            }
        }
        if self.scopes.len() > MAX_LIST_LENGTH {
            return Err(Failure::invalid_request("scopes", "has too many elements"));
        }
        Ok(())
    }

    /// Whether all that every grant needs is there.
    ///
    /// # Errors
    /// `invalid_request` with the missing field's name.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        let missing = [
            ("assertion", self.assertion.is_empty()),
            ("subject.issuer", self.subject.as_ref().is_some_and(|subject| subject.issuer.is_empty())),
            ("subject.id", self.subject.as_ref().is_some_and(|subject| subject.id.is_empty())),
        ];
        match missing.into_iter().find(|(_, missing)| *missing) {
            Some((field, _)) => Err(Failure::invalid_request(field, "is required")),
            None => Ok(()),
        }
    }
}

fn add(list: &mut Vec<String>, field: RequestField, value: &str) -> Result<(), Failure> {
    if list.len() >= MAX_LIST_LENGTH {
        return Err(Failure::invalid_request(field.name(), "has too many elements"));
    }
    // The order says nothing (RFC 8707 section 2), so one order serves one key.
    if let Err(place) = list.binary_search_by(|known| known.as_str().cmp(value)) {
        list.insert(place, value.to_owned());
    }
    Ok(())
}

/// A claims request (OpenID Connect Core section 5.5): a JSON object of a size that fits a header.
pub(crate) fn is_claims(text: &str) -> bool {
    text.len() <= 4096 && json::object(text.as_bytes()).is_some()
}

#[cfg(test)]
mod tests {
    use super::{MAX_ASSERTION_BYTES, Request, RequestField};

    fn problem(field: RequestField, value: &str) -> Option<String> {
        Request::new().set(field, value).err().map(|failure| failure.message.clone())
    }

    #[test]
    fn each_field_stands_at_the_place_of_its_number() {
        for (number, (field, name)) in RequestField::ALL.into_iter().enumerate() {
            assert_eq!(field as usize, number);
            assert_eq!(RequestField::from_number(number as u8), Some(field));
            assert_eq!(field.name(), name);
        }
        assert_eq!(RequestField::from_number(12), None);
    }

    #[test]
    fn scopes_are_sorted_and_each_is_kept_once() {
        let mut request = Request::new();
        request.set(RequestField::Scopes, "b a  b").unwrap();
        request.set(RequestField::Scopes, "c a").unwrap();
        assert_eq!(request.scopes, ["a", "b", "c"]);
    }

    #[test]
    fn wrong_values_are_named_by_their_field() {
        assert_eq!(problem(RequestField::Assertion, "").unwrap(), "assertion must not be empty");
        assert!(problem(RequestField::Assertion, "a b").unwrap().starts_with("assertion must be visible ASCII"));
        assert!(problem(RequestField::Assertion, "a\u{fffd}").is_some());
        assert!(problem(RequestField::Assertion, &"a".repeat(MAX_ASSERTION_BYTES)).is_none());
        assert!(problem(RequestField::Assertion, &"a".repeat(MAX_ASSERTION_BYTES + 1)).is_some());
        assert!(problem(RequestField::Scopes, "a\"b").unwrap().starts_with("scopes must be scope tokens"));
        assert!(problem(RequestField::Scopes, "a\tb").unwrap().starts_with("scopes "));
        assert_eq!(problem(RequestField::Claims, "[]").unwrap(), "claims must be a JSON object");
        assert!(problem(RequestField::Claims, "{\"a\":1}").is_none());
        assert!(problem(RequestField::SubjectId, "a\u{fffd}").is_some());
        assert!(problem(RequestField::SubjectId, "J\u{fc}rgen").is_none());
    }

    #[test]
    fn a_request_set_from_the_fields_of_another_is_like_it() {
        let mut request = Request::new();
        for (number, (field, name)) in RequestField::ALL.into_iter().enumerate().take(8) {
            let value = if name == "claims" { "{}".to_owned() } else { format!("value{number}") };
            request.set(field, &value).unwrap();
            let _ = request.set(field, &value.replace("value", "another"));
        }
        let mut copy = Request::new();
        for (field, value) in request.fields() {
            copy.set(field, value).unwrap();
        }
        assert_eq!(format!("{:?}", copy), format!("{request:?}"));
        assert_eq!(copy.assertion, request.assertion);
        assert_eq!(copy.actor_token, request.actor_token);
        assert_eq!(request.fields().count(), 11, "five texts, three lists of two");
    }

    #[test]
    fn what_is_missing_is_named() {
        let mut request = Request::new();
        assert_eq!(request.check().unwrap_err().field.as_deref(), Some("assertion"));
        request.set(RequestField::Assertion, "a").unwrap();
        assert!(request.check().is_ok());
        request.set(RequestField::SubjectContext, "c").unwrap();
        assert_eq!(request.check().unwrap_err().field.as_deref(), Some("subject.issuer"));
        request.set(RequestField::SubjectIssuer, "https://issuer.example").unwrap();
        assert_eq!(request.check().unwrap_err().field.as_deref(), Some("subject.id"));
    }
}
