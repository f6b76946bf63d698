//! What comes in wrong: from callers, from options, from the token endpoint, from the host itself.

use core::ops::ControlFlow;

use obo_edge::action::{Event, Response};
use obo_edge::call::{Call, Source, Turn, Wake};
use obo_edge::failure::{FailureReason, TransportFailure};
use obo_edge::flight::Generation;
use obo_edge::request::{MAX_ASSERTION_BYTES, MAX_LIST_LENGTH, Request, RequestField};
use serde_json::{Value, json};

use crate::world::{
    Answer, CLIENT_SECRET, World, options, options_with, read_options, request_of, request_with, shared,
};

/// What an exchange fails of whose token endpoint answers 200 with this body: reason, field and requests made.
fn misread(body: impl Into<Vec<u8>>) -> (FailureReason, Option<String>, usize) {
    let mut world = World::with_store();
    world.otherwise = Answer::respond(200, body);
    let failure = world.ask(&request_of("ann", "read")).unwrap_err();
    assert_eq!((failure.status, failure.retryable), (Some(200), false), "{failure}");
    assert_eq!((world.stats().memory_entries, world.store.entries.len()), (0, 0));
    assert!(world.took_ms(0) < 1000, "it is not tried again");
    (failure.reason, failure.field.clone(), world.posted.len())
}

#[test]
fn a_response_that_is_no_token_response_is_refused_and_the_member_named() {
    let unread = (FailureReason::InvalidResponse, None, 1);
    let deep = format!(
        "{{\"access_token\":\"t\",\"token_type\":\"Bearer\",\"x\":{}{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    for body in [
        "",
        " ",
        "<!DOCTYPE html><html><body>Sign in</body></html>",
        "null",
        "[]",
        "\"token\"",
        "{",
        "{}x",
        "\u{feff}{}",
        "{\"access_token\":\"t\",\"token_type\":\"Bearer\",\"expires_in\":NaN}",
        "access_token=t&token_type=bearer",
        deep.as_str(),
    ] {
        assert_eq!(misread(body), unread, "{body:.60}");
    }
    assert_eq!(misread([0xff, 0xfe, b'{', b'}']), unread);

    let token = |member: &str, value: Value| {
        let mut body = json!({"access_token": "t", "token_type": "Bearer", "expires_in": 3600});
        body[member] = value;
        body.to_string()
    };
    for (member, values) in [
        (
            "access_token",
            vec![
                json!(null),
                json!(""),
                json!(7),
                json!(["t"]),
                json!("two words"),
                json!("a\r\nX: y"),
                json!("t\u{e4}"),
            ],
        ),
        ("token_type", vec![json!(null), json!(""), json!("DPoP"), json!("mac"), json!("Bearer "), json!(["Bearer"])]),
        (
            "expires_in",
            vec![json!(0), json!(-1), json!("abc"), json!(""), json!("NaN"), json!(true), json!({}), json!(-1e300)],
        ),
    ] {
        for value in values {
            let expected = (FailureReason::InvalidResponse, Some(member.to_owned()), 1);
            assert_eq!(misread(token(member, value.clone())), expected, "{member} {value}");
        }
    }
}

#[test]
fn a_body_of_ten_megabytes_is_refused_and_one_of_a_mebibyte_is_not() {
    let body_of = |bytes: usize| {
        let start = r#"{"access_token":"t","token_type":"Bearer","padding":""#;
        format!("{start}{}\"}}", "x".repeat(bytes - start.len() - 2))
    };
    let mut world = World::new();
    world.otherwise = Answer::respond(200, body_of(10 * 1024 * 1024));
    let failure = world.ask(&request_of("ann", "read")).unwrap_err();
    assert_eq!((failure.reason, world.posted.len()), (FailureReason::InvalidResponse, 1));
    assert!(failure.message.contains("1 MiB"), "{failure}");

    world.otherwise = Answer::respond(200, body_of(1024 * 1024));
    assert_eq!(world.ask(&request_of("ann", "read")).unwrap().0, "t");
    world.otherwise = Answer::respond(200, body_of(1024 * 1024 + 1));
    assert!(world.ask(&request_of("bob", "read")).is_err());
}

#[test]
fn a_response_that_hands_the_users_own_token_back_is_refused() {
    for request in [request_of("ann", "read"), shared(request_of("ann", "read")), request_with("opaque", "read")] {
        let mut world = World::with_store();
        let assertion = request.assertion.reveal();
        world.otherwise = Answer::respond(200, json!({"access_token": assertion, "token_type": "Bearer"}).to_string());
        let failure = world.ask(&request).unwrap_err();
        assert_eq!((failure.reason, failure.field.as_deref()), (FailureReason::InvalidResponse, Some("access_token")));
        assert!(!format!("{failure} {failure:?}").contains(assertion));
        assert_eq!((world.stats().memory_entries, world.store.entries.len()), (0, 0));
    }
}

#[test]
fn a_lifetime_may_come_as_a_string() {
    let mut world = World::new();
    world.otherwise = Answer::token("3600");
    let caller = world.call(&request_of("ann", "read"));
    world.run();
    assert_eq!(world.entry(caller).token.expires_at, crate::world::at(3_600_000));
}

#[test]
fn a_refresh_token_is_kept_nowhere() {
    let mut world = World::with_store();
    let caller = world.call(&request_of("ann", "read"));
    world.run();
    let entry = world.entry(caller);
    assert_eq!(entry.token.access_token.reveal(), "minted~ann~read~1");
    // Its bytes would be among those that the entry is counted with.
    assert_eq!(world.stats().memory_bytes, entry.size() as u64);
    assert!(entry.size() < 256 + "minted~ann~read~1".len() + "refresh-token-that-nobody-keeps".len());
}

// ---------------------------------------------------------------- requests

#[test]
fn what_a_request_lacks_is_named_and_asks_nobody() {
    let without = |field: &str| {
        let mut request = Request::new();
        let all = [
            (RequestField::Assertion, "user.token"),
            (RequestField::Scopes, "read"),
            (RequestField::SubjectIssuer, "https://issuer.example"),
            (RequestField::SubjectId, "ann"),
        ];
        for (part, value) in all.into_iter().filter(|(part, _)| part.name() != field) {
            request.set(part, value).unwrap();
        }
        request
    };
    for field in ["assertion", "scopes", "subject.issuer", "subject.id"] {
        for from_cache in [true, false] {
            let mut world = World::with_store();
            let mut request = without(field);
            request.from_cache = from_cache;
            let failure = world.ask(&request).unwrap_err();
            assert_eq!((failure.reason, failure.field.as_deref()), (FailureReason::InvalidRequest, Some(field)));
            assert!(failure.message.starts_with(field), "{failure}");
            assert_eq!((world.posted.len(), world.store.reads.len()), (0, 0));
            assert_eq!((world.took_ms(0), world.stats().flights), (0, 0));
        }
    }
}

#[test]
fn what_the_grant_has_no_parameter_for_is_named_and_asks_nobody() {
    for (field, value) in [
        (RequestField::Resource, "https://mcp.example"),
        (RequestField::Audience, "files"),
        (RequestField::ActorToken, "actor.token"),
        (RequestField::AssertionType, "urn:ietf:params:oauth:token-type:jwt"),
    ] {
        let mut world = World::new();
        let mut request = request_of("ann", "read");
        request.set(field, value).unwrap();
        let failure = world.ask(&request).unwrap_err();
        assert_eq!((failure.reason, failure.field.as_deref()), (FailureReason::InvalidRequest, Some(field.name())));
        assert_eq!(world.posted.len(), 0);
    }
}

#[test]
fn the_type_of_an_actor_token_is_not_silently_ignored_by_a_grant_without_actors() {
    let mut world = World::new();
    let mut request = request_of("ann", "read");
    request.set(RequestField::ActorTokenType, "urn:ietf:params:oauth:token-type:jwt").unwrap();
    let failure = world.ask(&request).map(|_| ()).map_err(|failure| failure.field.clone());
    assert_eq!(failure, Err(Some("actorTokenType".to_owned())));
}

#[test]
fn wrong_values_of_a_request_are_refused_by_name_and_never_quoted() {
    let long = "a".repeat(MAX_ASSERTION_BYTES + 1);
    let control = "hunter2\u{7}";
    for (field, values) in [
        (RequestField::Assertion, vec!["", "two words", "a\nb", "t\u{f6}ken", "\u{fffd}", control, long.as_str()]),
        (RequestField::Scopes, vec!["", "a\"b", "a\\b", "a\tb", "\u{e4}", control, long.as_str()]),
        (RequestField::Claims, vec!["", "hunter2", "[]", "{", "null", long.as_str()]),
        (RequestField::SubjectIssuer, vec!["", control, "\u{fffd}", long.as_str()]),
        (RequestField::SubjectTenant, vec!["", control, "\u{fffd}", long.as_str()]),
        (RequestField::SubjectId, vec!["", control, "\u{fffd}", long.as_str()]),
        (RequestField::SubjectContext, vec!["", control, "\u{fffd}", long.as_str()]),
    ] {
        for value in values {
            let failure = Request::new().set(field, value).unwrap_err();
            assert_eq!((failure.reason, failure.field.as_deref()), (FailureReason::InvalidRequest, Some(field.name())));
            assert!(failure.message.starts_with(field.name()) && !failure.message.contains("hunter2"), "{failure}");
            assert!(failure.message.len() < 200);
        }
    }
}

#[test]
fn lists_are_bounded() {
    let scopes = |count: usize| (0..count).map(|number| format!("scope{number}")).collect::<Vec<_>>().join(" ");
    let mut request = Request::new();
    assert!(request.set(RequestField::Scopes, &scopes(MAX_LIST_LENGTH)).is_ok());
    assert!(request.set(RequestField::Scopes, "one-more").is_err());
    let mut request = Request::new();
    for number in 0..MAX_LIST_LENGTH {
        request.set(RequestField::Audience, &format!("audience{number}")).unwrap();
    }
    assert_eq!(request.set(RequestField::Audience, "one-more").unwrap_err().field.as_deref(), Some("audience"));
}

// ---------------------------------------------------------------- options

#[test]
fn wrong_options_are_refused_by_name_and_never_quoted() {
    let case = |name: &str, value: Value| (name.to_owned(), options_with(name, value));
    let mut cases = Vec::new();
    for url in [
        "",
        " ",
        "login.example/token",
        "http://login.example/token",
        "ftp://login.example",
        "https://",
        "https://user@login.example/token",
        "https://user:hunter2@login.example/token",
        "https://login.example\\@evil.example",
        "https://login.example/to\tken",
        "https://login.example/\n",
        "https://login.example/token#",
        "https://login.example/#x",
        "http://localhost.evil.example/token",
        "http://127.0.0.1.evil.example",
        "javascript:alert(1)",
        "data:,x",
        "https://l\u{f6}gin.example/token",
        "https://login.example:99999/token",
    ] {
        cases.push(case("tokenEndpoint", json!(url)));
        cases.push(case("issuer", json!(url)));
    }
    for value in [json!(""), json!(" "), json!(7), json!({}), json!([])] {
        cases.push(case("clientId", value));
    }
    for value in [
        json!("x"),
        json!({}),
        json!([]),
        json!({"method": "none", "clientSecret": "hunter2"}),
        json!({"method": "client_secret_post"}),
        json!({"method": "client_assertion"}),
        json!({"method": "client_assertion", "clientAssertion": false}),
        json!({"method": "client_assertion", "clientAssertion": "hunter2"}),
        json!({"method": "private_key_jwt", "algorithm": "ES256"}),
        json!({"method": "private_key_jwt", "key": true}),
        json!({"method": "private_key_jwt", "key": true, "algorithm": "HS256"}),
        json!({"method": "private_key_jwt", "key": false, "algorithm": "ES256"}),
        json!({"method": "private_key_jwt", "key": "hunter2", "algorithm": "ES256"}),
        json!({"method": "private_key_jwt", "algorithm": "ES256", "key": {"kty": "EC", "crv": "P-256", "d": "hunter2", "use": "enc"}}),
        json!({"method": "private_key_jwt", "algorithm": "ES256", "key": {"kty": "EC", "crv": "P-384", "d": "hunter2"}}),
        json!({"method": "private_key_jwt", "algorithm": "ES256", "key": {"kty": "EC", "crv": "P-256"}}),
        json!({"method": "private_key_jwt", "algorithm": "PS256", "key": {"kty": "EC", "crv": "P-256", "d": "hunter2"}}),
        json!({"method": "private_key_jwt", "key": true, "algorithm": "ES256", "certificate": "hunter2"}),
        json!({"method": "private_key_jwt", "key": true, "algorithm": "ES256", "kid": 7}),
    ] {
        cases.push(case("clientAuthentication", value));
    }
    for secret in [json!(""), json!("  "), json!(7), json!(null)] {
        let authentication = json!({"method": "client_secret_basic", "clientSecret": secret});
        cases.push(case("clientAuthentication", authentication));
    }
    for value in [json!(0), json!(999), json!(25_001), json!(-1), json!("10000"), json!(1e300), json!(1500.5)] {
        cases.push(case("timeoutMs", value));
    }
    for value in [json!("hunter2"), json!(["", store()]), json!([7]), json!([store(), "short"])] {
        cases.push(case("storeSecrets", value));
    }
    for value in
        [json!({"attempts": 0}), json!({"attempts": 6}), json!({"delayMs": -1}), json!({"retries": 2}), json!(3)]
    {
        cases.push(case("retry", value));
    }
    cases.extend([
        case("grant", json!("password")),
        case("maxLifetimeMs", json!(0)),
        case("clientSecret", json!("hunter2")),
        case("inspectAssertion", json!("hunter2")),
        case("resourceAuthorizationServer", json!({"issuer": "https://resource.example"})),
        case("issuer", json!("https://login.example/?tenant=hunter2")),
    ]);
    for (name, options) in cases {
        let failure = read_options(options, false).unwrap_err();
        let field = failure.field.clone().unwrap();
        assert_eq!(failure.reason, FailureReason::Misconfigured);
        assert!(field == name || field.starts_with(&format!("{name}.")), "{field} is not {name}");
        assert!(failure.message.starts_with(&field), "{failure}");
        for secret in ["hunter2", CLIENT_SECRET] {
            assert!(!format!("{failure} {failure:?}").contains(secret), "{failure:?}");
        }
    }
    for name in ["tokenEndpoint", "clientId", "clientAuthentication"] {
        let mut options = options();
        options.as_object_mut().unwrap().remove(name);
        assert_eq!(read_options(options, false).unwrap_err().field.as_deref(), Some(name));
    }
    assert_eq!(read_options(options(), true).unwrap_err().field.as_deref(), Some("storeSecrets"));
    for options in [json!(null), json!([]), json!("x")] {
        assert_eq!(read_options(options, false).unwrap_err().reason, FailureReason::Misconfigured);
    }
}

fn store() -> String {
    crate::world::store_secret('a')
}

// ---------------------------------------------------------------- the host

/// A flight that has come to this step, and its leader.
fn flight_at(world: &mut World, step: usize) -> (Call, Generation) {
    let now = world.now();
    let (mut call, turn) = Call::begin(&mut world.exchanger, &request_of("ann", "read"), now);
    let Turn::Lead(generation) = turn else { panic!("{turn:?}") };
    let failed = || Event::Responded(Response { status: 503, retry_after: None, body: Vec::new() });
    let events = [Event::Begun([3; 32]), Event::StoreRead(None), failed()];
    for event in events.into_iter().take(step) {
        assert!(matches!(world.exchanger.step(generation, now, event), ControlFlow::Continue(_)));
    }
    call.wait_ms(&world.exchanger, now);
    (call, generation)
}

fn token_response() -> Response {
    let body = br#"{"access_token":"token","token_type":"Bearer","expires_in":3600}"#.to_vec();
    Response { status: 200, retry_after: None, body }
}

#[test]
fn an_event_that_does_not_fit_ends_the_flight_in_a_failure_and_the_key_lives_on() {
    // What fits: Begun at first, then an answer of the store, then one of the token endpoint, then the end of a sleep.
    let fits = |step: usize, event: &Event| match event {
        Event::Begun(_) => step == 0,
        Event::StoreRead(_) | Event::StoreFailed => step == 1,
        Event::Responded(_) | Event::TransportFailed(_) => step == 2,
        Event::Slept => step == 3,
        Event::ClientAssertion(_) | Event::ClientAssertionFailed => false,
        Event::Coordinated(_) | Event::CoordinatorFailed => false,
    };
    for step in 0..4 {
        let events = [
            Event::Begun([9; 32]),
            Event::StoreRead(None),
            Event::StoreRead(Some("1.AAAA".into())),
            Event::StoreFailed,
            Event::Responded(token_response()),
            Event::TransportFailed(TransportFailure::Network),
            Event::Slept,
            crate::world::client_assertion("a.b.c"),
            Event::ClientAssertionFailed,
        ];
        for event in events.into_iter().filter(|event| !fits(step, event)) {
            let mut world = World::with_store();
            let now = world.now();
            let about = format!("{event:?} at step {step}");
            let (mut leader, generation) = flight_at(&mut world, step);
            assert!(matches!(world.exchanger.step(generation, now, event), ControlFlow::Break(None)), "{about}");
            let turn = leader.wake(&mut world.exchanger, &request_of("ann", "read"), now, Wake::Rang);
            let Turn::Fail(failure) = turn else { panic!("{about}: {turn:?}") };
            assert!(!failure.retryable, "{about}: {failure}");
            assert_eq!(world.stats().memory_entries, 0, "{about}");
            assert_eq!(world.ask(&request_of("ann", "read")).unwrap().1, Source::Issuer, "{about}");
        }
    }
}

#[test]
fn what_is_reported_of_a_flight_that_has_landed_or_never_was_changes_nothing() {
    let mut world = World::with_store();
    let now = world.now();
    let (mut leader, generation) = flight_at(&mut world, 2);
    let landed = world.exchanger.step(generation, now, Event::Responded(token_response()));
    assert!(matches!(landed, ControlFlow::Break(Some(_))));
    let stats = world.stats();
    for event in
        [Event::Begun([1; 32]), Event::StoreRead(None), Event::Slept, Event::TransportFailed(TransportFailure::Network)]
    {
        assert!(matches!(world.exchanger.step(generation, now, event), ControlFlow::Break(None)));
    }
    let impostor = br#"{"access_token":"impostor","token_type":"Bearer"}"#.to_vec();
    let event = Event::Responded(Response { status: 200, retry_after: None, body: impostor });
    assert!(matches!(world.exchanger.step(generation, now, event), ControlFlow::Break(None)));
    for never in [0, 99, u64::MAX] {
        let event = Event::Responded(token_response());
        assert!(matches!(world.exchanger.step(Generation(never), now, event), ControlFlow::Break(None)));
    }
    assert_eq!(world.stats(), stats);
    let turn = leader.wake(&mut world.exchanger, &request_of("ann", "read"), now, Wake::Rang);
    let Turn::Answer(entry, Source::Issuer) = turn else { panic!("{turn:?}") };
    assert_eq!(entry.token.access_token.reveal(), "token");
}

#[test]
fn a_call_that_is_woken_for_a_flight_that_never_was_begins_anew() {
    let mut world = World::new();
    let now = world.now();
    for wake in [Wake::Rang, Wake::Orphaned] {
        let request = request_of(&format!("{wake:?}"), "read");
        let (mut call, turn) = Call::begin(&mut world.exchanger, &request, now);
        assert!(matches!(turn, Turn::Lead(_)));
        call.generation = Generation(1_000_000);
        assert!(call.wait_ms(&world.exchanger, now) <= 1);
        assert!(matches!(call.wake(&mut world.exchanger, &request, now, wake), Turn::Wait(_)));
    }
}
