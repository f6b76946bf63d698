//! Entra ID's on-behalf-of flow.
//!
//! Sources: Microsoft identity platform, "OAuth 2.0 On-Behalf-Of flow", "Authentication and authorization
//! error codes", "Claims challenges"; RFC 7523 section 2.1. Microsoft may change codes: they refine `error`,
//! and an unknown one breaks nothing.

use crate::client::Form;
use crate::failure::{Failure, FailureReason, Verdict};
use crate::request::Request;

const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

/// Entra's v2 endpoint refuses `resource` (901002) and knows neither audiences nor actors.
pub(super) fn check(request: &Request) -> Result<(), Failure> {
    let unsupported = [
        ("resource", !request.resource.is_empty()),
        ("audience", !request.audience.is_empty()),
        ("actorToken", request.actor_token.is_some()),
        ("actorTokenType", request.actor_token_type.is_some()),
        ("assertionType", request.assertion_type.is_some()),
    ];
    match unsupported.into_iter().find(|(_, given)| *given) {
        Some((field, _)) => Err(Failure::invalid_request(field, "is no parameter of the on-behalf-of grant")),
        None => Ok(()),
    }
}

pub(super) fn parameters(request: &Request) -> Form {
    let mut form = Form::default();
    form.add("grant_type", GRANT_TYPE);
    form.add("requested_token_use", "on_behalf_of");
    form.add("assertion", request.assertion.reveal());
    form.add("scope", &request.scopes.join(" "));
    if let Some(claims) = &request.claims {
        form.add("claims", claims);
    }
    form
}

/// Throttling arrives as 400 `invalid_grant` here; it must not read as "sign in again".
pub(super) fn is_throttled(codes: &[u32]) -> bool {
    codes.iter().any(|code| matches!(code, 50196 | 90055))
}

pub(super) fn refine(codes: &[u32], suberror: Option<&str>) -> Option<Verdict> {
    by_suberror(suberror).or_else(|| codes.iter().find_map(|code| by_code(*code)))
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
