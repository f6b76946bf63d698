//! Who is held back when the identity provider throttles, and for how long.

use obo_edge::call::Source;
use obo_edge::failure::{Failure, FailureReason};
use obo_edge::journal::EventKind;
use obo_edge::request::Request;
use serde_json::json;

use crate::world::{Answer, HOUR, MINUTE, SECOND, World, anew, options_with, reason, request_of};

fn of(user: &str) -> Request {
    request_of(user, "read")
}

fn too_many(retry_after: Option<&str>) -> Answer {
    let answer = Answer::respond(429, "");
    retry_after.map_or(answer.clone(), |seconds| answer.retry_after(seconds))
}

/// A world whose client was told 429 a moment ago.
fn held(retry_after: Option<&str>) -> World {
    let mut world = World::with_options(options_with("retry", json!({"attempts": 1})), false);
    world.answers.push_back(too_many(retry_after));
    assert_eq!(reason(world.ask(&of("ann"))), FailureReason::Throttled);
    world
}

fn refused(world: &mut World, request: &Request) -> Failure {
    world.ask(request).unwrap_err()
}

#[test]
fn after_a_429_no_request_of_the_client_leaves_until_the_wait_is_over() {
    for (retry_after, seconds) in [(None, 60), (Some("20"), 20), (Some("86400"), 3600)] {
        let mut world = held(retry_after);
        let failure = refused(&mut world, &of("bob"));
        assert_eq!(
            (failure.reason, failure.status, failure.retry_after),
            (FailureReason::Throttled, Some(429), Some(seconds))
        );
        assert!(failure.retryable);
        assert_eq!(reason(world.ask(&anew(of("ann")))), FailureReason::Throttled, "past the caches, too");
        assert_eq!((world.posted.len(), world.stats().throttles), (1, 2));
        world.advance(2 * SECOND);
        assert_eq!(refused(&mut world, &of("bob")).retry_after, Some(seconds - 2));
        world.advance(seconds * SECOND);
        assert_eq!(world.ask(&of("bob")).unwrap().1, Source::Issuer);
    }
}

#[test]
fn one_request_every_five_seconds_finds_out_whether_it_is_over() {
    let mut world = held(Some("3600"));
    world.otherwise = too_many(Some("3600"));
    world.advance(5 * SECOND);
    let callers: Vec<usize> = (0..50).map(|number| world.call(&of(&format!("user{number}")))).collect();
    world.run();
    assert_eq!(world.posted.len(), 2, "one probe");
    assert!(callers.into_iter().all(|caller| reason(world.result(caller)) == FailureReason::Throttled));
    world.otherwise = Answer::token(3600);
    world.advance(5 * SECOND);
    assert_eq!(world.ask(&of("bob")).unwrap().1, Source::Issuer);
    assert_eq!(world.ask(&of("eve")).unwrap().1, Source::Issuer, "the hold is lifted");
}

#[test]
fn a_probe_that_is_refused_for_another_reason_lifts_the_hold_and_one_that_breaks_does_not() {
    for (answer, lifted) in [
        (Answer::error(400, "invalid_grant", &[500_133]), true),
        (Answer::respond(503, ""), false),
        (Answer::transport(obo_edge::failure::TransportFailure::Network), false),
    ] {
        let mut world = held(Some("3600"));
        world.advance(5 * SECOND);
        world.answers.push_back(answer.clone());
        assert!(world.ask(&of("bob")).is_err());
        assert_eq!(world.ask(&of("eve")).is_ok(), lifted, "{answer:?}");
    }
}

#[test]
fn the_second_try_of_who_was_told_first_lifts_the_hold() {
    let mut world = World::new();
    world.answers.push_back(too_many(None));
    assert_eq!(world.ask(&of("ann")).unwrap().1, Source::Issuer);
    assert_eq!(world.ask(&of("bob")).unwrap().1, Source::Issuer);
    assert_eq!(world.posted.len(), 3);
}

#[test]
fn of_many_who_are_told_at_once_only_the_first_tries_again() {
    let mut world = World::new();
    world.otherwise = too_many(None);
    for number in 0..20 {
        world.call(&of(&format!("user{number}")));
    }
    world.run();
    assert_eq!(world.posted.len(), 21);
}

#[test]
fn a_throttled_user_of_entra_holds_nobody_else_and_is_not_probed() {
    let mut world = World::new();
    world.answers.push_back(Answer::error(400, "invalid_grant", &[50196]));
    assert_eq!(reason(world.ask(&of("ann"))), FailureReason::Throttled);
    assert_eq!(world.ask(&of("bob")).unwrap().1, Source::Issuer);
    world.advance(59 * SECOND);
    // For whatever else she asks.
    for request in [of("ann"), request_of("ann", "write"), anew(of("ann"))] {
        assert_eq!(refused(&mut world, &request).retry_after, Some(1));
    }
    assert_eq!(world.posted.len(), 2);
    world.advance(SECOND);
    assert_eq!(world.ask(&of("ann")).unwrap().1, Source::Issuer);
}

#[test]
fn code_90055_holds_the_client_as_a_429_does() {
    for codes in [&[90055][..], &[50196, 90055]] {
        let mut world = World::new();
        world.answers.push_back(Answer::error(400, "invalid_grant", codes));
        assert_eq!(reason(world.ask(&of("ann"))), FailureReason::Throttled);
        assert_eq!(reason(world.ask(&of("bob"))), FailureReason::Throttled);
        assert_eq!(world.posted.len(), 1);
    }
}

#[test]
fn what_is_kept_is_served_while_the_client_is_held() {
    let mut world = World::with_store();
    world.ask(&of("ann")).unwrap();
    world.new_isolate();
    world.answers.push_back(too_many(Some("60")));
    assert_eq!(reason(world.ask(&of("bob"))), FailureReason::Throttled);
    assert_eq!(world.ask(&of("ann")).unwrap().1, Source::Store);
    assert_eq!(world.ask(&of("ann")).unwrap().1, Source::Memory);
    // In its last minutes, too.
    world.advance(57 * MINUTE);
    world.answers.push_back(too_many(Some("60")));
    assert_eq!(reason(world.ask(&of("bob"))), FailureReason::Throttled);
    assert_eq!(world.ask(&of("ann")).unwrap().1, Source::Memory);
    assert_eq!(world.stats().last_resorts, 1);
}

#[test]
fn a_clock_that_jumps_back_an_hour_ends_the_hold() {
    let mut world = held(Some("60"));
    world.clock_jumps(-(HOUR as i64));
    assert_eq!(world.ask(&of("bob")).unwrap().1, Source::Issuer);
}

#[test]
fn a_held_request_is_an_event_with_its_reason() {
    let mut world = held(None);
    world.ask(&of("bob")).unwrap_err();
    let event = world.events.iter().find(|event| event.kind == EventKind::Throttle).unwrap();
    assert_eq!((event.reason, event.status), (Some(FailureReason::Throttled), Some(429)));
}
