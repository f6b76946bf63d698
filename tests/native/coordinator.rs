//! The coordinator: when it is asked, what it is told, and that nothing depends on it.

use obo_edge::action::Event;
use obo_edge::call::Source;
use obo_edge::failure::FailureReason;
use obo_edge::journal::EventKind;
use obo_edge::request::{Request, RequestField};
use obo_edge::secret::Secret;
use serde_json::{Value, json};

use crate::world::{
    Answer, BELLS, MINUTE, SECOND, Step, TIMEOUT, World, anew, options_with, reason, request_of, shared, store_secret,
};

fn ann() -> Request {
    request_of("ann", "read")
}

fn options() -> Value {
    let mut options = options_with("storeSecrets", json!(store_secret('a')));
    options["coordinator"] = json!(true);
    options
}

/// An isolate with a store and a coordinator.
fn world() -> World {
    World::with_options(options(), true)
}

/// What a coordinator answers that has the token for `request` from there.
fn sealed(mut options: Value, request: &Request, source: Source) -> Event {
    options["coordinator"] = json!(true);
    let mut coordinator = World::with_options(options, false);
    let caller = coordinator.call(request);
    coordinator.run();
    let entry = coordinator.entry(caller);
    let now = coordinator.now();
    let answer = coordinator.exchanger.sealed_answer(request, &entry, source, [9; 12], now);
    Event::Coordinated(Secret::new(answer.unwrap()))
}

fn failed(members: &Value) -> Event {
    Event::Coordinated(Secret::new(members.to_string()))
}

#[test]
fn who_is_not_answered_by_memory_or_store_asks_the_coordinator_and_sends_no_token_request() {
    for (source, expected, stored) in [
        (Source::Issuer, Source::Issuer, 1),
        (Source::Flight, Source::Flight, 0),
        (Source::Store, Source::Store, 0),
        (Source::Memory, Source::Store, 0),
    ] {
        let mut world = world();
        world.coordinator_answers.push_back((5, sealed(options(), &ann(), source)));
        assert_eq!(world.ask(&ann()).unwrap(), ("minted~ann~read~1".to_owned(), expected));
        assert_eq!((world.posted.len(), world.store.entries.len()), (0, stored), "{source:?}");
        assert_eq!(world.ask(&ann()).unwrap().1, Source::Memory);
        let stats = world.stats();
        assert_eq!((stats.coordinator_hits, stats.coordinator_failures, stats.token_requests), (1, 0, 0));
        assert_eq!(world.coordinator_asked.len(), 1);
    }
}

#[test]
fn a_store_hit_asks_nobody() {
    let mut world = world();
    world.ask(&ann()).unwrap();
    world.new_isolate_with(options());
    assert_eq!(world.ask(&ann()).unwrap().1, Source::Store);
    assert_eq!(world.coordinator_asked.len(), 1);
}

#[test]
fn its_object_is_named_as_the_entry_in_the_store_and_is_told_the_request() {
    let mut world = world();
    let mut request = ann();
    request.set(RequestField::Claims, "{\"a\":1}").unwrap();
    world.ask(&request).unwrap();
    world.ask(&anew(request.clone())).unwrap();
    let (name, told) = &world.coordinator_asked[0];
    assert_eq!(world.store.entries.keys().collect::<Vec<_>>(), [name]);
    assert_eq!(told.fields().collect::<Vec<_>>(), request.fields().collect::<Vec<_>>());
    assert_eq!((told.from_cache, world.coordinator_asked[1].1.from_cache), (true, false));
    let name = name.clone();
    assert!(world.exchanger.is_named(&request, &name).unwrap());
    for other in [ann(), request_of("bob", "read"), request_of("ann", "write"), shared(request)] {
        assert!(!world.exchanger.is_named(&other, &name).unwrap(), "{other:?}");
    }
}

#[test]
fn an_object_named_by_any_listed_secret_is_the_one() {
    let mut world = world();
    world.ask(&ann()).unwrap();
    let (name, _) = world.coordinator_asked.remove(0);
    let mut rotated = options();
    rotated["storeSecrets"] = json!([store_secret('b'), store_secret('a')]);
    let mut rotated = World::with_options(rotated, true);
    assert!(rotated.exchanger.is_named(&ann(), &name).unwrap());
    rotated.ask(&ann()).unwrap();
    assert_ne!(rotated.coordinator_asked[0].0, name, "the newest names");
}

#[test]
fn where_it_is_absent_slow_or_answers_noise_the_isolate_exchanges_by_itself() {
    for (after_ms, event) in [
        (5, Event::CoordinatorFailed),
        (u64::MAX, Event::CoordinatorFailed),
        (5, Event::Coordinated(Secret::new(""))),
        (5, Event::Coordinated(Secret::new("issuer"))),
        (5, Event::Coordinated(Secret::new("issuer 2.AAAA"))),
        (5, Event::Coordinated(Secret::new("elsewhere 2.AAAA"))),
        (5, failed(&json!({"reason": "magic"}))),
        // Sealed for another user, for other scopes, by another secret.
        (5, sealed(options(), &request_of("bob", "read"), Source::Issuer)),
        (5, sealed(options(), &request_of("ann", "write"), Source::Issuer)),
        (5, sealed(options_with("storeSecrets", json!(store_secret('z'))), &ann(), Source::Issuer)),
        // What it found by itself: it may be alone with it.
        (5, failed(&json!({"reason": "unavailable", "message": "m", "retryable": true}))),
        (5, failed(&json!({"reason": "misconfigured", "message": "m", "retryable": false, "field": "clientId"}))),
    ] {
        let shown = format!("{event:?}");
        let mut world = world();
        world.coordinator_answers.push_back((after_ms, event));
        let caller = world.call(&ann());
        world.run();
        assert_eq!(world.result(caller).unwrap(), ("minted~ann~read~1".to_owned(), Source::Issuer), "{shown}");
        assert_eq!((world.posted.len(), world.stats().coordinator_failures), (1, 1), "{shown}");
        assert!(world.events.iter().any(|event| event.kind == EventKind::CoordinatorFailure));
        assert!(world.took_ms(caller) <= TIMEOUT, "{shown}");
        world.assert_nothing_is_left();
    }
}

#[test]
fn it_gets_sixty_percent_of_the_time_and_the_own_exchange_the_rest() {
    let mut world = world();
    world.coordinator_answers.push_back((u64::MAX, Event::CoordinatorFailed));
    world.ask(&ann()).unwrap();
    assert_eq!(world.posted[0].sent_ms, 6 * SECOND);
    let mut slow = World::with_options(options(), true);
    slow.store.read_after_ms = 1400;
    slow.coordinator_answers.push_back((u64::MAX, Event::CoordinatorFailed));
    slow.ask(&ann()).unwrap();
    assert_eq!(slow.posted[0].sent_ms, 6 * SECOND, "the store's time is taken from the coordinator");
}

#[test]
fn what_a_server_answered_there_is_final_and_everybodys_who_waits() {
    for (members, expected) in [
        (
            json!({"reason": "interaction_required", "message": "m", "retryable": false, "status": 400, "claims": "{\"a\":1}"}),
            FailureReason::InteractionRequired,
        ),
        (
            json!({"reason": "assertion_rejected", "message": "m", "retryable": false, "status": 400}),
            FailureReason::AssertionRejected,
        ),
        (
            json!({"reason": "unavailable", "message": "m", "retryable": true, "status": 503}),
            FailureReason::Unavailable,
        ),
    ] {
        let mut world = world();
        world.coordinator_answers.push_back((50, failed(&members)));
        let callers: Vec<usize> = (0..10).map(|_| world.call(&ann())).collect();
        world.run();
        for caller in callers {
            let failure = world.result(caller).unwrap_err();
            assert_eq!((failure.reason, failure.claims.as_deref()), (expected, members["claims"].as_str()));
        }
        assert_eq!((world.posted.len(), world.coordinator_asked.len()), (0, 1));
    }
}

#[test]
fn a_failure_from_there_is_remembered_and_a_throttle_holds_here() {
    let mut world = world();
    world
        .coordinator_answers
        .push_back((5, failed(&json!({"reason": "blocked", "message": "m", "retryable": false, "status": 400}))));
    assert_eq!(reason(world.ask(&ann())), FailureReason::Blocked);
    assert_eq!(reason(world.ask(&ann())), FailureReason::Blocked);
    assert_eq!(world.coordinator_asked.len(), 1);
    let told = json!({"reason": "throttled", "message": "m", "retryable": true, "status": 429, "retryAfter": 30});
    world.coordinator_answers.push_back((5, failed(&told)));
    assert_eq!(reason(world.ask(&request_of("bob", "read"))), FailureReason::Throttled);
    let failure = world.ask(&request_of("eve", "read")).unwrap_err();
    assert_eq!((failure.reason, failure.retry_after), (FailureReason::Throttled, Some(30)));
    assert_eq!((world.coordinator_asked.len(), world.posted.len()), (2, 0), "nobody is asked on behalf of Eve");
}

#[test]
fn a_token_that_was_evicted_here_is_not_taken_from_there() {
    let mut world = world();
    world.coordinator_answers.push_back((5, sealed(options(), &ann(), Source::Issuer)));
    world.ask(&ann()).unwrap();
    world.advance(MINUTE);
    world.evict(&ann());
    world.coordinator_answers.push_back((5, sealed(options(), &ann(), Source::Store)));
    assert_eq!(world.ask(&ann()).unwrap().1, Source::Issuer);
    assert_eq!((world.posted.len(), world.stats().coordinator_failures), (1, 1));
}

#[test]
fn a_token_in_its_last_minutes_is_a_last_resort_from_there_too() {
    let mut world = world();
    let old = sealed(options(), &ann(), Source::Store);
    world.advance(57 * MINUTE);
    world.coordinator_answers.push_back((5, old));
    world.otherwise = Answer::respond(503, "");
    assert_eq!(world.ask(&ann()).unwrap(), ("minted~ann~read~1".to_owned(), Source::Memory));
    assert_eq!(world.stats().last_resorts, 1);
}

#[test]
fn a_leader_that_leaves_while_the_coordinator_is_asked_leaves_nobody_behind() {
    for bell in BELLS {
        let mut world = world();
        world.vanish_at.push((Step::Coordinating, bell));
        world.coordinator_answers.push_back((SECOND, sealed(options(), &ann(), Source::Issuer)));
        world.coordinator_answers.push_back((SECOND, sealed(options(), &ann(), Source::Store)));
        let callers: Vec<usize> = (0..5).map(|_| world.call(&ann())).collect();
        world.run();
        assert!(world.is_gone(callers[0]));
        for caller in &callers[1..] {
            assert_eq!(world.result(*caller).unwrap().0, "minted~ann~read~1");
            assert!(world.took_ms(*caller) <= TIMEOUT);
        }
        assert_eq!(world.posted.len(), 0);
        world.assert_nothing_is_left();
    }
}

#[test]
fn without_a_store_it_is_asked_at_once_and_nothing_is_written() {
    let mut world = World::with_options(options(), false);
    world.coordinator_answers.push_back((5, sealed(options(), &ann(), Source::Issuer)));
    let caller = world.call(&ann());
    world.run();
    assert_eq!((world.took_ms(caller), world.store.reads.len(), world.store.entries.len()), (5, 0, 0));
}

#[test]
fn a_renewal_that_brings_the_same_token_is_not_begun_again_within_a_minute() {
    let mut world = world();
    let answer = || (5, sealed(options(), &ann(), Source::Store));
    world.coordinator_answers.extend([answer(), answer()]);
    world.ask(&ann()).unwrap();
    world.advance(50 * MINUTE);
    for _ in 0..5 {
        assert_eq!(world.ask(&ann()).unwrap().1, Source::Memory);
    }
    assert_eq!((world.stats().renewals, world.coordinator_asked.len(), world.posted.len()), (1, 2, 0));
}

#[test]
fn of_two_servers_a_throttle_that_the_coordinator_met_holds_neither() {
    let server = |place: &str| {
        json!({
            "issuer": format!("https://{place}.example"), "tokenEndpoint": format!("https://{place}.example/token"),
            "clientId": "gateway", "clientAuthentication": {"method": "client_secret_post", "clientSecret": "s"},
        })
    };
    let mut two = server("idp");
    two["grant"] = json!("identity-assertion");
    two["resourceAuthorizationServer"] = server("resource");
    two["inspectAssertion"] = json!(false);
    two["coordinator"] = json!(true);
    two["storeSecrets"] = json!(store_secret('a'));
    let mut world = World::with_options(two, false);
    let asked = |user| {
        let mut request = request_of(user, "read");
        request.set(RequestField::Resource, "https://mcp.example").unwrap();
        request
    };
    let told = json!({"reason": "throttled", "message": "m", "retryable": true, "status": 429});
    world.coordinator_answers.push_back((5, failed(&told)));
    assert_eq!(reason(world.ask(&asked("ann"))), FailureReason::Throttled);
    let _ = world.ask(&asked("bob"));
    assert_eq!((world.coordinator_asked.len(), world.stats().throttles), (2, 0));
}

#[test]
fn what_was_evicted_while_it_was_made_answers_its_callers_there_and_no_isolate() {
    let mut coordinator = World::with_options(options(), false);
    coordinator.otherwise = Answer::token(3600).after(SECOND);
    let caller = coordinator.call(&ann());
    coordinator.advance(100);
    coordinator.evict(&ann());
    coordinator.run();
    let entry = coordinator.entry(caller);
    let now = coordinator.now();
    // Whoever asked had not heard of the eviction, and would keep it.
    assert_eq!(coordinator.exchanger.sealed_answer(&ann(), &entry, Source::Issuer, [9; 12], now), None);
    let caller = coordinator.call(&ann());
    coordinator.run();
    let (entry, now) = (coordinator.entry(caller), coordinator.now());
    assert!(coordinator.exchanger.sealed_answer(&ann(), &entry, Source::Issuer, [9; 12], now).is_some());
}
