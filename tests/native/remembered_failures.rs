//! What a server answered to a request is remembered for a while, so that the same one is not sent again.

use obo_edge::call::Source;
use obo_edge::failure::{FailureReason, TransportFailure};
use obo_edge::journal::EventKind;
use obo_edge::request::{Request, RequestField};

use crate::world::{Answer, HOUR, SECOND, World, anew, assertion, at, reason, request_of, request_with, shared};

fn ann() -> Request {
    request_of("ann", "read")
}

#[test]
fn each_reason_is_remembered_as_long_as_the_table_says() {
    use FailureReason::{AssertionRejected, Blocked, ConsentRequired, InteractionRequired, Misconfigured};
    for (answer, expected, seconds) in [
        (Answer::error(400, "invalid_grant", &[500_133]), AssertionRejected, 60),
        (Answer::error(400, "invalid_grant", &[53003]), Blocked, 60),
        (Answer::error(400, "interaction_required", &[50076]), InteractionRequired, 10),
        (Answer::error(400, "invalid_grant", &[65001]), ConsentRequired, 10),
        (Answer::error(401, "invalid_client", &[7_000_215]), Misconfigured, 10),
    ] {
        let mut world = World::new();
        world.otherwise = answer;
        let first = world.ask(&ann()).unwrap_err();
        assert_eq!(first.reason, expected);
        world.advance(seconds * SECOND - 1);
        assert_eq!(world.ask(&ann()).unwrap_err(), first, "the same to the letter");
        assert_eq!((world.posted.len(), world.stats().remembered_failures), (1, 1));
        assert_eq!(world.events.last().unwrap().kind, EventKind::RememberedFailure);
        world.advance(1);
        assert_eq!(reason(world.ask(&ann())), expected);
        assert_eq!(world.posted.len(), 2);
        // Past the caches nothing is remembered.
        world.otherwise = Answer::token(3600);
        assert_eq!(world.ask(&anew(ann())).unwrap().1, Source::Issuer);
        assert_eq!(world.ask(&ann()).unwrap().1, Source::Memory);
    }
}

#[test]
fn what_may_be_over_at_once_is_not_remembered() {
    for answer in [
        Answer::respond(503, ""),
        Answer::respond(200, "<html>"),
        Answer::respond(302, ""),
        Answer::transport(TransportFailure::Network),
        Answer::transport(TransportFailure::TooLarge),
    ] {
        let mut world = World::new();
        world.otherwise = answer.clone();
        assert!(world.ask(&ann()).is_err());
        world.otherwise = Answer::token(3600);
        assert_eq!(world.ask(&ann()).unwrap().1, Source::Issuer, "{answer:?}");
    }
}

#[test]
fn only_the_same_request_with_the_same_assertion_fails_by_memory() {
    let mut world = World::new();
    world.answers.push_back(Answer::error(400, "invalid_grant", &[500_133]));
    let subject = |number| shared(request_with(&assertion("ann", at(HOUR), number), "read"));
    assert_eq!(reason(world.ask(&subject(1))), FailureReason::AssertionRejected);
    let mut with_claims = subject(1);
    with_claims.set(RequestField::Claims, "{}").unwrap();
    for other in [with_claims, shared(request_with(&assertion("ann", at(HOUR), 1), "write")), request_of("bob", "read")]
    {
        assert_eq!(world.ask(&other).unwrap().1, Source::Issuer);
    }
    assert_eq!(reason(world.ask(&subject(1))), FailureReason::AssertionRejected);
    // A later sign-in of the same user, whose tokens are shared.
    assert_eq!(world.ask(&subject(2)).unwrap().1, Source::Issuer);
}

#[test]
fn an_eviction_and_a_clock_that_goes_back_forget_a_failure() {
    for forget in [|world: &mut World| world.evict(&ann()), |world: &mut World| world.clock_jumps(-(HOUR as i64))] {
        let mut world = World::new();
        world.answers.push_back(Answer::error(400, "invalid_grant", &[500_133]));
        assert!(world.ask(&ann()).is_err());
        forget(&mut world);
        assert!(world.ask(&ann()).is_ok());
    }
}

#[test]
fn failures_push_out_no_token_and_of_too_many_the_latest_are_remembered() {
    let mut world = World::new();
    world.ask(&ann()).unwrap();
    world.otherwise = Answer::error(400, "invalid_grant", &[53003]).after(1);
    let user = |number: usize| request_of(&format!("user{number}"), "read");
    for number in 0..600 {
        assert!(world.ask(&user(number)).is_err());
    }
    let posted = world.posted.len();
    for number in 100..600 {
        assert!(world.ask(&user(number)).is_err());
    }
    assert_eq!(world.posted.len(), posted, "the latest 500 are remembered");
    assert!(world.ask(&user(0)).is_err());
    assert_eq!(world.posted.len(), posted + 1, "the first is not");
    assert_eq!(world.ask(&ann()).unwrap().1, Source::Memory);
}
