//! Renewal ahead: a hit in the last fifth of an entry's serving time is answered at once and renewed behind it.

use obo_edge::call::Source;
use obo_edge::failure::FailureReason;
use obo_edge::journal::EventKind;
use obo_edge::request::Request;
use serde_json::{Value, json};

use crate::world::{
    Answer, BELLS, HOUR, MINUTE, Posted, SECOND, Step, World, assertion, at, reason, request_of, request_with, shared,
};

/// A token of an hour serves for 55 minutes, and is renewed from the 44th on.
const RENEWED_FROM: u64 = 44 * MINUTE;
const SERVED_UNTIL: u64 = 55 * MINUTE;

fn ann() -> Request {
    request_of("ann", "read")
}

/// A world in which Ann has had a token for so long.
fn after(milliseconds: u64) -> World {
    let mut world = World::new();
    world.ask(&ann()).unwrap();
    world.advance(milliseconds - world.real_ms());
    world
}

/// A token of an hour whose response has a `refresh_in`.
fn with_refresh_in(refresh_in: Value) -> Answer {
    let body =
        json!({"access_token": "refreshable", "token_type": "Bearer", "expires_in": 3600, "refresh_in": refresh_in});
    Answer::respond(200, body.to_string())
}

#[test]
fn a_hit_before_the_last_fifth_renews_nothing() {
    let mut world = after(RENEWED_FROM - 1);
    assert_eq!(world.ask(&ann()).unwrap().1, Source::Memory);
    assert_eq!((world.posted.len(), world.stats().renewals), (1, 0));
}

#[test]
fn a_hit_in_the_last_fifth_is_answered_at_once_and_renewed_once_behind_it() {
    let mut world = after(RENEWED_FROM);
    let callers: Vec<usize> = (0..100).map(|_| world.call(&ann())).collect();
    world.run();
    for caller in callers {
        assert_eq!(world.result(caller).unwrap(), ("minted~ann~read~1".to_owned(), Source::Memory));
        assert_eq!(world.took_ms(caller), 0);
    }
    assert_eq!((world.posted.len(), world.stats().renewals), (2, 1));
    assert_eq!(world.ask(&ann()).unwrap(), ("minted~ann~read~2".to_owned(), Source::Memory));
    world.advance(SERVED_UNTIL);
    assert_eq!(world.stats().memory_hits, 101);
    world.assert_nothing_is_left();
}

#[test]
fn a_renewal_waits_a_little_that_differs_and_never_longer_than_a_quarter_of_what_is_left() {
    let mut waits = std::collections::BTreeSet::new();
    for user in 0..30 {
        let mut world = World::new();
        // The number of a flight is what its random bytes are made of here.
        for other in 0..user {
            world.ask(&request_of(&format!("other{other}"), "read")).unwrap();
        }
        let begun = world.real_ms();
        world.ask(&ann()).unwrap();
        world.advance(begun + RENEWED_FROM + MINUTE - world.real_ms());
        world.ask(&ann()).unwrap();
        assert!(world.slept[0] <= 2 * SECOND);
        waits.insert(world.slept[0]);
    }
    assert!(waits.len() > 20, "{waits:?}");
    let mut world = World::new();
    world.otherwise = Answer::token(10).after(1);
    world.ask(&ann()).unwrap();
    world.advance(4900 - world.real_ms());
    world.ask(&ann()).unwrap();
    assert!(world.slept[0] <= 25, "{:?}", world.slept);
}

#[test]
fn the_response_may_say_when_to_renew_and_nonsense_says_nothing() {
    for (refresh_in, renews) in [
        (json!(600), true),
        (json!("600"), true),
        (json!(-5), false),
        (json!(0), false),
        (json!("soon"), false),
        (json!({}), false),
        (json!(1e18), false),
        (json!(null), false),
    ] {
        let mut world = World::new();
        world.otherwise = with_refresh_in(refresh_in.clone());
        world.ask(&ann()).unwrap();
        world.advance(10 * MINUTE);
        assert_eq!(world.ask(&ann()).unwrap().1, Source::Memory);
        assert_eq!(world.posted.len() == 2, renews, "{refresh_in}");
    }
}

#[test]
fn a_renewal_that_fails_costs_nobody_anything_and_is_tried_again_a_minute_later() {
    for failing in [
        Answer::respond(503, ""),
        Answer::never(),
        Answer::respond(200, "<html>"),
        Answer::error(400, "invalid_grant", &[500_133]),
        Answer::error(400, "interaction_required", &[50076]),
        Answer::error(400, "invalid_grant", &[50196]),
    ] {
        let mut world = after(RENEWED_FROM);
        world.otherwise = failing.clone();
        for _ in 0..3 {
            let caller = world.call(&ann());
            world.run();
            assert_eq!(world.result(caller).unwrap(), ("minted~ann~read~1".to_owned(), Source::Memory), "{failing:?}");
            assert_eq!(world.took_ms(caller), 0);
        }
        assert_eq!(world.stats().renewals, 1, "{failing:?}");
        assert_eq!(world.stats().last_resorts, 0, "nobody needed one: {failing:?}");
        world.otherwise = Answer::token(3600);
        world.advance(MINUTE + 10 * SECOND);
        world.ask(&ann()).unwrap();
        assert_eq!(world.stats().renewals, 2, "{failing:?}");
        assert_ne!(world.ask(&ann()).unwrap().0, "minted~ann~read~1", "{failing:?}");
        world.assert_nothing_is_left();
    }
}

#[test]
fn past_its_serving_time_a_token_is_a_last_resort_until_ten_seconds_before_it_ends_and_never_later() {
    let mut world = after(SERVED_UNTIL + MINUTE);
    world.otherwise = Answer::respond(503, "");
    assert_eq!(world.ask(&ann()).unwrap().1, Source::Memory);
    assert_eq!(world.stats().last_resorts, 1);
    world.advance(HOUR - 10 * SECOND - world.real_ms());
    assert_eq!(reason(world.ask(&ann())), FailureReason::Unavailable);
}

#[test]
fn what_would_end_with_the_assertion_in_any_case_is_not_renewed() {
    let mut world = World::new();
    let request = request_with(&assertion("ann", at(10 * MINUTE), 1), "read");
    world.ask(&request).unwrap();
    world.advance(9 * MINUTE + 30 * SECOND);
    assert_eq!(world.ask(&request).unwrap().1, Source::Memory);
    assert_eq!((world.posted.len(), world.stats().renewals), (1, 0));
}

#[test]
fn a_later_sign_in_of_the_same_subject_renews_what_an_earlier_one_bounds() {
    let mut world = World::new();
    world.ask(&shared(request_with(&assertion("ann", at(10 * MINUTE), 1), "read"))).unwrap();
    world.advance(9 * MINUTE);
    let later = shared(request_with(&assertion("ann", at(5 * HOUR), 2), "read"));
    assert_eq!(world.ask(&later).unwrap().1, Source::Memory);
    assert_eq!(world.posted.len(), 2);
    world.advance(5 * MINUTE);
    assert_eq!(world.ask(&later).unwrap(), ("minted~ann~read~2".to_owned(), Source::Memory));
}

#[test]
fn a_renewal_takes_what_another_isolate_has_stored_meanwhile() {
    let mut world = World::with_store();
    world.ask(&ann()).unwrap();
    world.advance(RENEWED_FROM);
    // The renewed entry of another isolate, made just now.
    let mut other = World::with_store();
    other.advance(RENEWED_FROM);
    other.ask(&ann()).unwrap();
    world.store.entries = other.store.entries;
    assert_eq!(world.ask(&ann()).unwrap().1, Source::Memory);
    assert_eq!((world.posted.len(), world.stats().store_hits), (1, 1));
    world.advance(30 * MINUTE);
    assert_eq!(world.ask(&ann()).unwrap().1, Source::Memory);
}

#[test]
fn a_renewal_whose_request_ends_harms_nobody_and_another_follows() {
    for bell in BELLS {
        for step in [Step::Sleeping, Step::Posting] {
            let mut world = after(RENEWED_FROM);
            world.vanish_at.push((step, bell));
            for _ in 0..2 {
                let caller = world.call(&ann());
                world.run();
                assert_eq!((world.result(caller).unwrap().1, world.took_ms(caller)), (Source::Memory, 0));
            }
            world.advance(2 * MINUTE);
            world.ask(&ann()).unwrap();
            assert_eq!(world.stats().renewals, 2);
            assert!(world.ask(&ann()).unwrap().0 != "minted~ann~read~1");
            world.assert_nothing_is_left();
        }
    }
}

#[test]
fn who_misses_while_a_renewal_is_under_way_joins_it() {
    let mut world = after(SERVED_UNTIL - SECOND);
    world.otherwise = Answer::token(3600).after(3 * SECOND);
    world.call(&ann());
    let late = world.call_after(2 * SECOND, &ann());
    world.run();
    assert_eq!(world.result(late).unwrap(), ("minted~ann~read~2".to_owned(), Source::Flight));
    assert_eq!(world.posted.len(), 2);
}

#[test]
fn each_user_is_renewed_with_the_own_assertion() {
    let mut world = World::new();
    let users = ["ann", "bob", "eve"];
    for user in users {
        world.ask(&request_of(user, "read")).unwrap();
    }
    world.advance(50 * MINUTE);
    let _ = users.map(|user| world.call(&request_of(user, "read")));
    world.run();
    for user in users {
        assert!(world.ask(&request_of(user, "read")).unwrap().0.starts_with(&format!("minted~{user}~")));
    }
    let renewing: Vec<&Posted> = world.posted[3..].iter().collect();
    assert_eq!(renewing.len(), 3);
    assert_eq!(world.events.iter().filter(|event| event.kind == EventKind::Renewal).count(), 3);
}
