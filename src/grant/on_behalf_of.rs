//! Entra ID's on-behalf-of flow.
//!
//! Sources: Microsoft identity platform, "OAuth 2.0 On-Behalf-Of flow", "Authentication and authorization
//! error codes", "Claims challenges"; RFC 7523 section 2.1. Microsoft may change codes: they refine `error`,
//! and an unknown one breaks nothing.

use super::{Grant, Leg, Presented, jwt_bearer, required};
use crate::assertion::AssertionFacts;
use crate::client::Form;
use crate::failure::{Failure, FailureReason, Verdict};
use crate::request::{Request, RequestField};
use crate::url::Url;

/// Entra's authorities in its clouds.
const AUTHORITIES: [&str; 3] =
    ["login.microsoftonline.com", "login.microsoftonline.us", "login.partner.microsoftonline.cn"];
/// Authorities that are no tenant.
const SHARED_AUTHORITIES: [&str; 3] = ["common", "organizations", "consumers"];

#[derive(Debug)]
pub(super) struct OnBehalfOf;

impl Grant for OnBehalfOf {
    fn name(&self) -> &'static str {
        "on-behalf-of"
    }

    /// Entra's v2 endpoint refuses `resource` (901002) and knows neither audiences nor actors.
    fn takes(&self) -> &'static [RequestField] {
        &[RequestField::Claims]
    }

    fn check(&self, request: &Request) -> Result<(), Failure> {
        if request.scopes.is_empty() { Err(required(RequestField::Scopes)) } else { Ok(()) }
    }

    fn check_server(&self, url: &Url) -> Result<(), &'static str> {
        let url = url.components();
        let tenant = url.path.split('/').nth(1).unwrap_or_default();
        let is_shared = SHARED_AUTHORITIES.iter().any(|shared| shared.eq_ignore_ascii_case(tenant));
        if AUTHORITIES.contains(&url.host.as_str()) && is_shared {
            return Err("must be a tenant's own: common, organizations and consumers are no tenant, \
                 and on-behalf-of needs the tenant that the user signed in to");
        }
        Ok(())
    }

    fn legs(&self) -> &'static [&'static dyn Leg] {
        &[&Entra]
    }

    fn reuses_client_assertions(&self) -> bool {
        true
    }

    fn objection(&self, _request: &Request, assertion: &AssertionFacts) -> Option<&'static str> {
        [
            (assertion.is_id_token, "is an ID token: present the access token"),
            (assertion.is_app_only, "is an app-only token (idtyp), which stands for no user"),
            (assertion.lacks_scp, "has no scp: it is no delegated access token of Entra ID's"),
            (assertion.is_for_another, "was issued for another audience than this client"),
        ]
        .into_iter()
        .find_map(|(is_so, objection)| is_so.then_some(objection))
    }
}

struct Entra;

const USER_THROTTLED: u32 = 50196;
const CLIENT_THROTTLED: u32 = 90055;

impl Leg for Entra {
    fn parameters(&self, presented: &Presented<'_>) -> Form {
        let mut form = Form::default();
        form.add("grant_type", jwt_bearer::GRANT_TYPE);
        form.add("requested_token_use", "on_behalf_of");
        form.add("assertion", presented.assertion.reveal());
        form.add("scope", &presented.request.scope());
        if let Some(claims) = &presented.request.claims {
            form.add("claims", claims);
        }
        form
    }

    /// Throttling arrives as 400 `invalid_grant` here; it must not read as "sign in again".
    fn is_throttled(&self, codes: &[u32]) -> bool {
        codes.iter().any(|code| matches!(*code, USER_THROTTLED | CLIENT_THROTTLED))
    }

    fn throttles_the_user_alone(&self, codes: &[u32]) -> bool {
        codes.contains(&USER_THROTTLED) && !codes.contains(&CLIENT_THROTTLED)
    }

    fn refine(&self, codes: &[u32], suberror: Option<&str>) -> Option<Verdict> {
        by_suberror(suberror).or_else(|| codes.iter().find_map(|code| by_code(*code)))
    }

    /// Of a key that was rotated or a clock that was wrong; a wrong secret (7000215) or an unknown client (700016)
    /// stays wrong.
    fn wants_a_fresh_client_assertion(&self, codes: &[u32]) -> bool {
        const FRESH: [u32; 6] = [700027, 700024, 7000214, 1000502, 7000274, 7000277];
        const NEVER: [u32; 2] = [7000215, 700016];
        let any = |listed: &[u32]| codes.iter().any(|code| listed.contains(code));
        any(&FRESH) && !any(&NEVER)
    }
}

fn by_suberror(suberror: Option<&str>) -> Option<Verdict> {
    Some(Verdict::of(match suberror? {
        "client_mismatch" | "protection_policy_required" => FailureReason::Misconfigured,
        "consent_required" => FailureReason::ConsentRequired,
        "bad_token" | "token_expired" => FailureReason::AssertionRejected,
        "message_only" | "basic_action" | "additional_action" | "user_password_expired" => {
            FailureReason::InteractionRequired
        }
        _ => return None,
    }))
}

/// The codes by what they mean. A table and not a `match`, which compiles to several times as much.
#[rustfmt::skip]
const CODES: [(Verdict, &[u32]); 7] = [
    (Verdict::of(FailureReason::Unavailable), &[
        40010, 50033, 50087, 50088, 50166, 501621, 51005, 70012, 80005, 90006, 90012, 90024, 90033, 90090, 90091,
    ]),
    (Verdict::never(FailureReason::Unavailable), &[
        40008, 50086, 90036, 90092,
    ]),
    (Verdict::of(FailureReason::AssertionRejected), &[
        50006, 50013, 50027, 50089, 50132, 50133, 50173, 500131, 500133, 70000, 70008, 70043, 700082, 700084,
        7000114, 900384, 240002,
    ]),
    (Verdict::of(FailureReason::InteractionRequired), &[
        16000, 50055, 50058, 50072, 50074, 50076, 50078, 50079, 50097, 50125, 50127, 50129, 50131, 50135, 50140,
        50144, 50155, 50158, 50161, 50199, 700020,
    ]),
    (Verdict::of(FailureReason::ConsentRequired), &[
        65001, 65004, 90008, 90094, 90095,
    ]),
    (Verdict::of(FailureReason::Blocked), &[
        50020, 50034, 50057, 50105, 53000, 53001, 53002, 53003, 53004, 53010, 53011, 67003, 500021, 500022, 500207,
        500208, 500212, 500213, 530003, 530032, 530034, 530035,
    ]),
    (Verdict::of(FailureReason::Misconfigured), &[
        28002, 28003, 50001, 50002, 50012, 50049, 50194, 65002, 65005, 70001, 70002, 70003, 70005, 70011, 82014,
        90002, 90014, 90019, 90023, 90038, 100007, 500011, 650052, 650054, 650056, 650057, 700011, 700016, 700022,
        700023, 700024, 700025, 700027, 700030, 700054, 700229, 900144, 900382, 900432, 901002, 1000502, 7000112,
        7000214, 7000215, 7000218, 7000222, 7000274, 7000277, 9001023, 9002313, 9010010,
    ]),
];

fn by_code(code: u32) -> Option<Verdict> {
    CODES.iter().find(|(_, codes)| codes.contains(&code)).map(|(verdict, _)| *verdict)
}
