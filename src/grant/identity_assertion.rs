//! Identity Assertion JWT Authorization Grant (ID-JAG), as MCP's extension
//! `io.modelcontextprotocol/enterprise-managed-authorization` profiles it: the identity provider makes an
//! assertion for the resource's authorization server (RFC 8693), which makes the token (RFC 7523).
//!
//! Sources: draft-ietf-oauth-identity-assertion-authz-grant, sections 4.3 and 4.4.

use super::{
    Grant, ID_TOKEN, Leg, Presented, add_each, add_scope, check_resource, jwt_bearer, required, token_exchange,
};
use crate::client::Form;
use crate::failure::Failure;
use crate::request::{Request, RequestField};

/// What leg 1 asks for.
const ID_JAG: &str = "urn:ietf:params:oauth:token-type:id-jag";
/// RFC 8693 section 3: a SAML 2.0 assertion.
const SAML2: &str = "urn:ietf:params:oauth:token-type:saml2";

#[derive(Debug)]
pub(super) struct IdentityAssertion;

impl Grant for IdentityAssertion {
    fn name(&self) -> &'static str {
        "identity-assertion"
    }

    fn takes(&self) -> &'static [RequestField] {
        &[RequestField::AssertionType, RequestField::Resource]
    }

    fn check(&self, request: &Request) -> Result<(), Failure> {
        if !matches!(request.assertion_type.as_deref(), None | Some(ID_TOKEN | SAML2)) {
            let problem = ["must be ", ID_TOKEN, " or ", SAML2].concat();
            return Err(Failure::invalid_request(RequestField::AssertionType.name(), &problem));
        }
        if request.resource.is_empty() {
            return Err(required(RequestField::Resource));
        }
        check_resource(request)
    }

    fn legs(&self) -> &'static [&'static dyn Leg] {
        &[&IdentityProvider, &ResourceAuthorizationServer]
    }

    fn is_for_confidential_clients_only(&self) -> bool {
        true
    }

    fn takes_access_tokens(&self) -> bool {
        false
    }
}

struct IdentityProvider;

impl Leg for IdentityProvider {
    fn parameters(&self, presented: &Presented<'_>) -> Form {
        let request = presented.request;
        let mut form = Form::default();
        form.add("grant_type", token_exchange::GRANT_TYPE);
        form.add("requested_token_type", ID_JAG);
        form.add("audience", presented.resource_issuer);
        add_each(&mut form, "resource", &request.resource);
        add_scope(&mut form, request);
        form.add("subject_token", presented.assertion.reveal());
        form.add("subject_token_type", request.assertion_type.as_deref().unwrap_or(ID_TOKEN));
        form
    }

    fn issued_token_types(&self) -> &'static [&'static str] {
        &[ID_JAG]
    }

    fn token_type(&self) -> &'static str {
        "N_A"
    }

    fn jwt_type(&self) -> Option<&'static str> {
        Some("oauth-id-jag+jwt")
    }

    fn blames_the_subject_token(&self) -> bool {
        true
    }
}

struct ResourceAuthorizationServer;

impl Leg for ResourceAuthorizationServer {
    fn parameters(&self, presented: &Presented<'_>) -> Form {
        let mut form = Form::default();
        form.add("grant_type", jwt_bearer::GRANT_TYPE);
        form.add("assertion", presented.assertion.reveal());
        // The resource stands in the assertion.
        add_scope(&mut form, presented.request);
        form
    }
}
