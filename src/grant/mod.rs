//! Which grant is used: what goes out, what its response must have, and which of its errors mean what.
//!
//! One grant, one file: a new one is a file and its line in [`ALL`].

mod identity_assertion;
mod jwt_bearer;
mod on_behalf_of;
mod token_exchange;

use core::fmt::Debug;

use crate::assertion::AssertionFacts;
use crate::client::Form;
use crate::failure::{Failure, Verdict};
use crate::request::{Request, RequestField};
use crate::secret::Secret;
use crate::url::Url;

/// The grants that the options may name; the first is the default.
pub const ALL: [&dyn Grant; 4] = [
    &on_behalf_of::OnBehalfOf,
    &token_exchange::TokenExchange,
    &jwt_bearer::JwtBearer,
    &identity_assertion::IdentityAssertion,
];

/// RFC 8693 section 3: an OAuth 2.0 access token.
pub(crate) const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
/// RFC 8693 section 3: an ID token.
pub(crate) const ID_TOKEN: &str = "urn:ietf:params:oauth:token-type:id_token";

/// A way to obtain a token for a downstream resource with a user's token.
pub trait Grant: Debug {
    /// The name in the options.
    fn name(&self) -> &'static str;

    /// The request fields that it has parameters for, beside `assertion` and `scopes`.
    fn takes(&self) -> &'static [RequestField];

    /// What else is missing or wrong in a request.
    ///
    /// # Errors
    /// `invalid_request` with the field.
    fn check(&self, _request: &Request) -> Result<(), Failure> {
        Ok(())
    }

    /// Whether a server, by its issuer or its token endpoint, can be asked at all; if not, what is wrong with it.
    ///
    /// # Errors
    /// The end of a sentence that begins with the name of the option.
    fn check_server(&self, _url: &Url) -> Result<(), &'static str> {
        Ok(())
    }

    /// Its token requests in turn: each presents what the one before gave.
    fn legs(&self) -> &'static [&'static dyn Leg];

    /// Whether it needs clients that authenticate.
    fn is_for_confidential_clients_only(&self) -> bool {
        false
    }

    /// Whether it exchanges access tokens, which is what a gateway holds.
    fn takes_access_tokens(&self) -> bool {
        true
    }

    /// Whether a client assertion (RFC 7523 section 2.2) is made for the token endpoint and used until its end;
    /// else it is made for the issuer and used once.
    fn reuses_client_assertions(&self) -> bool {
        false
    }

    /// What an identity provider would refuse the assertion for in any case, apart from its times.
    fn objection(&self, _request: &Request, _assertion: &AssertionFacts) -> Option<&'static str> {
        None
    }
}

/// One token request of a grant.
pub trait Leg {
    /// The form's parameters, without the client's.
    fn parameters(&self, presented: &Presented<'_>) -> Form;

    /// The `issued_token_type`s that the response must have one of (RFC 8693 section 2.2.1); none where it need
    /// not have any.
    fn issued_token_types(&self) -> &'static [&'static str] {
        &[]
    }

    /// The `token_type` that the response must have.
    fn token_type(&self) -> &'static str {
        "Bearer"
    }

    /// The `typ` of the issued JWT (RFC 7515 section 4.1.9), where it matters.
    fn jwt_type(&self) -> Option<&'static str> {
        None
    }

    /// Whether `invalid_request` and `invalid_token` speak of the user's token (RFC 8693 section 2.2.2).
    fn blames_the_subject_token(&self) -> bool {
        false
    }

    /// Whether one of the provider's codes says that it throttles, whatever else the response says.
    fn is_throttled(&self, _codes: &[u32]) -> bool {
        false
    }

    /// Whether these codes, where they say that it throttles, speak of this user and not of the client.
    fn throttles_the_user_alone(&self, _codes: &[u32]) -> bool {
        false
    }

    /// What the provider's suberror and codes say, before the standards' `error` is asked.
    fn refine(&self, _codes: &[u32], _suberror: Option<&str>) -> Option<Verdict> {
        None
    }

    /// Whether one of the codes of an `invalid_client` says that a fresh client assertion may do.
    fn wants_a_fresh_client_assertion(&self, _codes: &[u32]) -> bool {
        false
    }
}

/// What a leg is made of.
pub struct Presented<'a> {
    /// The caller's request.
    pub request: &'a Request,
    /// What is presented: the caller's assertion, or what the leg before gave.
    pub assertion: &'a Secret,
    /// The issuer of the last leg's server.
    pub resource_issuer: &'a str,
}

/// The default: Entra's flow.
pub(crate) const fn default() -> &'static dyn Grant {
    &on_behalf_of::OnBehalfOf
}

/// Whether the request has all that the grant needs, and nothing that it has no parameter for.
///
/// # Errors
/// `invalid_request` with the field.
pub(crate) fn check(grant: &dyn Grant, request: &Request) -> Result<(), Failure> {
    let optional = [
        (RequestField::AssertionType, request.assertion_type.is_some()),
        (RequestField::ActorToken, request.actor_token.is_some()),
        (RequestField::ActorTokenType, request.actor_token_type.is_some()),
        (RequestField::Resource, !request.resource.is_empty()),
        (RequestField::Audience, !request.audience.is_empty()),
        (RequestField::Claims, request.claims.is_some()),
    ];
    for (field, given) in optional {
        if given && !grant.takes().contains(&field) {
            let problem = ["is no parameter of the ", grant.name(), " grant"].concat();
            return Err(Failure::invalid_request(field.name(), &problem));
        }
    }
    grant.check(request)
}

fn required(field: RequestField) -> Failure {
    Failure::invalid_request(field.name(), "is required")
}

/// Adds `scope` where there is one to ask for (RFC 6749 section 3.3).
fn add_scope(form: &mut Form, request: &Request) {
    if !request.scopes.is_empty() {
        form.add("scope", &request.scope());
    }
}

/// Adds a parameter as often as it has values (RFC 8693 section 2.1, RFC 8707 section 2).
fn add_each(form: &mut Form, name: &str, values: &[String]) {
    for value in values {
        form.add(name, value);
    }
}

/// An absolute URI without a fragment (RFC 8707 section 2).
fn check_resource(request: &Request) -> Result<(), Failure> {
    let is_resource = |uri: &String| {
        let absolute = uri.split_once(':').is_some_and(|(scheme, rest)| {
            let mut letters = scheme.bytes();
            letters.next().is_some_and(|first| first.is_ascii_alphabetic())
                && letters.all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
                && !rest.is_empty()
        });
        absolute && uri.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#')
    };
    if request.resource.iter().all(is_resource) {
        return Ok(());
    }
    let problem = "must be absolute URIs without a fragment (RFC 8707 section 2)";
    Err(Failure::invalid_request(RequestField::Resource.name(), problem))
}
