//! Failures: what each is, whether it is tried again, and that nothing of it tells a secret. The tables here are
//! written from the house plan and from Microsoft's pages, and know nothing of the source.

use obo_edge::call::Source;
use obo_edge::failure::{Failure, FailureReason, TransportFailure};
use serde_json::{Value, json};

use crate::world::{
    Answer, CLIENT_SECRET, DESCRIPTION, MINUTE, SECOND, START_MS, World, assertion, at, error_body, options_with,
    reason, request_of, request_with,
};
use FailureReason::{
    AssertionRejected, Blocked, ConsentRequired, InteractionRequired, InvalidResponse, Misconfigured, Throttled,
    Unavailable,
};

const TRANSIENT: &str = "40010 50033 50087 50088 50166 501621 51005 70012 80005 90006 90012 90024 90033 90090 90091";
const THROTTLED: &str = "50196 90055";
const ASSERTION_REJECTED: &str = "50006 50013 50027 50089 50132 50133 50173 500131 500133 70000 70008 70043 700082 \
    700084 7000114 900384 240002";
const INTERACTION_REQUIRED: &str = "16000 50055 50058 50072 50074 50076 50078 50079 50097 50125 50127 50129 50131 \
    50135 50140 50144 50155 50158 50161 50199 700020";
const CONSENT_REQUIRED: &str = "65001 65004 90008 90094 90095";
const BLOCKED: &str = "50020 50034 50057 50105 53000 53001 53002 53003 53004 53010 53011 67003 500021 500022 500207 \
    500208 500212 500213 530003 530032 530034 530035";
const MISCONFIGURED: &str = "28002 28003 50001 50002 50012 50049 50194 65002 65005 70001 70002 70003 70005 70011 \
    82014 90002 90014 90019 90023 90038 100007 500011 650052 650054 650056 650057 700011 700016 700022 700023 700024 \
    700025 700027 700030 700054 700229 900144 900382 900432 901002 1000502 7000112 7000214 7000215 7000218 7000222 \
    7000274 7000277 9001023 9002313 9010010";
const UNAVAILABLE_FOR_GOOD: &str = "40008 50086 90036 90092";

fn codes(table: &str) -> Vec<u32> {
    table.split_whitespace().map(|code| code.parse().unwrap()).collect()
}

/// What an exchange fails of whose every token request is answered like this, and how many requests it made.
fn fail(answer: Answer) -> (Failure, usize) {
    let mut world = World::new();
    world.otherwise = answer;
    let failure = world.ask(&request_of("ann", "read")).unwrap_err();
    (failure, world.posted.len())
}

fn fail_with(status: u16, body: &Value) -> (Failure, usize) {
    fail(Answer::respond(status, body.to_string()))
}

fn is_transient(reason: FailureReason) -> bool {
    matches!(reason, Unavailable | Throttled)
}

#[test]
fn every_code_of_entra_is_of_the_class_that_its_table_says_whatever_the_error_beside_it() {
    let classes = [
        (TRANSIENT, Unavailable, 2),
        (THROTTLED, Throttled, 1),
        (ASSERTION_REJECTED, AssertionRejected, 1),
        (INTERACTION_REQUIRED, InteractionRequired, 1),
        (CONSENT_REQUIRED, ConsentRequired, 1),
        (BLOCKED, Blocked, 1),
        (MISCONFIGURED, Misconfigured, 1),
        (UNAVAILABLE_FOR_GOOD, Unavailable, 1),
    ];
    let mut seen = std::collections::BTreeSet::new();
    for (table, expected, requests) in classes {
        for code in codes(table) {
            assert!(seen.insert(code), "{code} stands in two classes");
            for error in ["invalid_grant", "invalid_client", "interaction_required", "server_error", "unheard_of"] {
                for status in [400, 401, 403] {
                    let (failure, made) = fail(Answer::error(status, error, &[code]));
                    assert_eq!((failure.reason, made), (expected, requests), "{code} beside {status} {error}");
                    assert_eq!((failure.status, failure.error.as_deref()), (Some(status), Some(error)));
                    assert_eq!(failure.error_codes, [code]);
                    if table != UNAVAILABLE_FOR_GOOD {
                        assert_eq!(failure.retryable, is_transient(expected), "{code}");
                    }
                }
            }
        }
    }
    assert_eq!(seen.len(), 137, "as many as Microsoft's pages gave");
}

#[test]
fn every_suberror_wins_over_the_codes_and_the_error() {
    for (suberror, expected) in [
        ("client_mismatch", Misconfigured),
        ("protection_policy_required", Misconfigured),
        ("consent_required", ConsentRequired),
        ("bad_token", AssertionRejected),
        ("token_expired", AssertionRejected),
        ("message_only", InteractionRequired),
        ("basic_action", InteractionRequired),
        ("additional_action", InteractionRequired),
        ("user_password_expired", InteractionRequired),
    ] {
        for code in [50105, 65001, 50076, 500_133, 90033, 7_000_215] {
            let mut body = error_body("invalid_grant", &[code]);
            body["suberror"] = json!(suberror);
            let (failure, made) = fail_with(400, &body);
            assert_eq!((failure.reason, made), (expected, 1), "{suberror} with {code}");
            assert_eq!(failure.suberror.as_deref(), Some(suberror));
        }
    }
    // But not over the codes that throttle.
    for code in codes(THROTTLED) {
        let mut body = error_body("invalid_grant", &[code]);
        body["suberror"] = json!("bad_token");
        assert_eq!(fail_with(400, &body).0.reason, Throttled);
    }
}

#[test]
fn every_error_without_more_is_what_the_standards_say() {
    for (error, expected) in [
        ("interaction_required", InteractionRequired),
        ("login_required", InteractionRequired),
        ("insufficient_user_authentication", InteractionRequired),
        ("consent_required", ConsentRequired),
        ("access_denied", Blocked),
        ("invalid_client", Misconfigured),
        ("unauthorized_client", Misconfigured),
        ("unsupported_grant_type", Misconfigured),
        ("invalid_scope", Misconfigured),
        ("invalid_target", Misconfigured),
        ("invalid_resource", Misconfigured),
        ("invalid_grant", AssertionRejected),
        ("invalid_request", Misconfigured),
        ("invalid_token", Misconfigured),
        ("temporarily_unavailable", Unavailable),
        ("server_error", Unavailable),
        ("unheard_of", Misconfigured),
        ("UNHEARD-OF", Misconfigured),
        ("", Misconfigured),
    ] {
        for codes in [&[][..], &[123_456_789]] {
            let (failure, made) = fail(Answer::error(400, error, codes));
            assert_eq!(failure.reason, expected, "{error} {codes:?}");
            assert_eq!(made, if expected == Unavailable { 2 } else { 1 }, "{error}");
            assert_eq!(failure.retryable, is_transient(expected), "{error}");
        }
    }
}

#[test]
fn the_first_that_matches_wins_status_then_throttling_then_claims_then_suberror_then_code_then_error() {
    let claims = r#"{"access_token":{"nbf":{"essential":true}}}"#;
    // Each layer by itself says something else than those below it.
    let layers: [(&str, Value, FailureReason); 5] = [
        ("error_codes", json!([53003, 50196]), Throttled),
        ("claims", json!(claims), InteractionRequired),
        ("suberror", json!("consent_required"), ConsentRequired),
        ("error_codes", json!([53003]), Blocked),
        ("error", json!("invalid_grant"), AssertionRejected),
    ];
    for first in 0..layers.len() {
        let mut body = json!({});
        for (name, value, _) in layers[first..].iter().rev() {
            body[*name] = value.clone();
        }
        let expected = layers[first].2;
        let (failure, made) = fail_with(400, &body);
        assert_eq!((failure.reason, made), (expected, 1), "{body}");
        // Claims are handed on, whatever the reason.
        assert_eq!(failure.claims.as_deref(), (first <= 1).then_some(claims), "{body}");
        for (status, by_status) in
            [(429, Throttled), (408, Unavailable), (500, Unavailable), (503, Unavailable), (599, Unavailable)]
        {
            let (failure, made) = fail_with(status, &body);
            assert_eq!((failure.reason, failure.status, made), (by_status, Some(status), 2), "{status} {body}");
            assert_eq!(failure.claims.as_deref(), (first <= 1).then_some(claims), "{status} {body}");
        }
    }
}

#[test]
fn the_text_of_an_error_decides_nothing() {
    let body =
        json!({"error": "invalid_grant", "error_description": "AADSTS65001: consent_required AADSTS50196 throttled"});
    assert_eq!(fail_with(400, &body).0.reason, AssertionRejected);
}

#[test]
fn the_first_known_code_counts_where_there_are_several() {
    assert_eq!(fail(Answer::error(400, "invalid_grant", &[1, 65001, 50105])).0.reason, ConsentRequired);
    assert_eq!(fail(Answer::error(400, "invalid_grant", &[50105, 65001])).0.reason, Blocked);
}

#[test]
fn members_of_an_unfitting_type_are_as_good_as_absent() {
    let unfitting = [json!(null), json!(7), json!(true), json!([]), json!({}), json!([{}]), json!(-1), json!(1e300)];
    for value in unfitting {
        for member in ["error_codes", "suberror", "claims", "acr_values", "max_age", "correlation_id", "trace_id"] {
            let mut body = json!({"error": "invalid_grant"});
            body[member] = value.clone();
            assert_eq!(fail_with(400, &body).0.reason, AssertionRejected, "{body}");
        }
        let (failure, _) = fail_with(400, &json!({"error": value}));
        assert_eq!((failure.reason, failure.error.clone()), (InvalidResponse, None));
    }
    let (failure, _) = fail_with(
        400,
        &json!({"error": "invalid_grant", "error_codes": ["50196", -1, 1.5, 99_999_999_999_u64, 65001]}),
    );
    assert_eq!((failure.reason, failure.error_codes.clone()), (ConsentRequired, vec![65001]));
}

#[test]
fn an_answer_that_is_no_error_response_is_an_invalid_one() {
    for status in [400, 401, 403, 404, 418] {
        for body in ["", "<html>no</html>", "[]", "null", "\"invalid_grant\"", "{", "{}", "[\"invalid_grant\"]"] {
            let (failure, made) = fail(Answer::respond(status, body));
            assert_eq!((failure.reason, failure.status, made), (InvalidResponse, Some(status), 1), "{status} {body:?}");
            assert!(!failure.retryable);
        }
    }
    for status in [300, 301, 302, 303, 307, 308] {
        let (failure, made) = fail(Answer::error(status, "temporarily_unavailable", &[90033]));
        assert_eq!((failure.reason, failure.status, made), (InvalidResponse, Some(status), 1), "{status}");
    }
}

#[test]
fn a_transport_that_fails_is_tried_again_where_another_answer_may_come() {
    for (transport, expected, requests) in [
        (TransportFailure::Network, Unavailable, 2),
        (TransportFailure::TimedOut, Unavailable, 2),
        (TransportFailure::TooLarge, InvalidResponse, 1),
        (TransportFailure::Redirected, InvalidResponse, 1),
    ] {
        let (failure, made) = fail(Answer::transport(transport));
        assert_eq!((failure.reason, made, failure.status), (expected, requests, None), "{transport:?}");
        assert_eq!(failure.retryable, is_transient(expected));
    }
}

#[test]
fn a_transient_failure_is_tried_once_more_after_delay_and_jitter() {
    for answer in [
        Answer::transport(TransportFailure::Network),
        Answer::respond(408, ""),
        Answer::respond(429, ""),
        Answer::respond(500, "<html>"),
        Answer::error(502, "server_error", &[]),
        Answer::error(503, "temporarily_unavailable", &[]),
        Answer::error(400, "temporarily_unavailable", &[]),
        Answer::error(400, "invalid_grant", &[90033]),
    ] {
        let mut world = World::new();
        world.answers.push_back(answer.clone());
        assert_eq!(world.ask(&request_of("ann", "read")).unwrap(), ("minted~ann~read~2".to_owned(), Source::Issuer));
        let [wait_ms] = world.slept[..] else { panic!("{:?}", world.slept) };
        assert!((300..=450).contains(&wait_ms), "{wait_ms} ms after {answer:?}");
        assert_eq!(world.posted[1].sent_ms - world.posted[0].sent_ms, 50 + wait_ms);
        let stats = world.stats();
        assert_eq!((stats.retries, stats.token_requests, stats.tokens, stats.failures), (1, 2, 1, 0));
    }
}

#[test]
fn jitter_spreads_the_retries_of_many_flights() {
    let mut world = World::new();
    world.answers = vec![Answer::respond(503, ""); 40].into();
    for user in 0..40 {
        world.call(&request_of(&format!("user{user}"), "read"));
    }
    world.run();
    let waits: std::collections::BTreeSet<_> = world.slept.iter().collect();
    assert!(waits.len() > 10, "{waits:?}");
}

#[test]
fn as_many_attempts_are_made_as_the_options_say() {
    for attempts in 1..=5 {
        let mut world =
            World::with_options(options_with("retry", json!({"attempts": attempts, "delayMs": 100})), false);
        world.otherwise = Answer::respond(503, "");
        assert_eq!(reason(world.ask(&request_of("ann", "read"))), Unavailable);
        assert_eq!((world.posted.len(), world.slept.len()), (attempts, attempts - 1));
        assert!(world.slept.iter().all(|wait_ms| (100..=150).contains(wait_ms)), "{:?}", world.slept);
    }
}

#[test]
fn a_throttled_user_of_entra_is_no_dead_assertion_and_not_asked_for_again() {
    for code in [50196, 90055] {
        let (failure, made) = fail(Answer::error(400, "invalid_grant", &[code]).retry_after("1"));
        assert_eq!((failure.reason, failure.retryable, made), (Throttled, true, 1));
        assert_eq!((failure.status, failure.error.as_deref()), (Some(400), Some("invalid_grant")));
        assert_eq!(failure.retry_after, Some(1));
    }
}

#[test]
fn too_many_requests_are_tried_once_more_where_the_wait_fits() {
    for (retry_after, requests) in [(None, 2), (Some("1"), 2), (Some("60"), 1), (Some("9999"), 1)] {
        let mut answer = Answer::respond(429, "");
        if let Some(value) = retry_after {
            answer = answer.retry_after(value);
        }
        let (failure, made) = fail(answer);
        assert_eq!((failure.reason, made, failure.retryable), (Throttled, requests, true), "{retry_after:?}");
    }
}

/// A 503 with this Retry-After: what was slept, and what the failure says.
fn told_to_retry_after(value: &str) -> (Option<u64>, Option<u64>) {
    let mut world = World::new();
    world.otherwise = Answer::respond(503, "").retry_after(value);
    let failure = world.ask(&request_of("ann", "read")).unwrap_err();
    (world.slept.first().copied(), failure.retry_after)
}

#[test]
fn a_retry_after_is_read_as_a_number_or_a_date_and_obeyed_where_it_fits() {
    let slept = |value: &str| told_to_retry_after(value).0;
    let within = |value: &str, from: u64| (from..=from + 150).contains(&slept(value).unwrap());
    assert!(within("3", 3 * SECOND));
    assert!(within(" 3 ", 3 * SECOND));
    assert!(within("0", 300));
    assert_eq!(slept("10"), None, "it does not fit");
    assert_eq!(slept("3600"), None);

    let date = |milliseconds: u64| {
        httpdate::fmt_http_date(std::time::UNIX_EPOCH + std::time::Duration::from_millis(START_MS + milliseconds))
    };
    // The answer comes 50 ms after the start, so the wait may be that much shorter; a date has whole seconds.
    let within = |value: &str, from: u64| (from..=from + 200).contains(&slept(value).unwrap());
    assert!(within(&date(5 * SECOND), 5 * SECOND - 50));
    assert!(within("Thu, 01 Jan 1970 00:00:00 GMT", 300));
    assert!(within("Friday, 15-Jan-27 08:00:04 GMT", 4 * SECOND - 50), "the obsolete form of RFC 850");
    assert_eq!(slept(&date(MINUTE)), None, "it does not fit");
}

#[test]
fn a_retry_after_that_says_nothing_is_as_good_as_absent() {
    for garbage in ["", " ", "-5", "1.5", "soon", "1e3", "0x10", "\u{ff11}", "5,5", "Fri, 32 Jan 2027 08:00:00 GMT"] {
        let (slept, told) = told_to_retry_after(garbage);
        assert!((300..=450).contains(&slept.unwrap()), "{garbage:?}");
        assert_eq!(told, None, "{garbage:?}");
    }
}

#[test]
fn a_retry_after_is_believed_for_an_hour_at_most() {
    for long in ["3601", "86400", "18446744073709551615", "99999999999999999999999", "Fri, 31 Dec 9999 23:59:59 GMT"] {
        assert_eq!(told_to_retry_after(long), (None, Some(3600)), "{long}");
    }
    assert_eq!(told_to_retry_after("3600").1, Some(3600));
}

#[test]
fn a_retry_that_could_not_end_in_time_is_not_begun() {
    let mut world = World::with_options(options_with("timeoutMs", json!(1000)), false);
    world.otherwise = Answer::respond(503, "").after(490);
    let failure = world.ask(&request_of("ann", "read")).unwrap_err();
    assert_eq!((failure.reason, failure.status, world.posted.len()), (Unavailable, Some(503), 1));
    assert!(world.took_ms(0) <= 1000);
}

#[test]
fn the_last_answer_is_the_one_that_is_reported() {
    let mut world = World::new();
    world.answers = [Answer::respond(503, ""), Answer::error(400, "invalid_grant", &[65001])].into();
    let failure = world.ask(&request_of("ann", "read")).unwrap_err();
    assert_eq!((failure.reason, failure.status), (ConsentRequired, Some(400)));
}

#[test]
fn a_step_up_challenge_is_handed_on_with_its_contexts_and_age() {
    let body = json!({"error": "insufficient_user_authentication", "acr_values": "c1 urn:example:mfa", "max_age": 300});
    let (failure, _) = fail_with(401, &body);
    assert_eq!(
        (failure.reason, failure.acr_values.as_deref(), failure.max_age),
        (InteractionRequired, Some("c1 urn:example:mfa"), Some(300))
    );
    let body = json!({"error": "insufficient_user_authentication", "acr_values": "a\"b", "max_age": "60"});
    let (failure, _) = fail_with(401, &body);
    assert_eq!(
        (failure.acr_values.clone(), failure.max_age),
        (None, Some(60)),
        "a quote would end the header's string"
    );
}

#[test]
fn claims_that_no_header_could_carry_are_no_challenge() {
    let long = json!({"access_token": "x".repeat(5000)}).to_string();
    for claims in ["", "text", "[]", "{", long.as_str()] {
        let body = json!({"error": "invalid_grant", "claims": claims});
        let (failure, _) = fail_with(400, &body);
        assert_eq!((failure.reason, failure.claims.clone()), (AssertionRejected, None), "{claims:.20}");
    }
}

/// All that can be read of a failure.
fn shown(failure: &Failure) -> String {
    format!("{failure} {failure:?} {failure:#?} {}", serde_json::to_string(failure).unwrap())
}

#[test]
fn nothing_that_was_sent_or_described_comes_out_of_a_failure_or_an_event() {
    let users = assertion("ann", at(24 * 3_600_000), 7);
    let echoes = |text: &str| {
        let text = text.to_owned();
        ["error", "suberror", "correlation_id", "trace_id", "error_description", "error_uri", "timestamp"].map(
            |member| {
                let mut body = error_body("invalid_grant", &[50013]);
                body[member] = json!(text);
                body
            },
        )
    };
    for secret in [users.as_str(), CLIENT_SECRET, &format!("bad assertion {users}"), &format!("Bearer {users}\r\nX: y")]
    {
        for body in echoes(secret) {
            for status in [400, 429, 503, 302] {
                let mut world = World::new();
                world.otherwise = Answer::respond(status, body.to_string());
                let failure = world.ask(&request_with(&users, "read")).unwrap_err();
                let events = format!("{:?} {}", world.events, serde_json::to_string(&world.events).unwrap());
                for shown in [shown(&failure), events] {
                    assert!(!shown.contains(&users), "{shown}");
                    assert!(!shown.contains(CLIENT_SECRET), "{shown}");
                    assert!(!shown.contains(DESCRIPTION) && !shown.contains("nobody-shows"), "{shown}");
                }
                assert!(failure.error.as_deref().is_none_or(|error| error == "invalid_grant"));
            }
        }
    }
}

#[test]
fn acr_values_and_claims_that_echo_a_token_that_was_sent_do_not_come_out() {
    use obo_edge::request::RequestField;
    let users = assertion("ann", at(24 * 3_600_000), 7);
    let mut request = request_with(&users, "read");
    let token_type = "urn:ietf:params:oauth:token-type:jwt";
    for (field, value) in [(RequestField::ActorToken, "an.actors.token"), (RequestField::ActorTokenType, token_type)] {
        request.set(field, value).unwrap();
    }
    for token in [users.as_str(), "an.actors.token"] {
        for body in [
            json!({"error": "insufficient_user_authentication", "acr_values": token}),
            json!({"error": "interaction_required", "claims": json!({"echo": token}).to_string()}),
        ] {
            let mut options = options_with("grant", json!("token-exchange"));
            options["inspectAssertion"] = json!(false);
            let mut world = World::with_options(options, false);
            world.otherwise = Answer::respond(401, body.to_string());
            let failure = world.ask(&request).unwrap_err();
            assert!(failure.error.is_some(), "it was asked: {failure:?}");
            assert!(!shown(&failure).contains(token), "{failure:?}");
        }
    }
}

#[test]
fn what_is_asked_of_the_host_and_what_it_reports_show_no_secret() {
    use core::ops::ControlFlow;
    use obo_edge::action::{Event, Response};
    use obo_edge::call::{Call, Turn};
    let mut world = World::with_store();
    let (request, now) = (request_of("ann", "read"), world.now());
    assert!(!format!("{request:?}").contains(request.assertion.reveal()));
    assert!(!format!("{:?}", world.exchanger.config()).contains(CLIENT_SECRET));
    let (_, turn) = Call::begin(&mut world.exchanger, &request, now);
    let Turn::Lead(generation) = turn else { panic!("{turn:?}") };
    let _ = world.exchanger.step(generation, now, Event::Begun([1; 32]));
    let ControlFlow::Continue(post) = world.exchanger.step(generation, now, Event::StoreRead(None)) else { panic!() };
    let post = format!("{post:?}");
    assert!(!post.contains(request.assertion.reveal()) && !post.contains(CLIENT_SECRET), "{post}");
    let body = br#"{"access_token":"secret-token","token_type":"Bearer"}"#.to_vec();
    let event = Event::Responded(Response { status: 200, retry_after: None, body });
    let ControlFlow::Break(write) = world.exchanger.step(generation, now, event) else { panic!() };
    assert!(!format!("{write:?}").contains("secret-token"));
}

#[test]
fn a_response_shows_nothing_of_its_body_when_it_is_formatted() {
    use obo_edge::action::{Event, Response};
    let event = Event::Responded(Response { status: 200, retry_after: None, body: b"token".to_vec() });
    let shown = format!("{event:?}");
    assert!(!shown.contains("token") && !shown.contains("116, 111, 107, 101, 110"), "{shown}");
}

#[test]
fn identifiers_of_the_identity_provider_come_through() {
    let mut world = World::new();
    world.otherwise = Answer::error(400, "invalid_grant", &[65001, 7]);
    let failure = world.ask(&request_of("ann", "read")).unwrap_err();
    assert_eq!(failure.correlation_id.as_deref(), Some("3f6d1c4e-0000-4a4a-8b8b-0123456789ab"));
    assert_eq!(failure.trace_id.as_deref(), Some("0a1b2c3d-0000-4a4a-8b8b-0123456789ab"));
    assert_eq!(failure.error_codes, [65001, 7]);
    let event = serde_json::to_value(world.events.last().unwrap()).unwrap();
    assert_eq!(
        event,
        json!({"type": "failure", "attempt": 1, "reason": "consent_required", "status": 400,
        "correlationId": "3f6d1c4e-0000-4a4a-8b8b-0123456789ab"})
    );
}
