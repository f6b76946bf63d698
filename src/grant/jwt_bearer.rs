//! The JWT bearer grant (RFC 7523 section 2.1), as it stands in the RFC.

use super::{Grant, Leg, Presented, add_each, add_scope, check_resource};
use crate::client::Form;
use crate::failure::Failure;
use crate::request::{Request, RequestField};

/// RFC 7523 section 2.1.
pub(super) const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

#[derive(Debug)]
pub(super) struct JwtBearer;

impl Grant for JwtBearer {
    fn name(&self) -> &'static str {
        "jwt-bearer"
    }

    fn takes(&self) -> &'static [RequestField] {
        &[RequestField::Resource]
    }

    fn check(&self, request: &Request) -> Result<(), Failure> {
        check_resource(request)
    }

    fn legs(&self) -> &'static [&'static dyn Leg] {
        &[&Assertion]
    }
}

struct Assertion;

impl Leg for Assertion {
    fn parameters(&self, presented: &Presented<'_>) -> Form {
        let mut form = Form::default();
        form.add("grant_type", GRANT_TYPE);
        form.add("assertion", presented.assertion.reveal());
        add_scope(&mut form, presented.request);
        add_each(&mut form, "resource", &presented.request.resource);
        form
    }
}
