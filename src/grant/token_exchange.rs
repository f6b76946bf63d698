//! OAuth 2.0 Token Exchange (RFC 8693): the user's token in, an access token out.

use super::{ACCESS_TOKEN, Grant, ID_TOKEN, Leg, Presented, add_each, add_scope, check_resource};
use crate::assertion::AssertionFacts;
use crate::client::Form;
use crate::failure::Failure;
use crate::request::{Request, RequestField};

/// RFC 8693 section 2.1.
pub(super) const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
/// RFC 8693 section 3: a JWT. An access token may be issued as one.
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";

#[derive(Debug)]
pub(super) struct TokenExchange;

impl Grant for TokenExchange {
    fn name(&self) -> &'static str {
        "token-exchange"
    }

    fn takes(&self) -> &'static [RequestField] {
        &[
            RequestField::AssertionType,
            RequestField::ActorToken,
            RequestField::ActorTokenType,
            RequestField::Resource,
            RequestField::Audience,
        ]
    }

    fn check(&self, request: &Request) -> Result<(), Failure> {
        check_token_type(RequestField::AssertionType, request.assertion_type.as_deref())?;
        check_token_type(RequestField::ActorTokenType, request.actor_token_type.as_deref())?;
        // RFC 8693 section 2.1: not without the token that it speaks of.
        if request.actor_token_type.is_some() && request.actor_token.is_none() {
            let problem = "is given without actorToken";
            return Err(Failure::invalid_request(RequestField::ActorTokenType.name(), problem));
        }
        check_resource(request)
    }

    fn legs(&self) -> &'static [&'static dyn Leg] {
        &[&Exchange]
    }

    fn objection(&self, request: &Request, assertion: &AssertionFacts) -> Option<&'static str> {
        let as_access_token = request.assertion_type.as_deref().is_none_or(|name| name == ACCESS_TOKEN);
        (as_access_token && assertion.is_id_token)
            .then_some("is an ID token: exchange the access token, or say so by assertionType")
    }
}

/// RFC 8693 section 3: a token type is a URI.
fn check_token_type(field: RequestField, name: Option<&str>) -> Result<(), Failure> {
    match name {
        Some(name) if !name.contains(':') || !name.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Err(Failure::invalid_request(field.name(), &["must be a URI, for example ", ID_TOKEN].concat()))
        }
        _ => Ok(()),
    }
}

struct Exchange;

impl Leg for Exchange {
    fn parameters(&self, presented: &Presented<'_>) -> Form {
        let request = presented.request;
        let mut form = Form::default();
        form.add("grant_type", GRANT_TYPE);
        form.add("subject_token", presented.assertion.reveal());
        form.add("subject_token_type", request.assertion_type.as_deref().unwrap_or(ACCESS_TOKEN));
        form.add("requested_token_type", ACCESS_TOKEN);
        if let Some(actor) = &request.actor_token {
            form.add("actor_token", actor.reveal());
            form.add("actor_token_type", request.actor_token_type.as_deref().unwrap_or(ACCESS_TOKEN));
        }
        add_each(&mut form, "resource", &request.resource);
        add_each(&mut form, "audience", &request.audience);
        add_scope(&mut form, request);
        form
    }

    fn issued_token_types(&self) -> &'static [&'static str] {
        &[ACCESS_TOKEN, JWT]
    }

    fn blames_the_subject_token(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grant::check;

    fn problem(fields: &[(RequestField, &str)]) -> Option<String> {
        let mut request = Request::new();
        for (field, value) in fields {
            request.set(*field, value).unwrap();
        }
        check(&TokenExchange, &request).err().map(|failure| failure.message.clone())
    }

    #[test]
    fn types_are_uris_and_an_actors_type_needs_the_actor() {
        use RequestField::{ActorToken, ActorTokenType, AssertionType};
        assert_eq!(problem(&[(AssertionType, ID_TOKEN)]), None);
        assert!(problem(&[(AssertionType, "id_token")]).unwrap().starts_with("assertionType must be a URI"));
        assert_eq!(problem(&[(ActorToken, "a"), (ActorTokenType, ID_TOKEN)]), None);
        assert_eq!(problem(&[(ActorToken, "a")]), None);
        assert!(problem(&[(ActorToken, "a"), (ActorTokenType, "x")]).unwrap().starts_with("actorTokenType must be"));
        assert_eq!(problem(&[(ActorTokenType, ID_TOKEN)]).unwrap(), "actorTokenType is given without actorToken");
    }

    #[test]
    fn resources_are_absolute_uris_without_a_fragment() {
        for good in ["https://a.example/b?c=d", "urn:example:x", "api://files"] {
            assert_eq!(problem(&[(RequestField::Resource, good)]), None, "{good}");
        }
        for wrong in ["files", "/files", "https://a.example/#f", "https:", ":x", "1a:b", "a b:c", "http s://x"] {
            assert!(problem(&[(RequestField::Resource, wrong)]).unwrap().starts_with("resource must be"), "{wrong}");
        }
    }

    #[test]
    fn claims_have_no_parameter_in_a_token_exchange() {
        assert!(problem(&[(RequestField::Claims, "{}")]).unwrap().starts_with("claims is no parameter"));
    }
}
