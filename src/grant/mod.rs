//! Which grant is used: its parameters, what its response must have, and which of its errors mean what.
//! One file a grant.

mod on_behalf_of;

use crate::client::Form;
use crate::failure::{Failure, Verdict};
use crate::request::Request;

/// A way to obtain a token for a downstream resource with a user's token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Grant {
    /// Entra ID's on-behalf-of flow: RFC 7523 section 2.1 with `requested_token_use=on_behalf_of`.
    OnBehalfOf,
}

impl Grant {
    /// The grants by their names in the options.
    pub const NAMES: &[(&str, Self)] = &[("on-behalf-of", Self::OnBehalfOf)];

    /// The name in the options.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OnBehalfOf => "on-behalf-of",
        }
    }

    /// Whether the grant can carry all that the request names.
    ///
    /// # Errors
    /// The field that this grant has no parameter for.
    pub(crate) fn check(self, request: &Request) -> Result<(), Failure> {
        match self {
            Self::OnBehalfOf => on_behalf_of::check(request),
        }
    }

    /// The grant's form parameters, without the client's.
    pub(crate) fn parameters(self, request: &Request) -> Form {
        match self {
            Self::OnBehalfOf => on_behalf_of::parameters(request),
        }
    }

    /// Whether one of the provider's codes says that it throttles, whatever else the response says.
    pub(crate) fn is_throttled(self, codes: &[u32]) -> bool {
        match self {
            Self::OnBehalfOf => on_behalf_of::is_throttled(codes),
        }
    }

    /// What the provider's suberror and codes say, before the standards' `error` is asked.
    pub(crate) fn refine(self, codes: &[u32], suberror: Option<&str>) -> Option<Verdict> {
        match self {
            Self::OnBehalfOf => on_behalf_of::refine(codes, suberror),
        }
    }

    /// Whether `invalid_request` and `invalid_token` speak of the user's token (RFC 8693 section 2.2.2).
    pub(crate) const fn blames_the_subject_token(self) -> bool {
        match self {
            Self::OnBehalfOf => false,
        }
    }
}
