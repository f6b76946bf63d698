//! One exchange for all who ask for the same, whatever becomes of the one who leads it.

use obo_edge::call::Source;
use obo_edge::failure::FailureReason;
use serde_json::json;

use crate::world::{
    Answer, BELLS, Bell, HOUR, MINUTE, Posted, SECOND, START_MS, Step, TIMEOUT, World, anew, assertion, at, options,
    options_with, reason, request_of, request_with, shared, store_secret,
};

/// A hundred calls of one user, the first of them the leader's.
fn hundred(world: &mut World) -> Vec<usize> {
    (0..100).map(|number| world.call_after(number / 10, &request_of("ann", "read"))).collect()
}

fn assert_all_got(world: &World, callers: &[usize], token: &str) {
    for caller in callers {
        assert_eq!(world.result(*caller).map(|(token, _)| token).as_deref(), Ok(token), "caller {caller}");
    }
}

#[test]
fn a_hundred_callers_of_one_key_make_one_token_request() {
    for mut world in [World::new(), World::with_store()] {
        let callers = hundred(&mut world);
        world.run();
        assert_eq!(world.posted.len(), 1);
        assert_all_got(&world, &callers, "minted~ann~read~1");
        assert_eq!((world.count(Source::Issuer), world.count(Source::Flight)), (1, 99));
        let stats = world.stats();
        assert_eq!((stats.joins, stats.token_requests, stats.tokens, stats.takeovers), (99, 1, 1, 0));
        world.assert_nothing_is_left();
    }
}

#[test]
fn a_hundred_callers_learn_of_one_failure_by_one_token_request() {
    let mut world = World::new();
    world.otherwise = Answer::error(400, "invalid_scope", &[70011]);
    let callers = hundred(&mut world);
    world.run();
    assert_eq!(world.posted.len(), 1);
    for caller in callers {
        assert_eq!(reason(world.result(caller)), FailureReason::Misconfigured);
    }
    // It is remembered for a while.
    assert_eq!(reason(world.ask(&request_of("ann", "read"))), FailureReason::Misconfigured);
    assert_eq!(world.posted.len(), 1);
    world.assert_nothing_is_left();
}

#[test]
fn a_follower_of_a_store_hit_is_told_that_it_came_by_a_flight() {
    let mut world = World::with_store();
    world.ask(&request_of("ann", "read")).unwrap();
    world.new_isolate();
    let (leader, follower) = (world.call(&request_of("ann", "read")), world.call(&request_of("ann", "read")));
    world.run();
    assert_eq!(world.result(leader), Ok(("minted~ann~read~1".to_owned(), Source::Store)));
    assert_eq!(world.result(follower), Ok(("minted~ann~read~1".to_owned(), Source::Flight)));
}

#[test]
fn when_the_leader_vanishes_at_any_step_every_follower_gets_a_token_with_one_more_request_at_most() {
    for step in [Step::ReadingStore, Step::Posting, Step::Sleeping] {
        for bell in BELLS {
            let mut world = World::with_store();
            // A flight sleeps where the first attempt met a 503.
            if step == Step::Sleeping {
                world.answers.push_back(Answer::error(503, "temporarily_unavailable", &[]));
            }
            world.vanish_at.push((step, bell));
            let callers = hundred(&mut world);
            world.run();
            let requests_without = match step {
                Step::Posting | Step::Sleeping => 1,
                _ => 0,
            };
            assert_eq!(world.posted.len(), requests_without + 1, "{step:?} {bell:?}");
            assert!(world.is_gone(callers[0]));
            assert_all_got(&world, &callers[1..], &world.posted.last().unwrap().token());
            assert_eq!((world.count(Source::Issuer), world.count(Source::Flight)), (1, 98), "{step:?} {bell:?}");
            for caller in &callers[1..] {
                assert!(world.took_ms(*caller) <= TIMEOUT, "{step:?} {bell:?}");
            }
            // The key lives on.
            assert_eq!(world.ask(&request_of("ann", "read")).unwrap().1, Source::Memory);
            world.assert_nothing_is_left();
        }
    }
}

#[test]
fn a_key_whose_leader_vanished_before_anybody_else_came_is_not_dead() {
    for step in [Step::ReadingStore, Step::Posting, Step::Sleeping] {
        for bell in BELLS {
            for late_ms in [100, SECOND, 4 * SECOND, 9 * SECOND, 11 * SECOND, HOUR] {
                let mut world = World::with_store();
                if step == Step::Sleeping {
                    world.answers.push_back(Answer::error(503, "temporarily_unavailable", &[]));
                }
                world.vanish_at.push((step, bell));
                world.call(&request_of("ann", "read"));
                let late = world.call_after(late_ms, &request_of("ann", "read"));
                world.run();
                let (_, source) = world.result(late).unwrap();
                assert_eq!(source, Source::Issuer, "{step:?} {bell:?} {late_ms}");
                assert!(world.took_ms(late) <= TIMEOUT);
                world.assert_nothing_is_left();
            }
        }
    }
}

#[test]
fn the_leaders_of_two_flights_in_a_row_may_vanish() {
    for bell in BELLS {
        let mut world = World::with_options(options_with("retry", json!({"attempts": 5})), false);
        world.vanish_at = vec![(Step::Posting, bell), (Step::Posting, bell)];
        world.otherwise = Answer::token(3600).after(SECOND);
        let callers = hundred(&mut world);
        world.run();
        let gone = callers.iter().filter(|caller| world.is_gone(**caller)).count();
        assert_eq!((gone, world.posted.len()), (2, 3), "{bell:?}");
        assert_eq!(world.count(Source::Issuer) + world.count(Source::Flight), 98, "{bell:?}");
        world.assert_nothing_is_left();
    }
}

#[test]
fn three_vanished_leaders_do_not_set_the_whole_herd_loose_on_the_token_endpoint() {
    let mut world = World::new();
    world.vanish_at = vec![(Step::Posting, Bell::Rejects); 3];
    hundred(&mut world);
    world.run();
    assert!(
        world.posted.len() <= 8,
        "{} token requests of one key, {} at once",
        world.posted.len(),
        world.most_posting
    );
}

#[test]
fn a_call_gives_up_after_a_bounded_number_of_takeovers() {
    for bell in BELLS {
        let mut world = World::with_options(options_with("timeoutMs", json!(25_000)), false);
        world.otherwise = Answer::token(3600).after(200);
        let patient = world.call_after(1, &request_of("ann", "read"));
        // Whoever leads vanishes, and there is always another who has just begun.
        for number in 0..40 {
            world.call_after(number * 60, &request_of("ann", "read"));
        }
        world.vanish_at = vec![(Step::Posting, bell); 1000];
        world.run();
        let takeovers = world.callers.iter().map(|caller| caller.call.unwrap().takeovers).max().unwrap();
        assert!(takeovers <= 3, "{takeovers}");
        assert!(world.callers[patient].wakes <= 8, "{}", world.callers[patient].wakes);
        assert!(world.posted.len() <= world.callers.len());
        world.assert_nothing_is_left();
    }
}

#[test]
fn two_users_at_once_never_cross() {
    let mut world = World::with_store();
    // Latencies that let the flights land in another order than they began in.
    world.judge =
        Some(Box::new(|posted: &Posted| Some(Answer::token(3600).after(10 + (posted.number as u64 * 7919) % 400))));
    let mut expected = Vec::new();
    for round in 0..4 {
        for user in 0..25 {
            for scopes in ["read", "read write"] {
                let user = format!("user{user}");
                let caller = world.call_after(round * 150, &request_of(&user, scopes));
                expected.push((caller, format!("minted~{user}~{}~", scopes.replace(' ', "+"))));
            }
        }
    }
    world.run();
    for (caller, start) in expected {
        let (token, _) = world.result(caller).unwrap();
        assert!(token.starts_with(&start), "{token} is not {start}");
    }
    assert_eq!(world.posted.len(), 50);
    world.assert_nothing_is_left();
}

#[test]
fn scopes_in_another_order_are_the_same_key_and_other_scopes_are_not() {
    let mut world = World::new();
    let same = ["b a", "a b", "a  b a"].map(|scopes| world.call(&request_of("ann", scopes)));
    let other = world.call(&request_of("ann", "a"));
    world.run();
    assert_eq!(world.posted.len(), 2);
    assert_all_got(&world, &same, "minted~ann~a+b~1");
    assert_all_got(&world, &[other], "minted~ann~a~2");
}

#[test]
fn a_request_with_claims_neither_joins_nor_hits_what_was_made_without_them() {
    let mut world = World::new();
    let mut stepped_up = request_of("ann", "read");
    stepped_up.set(obo_edge::request::RequestField::Claims, r#"{"access_token":{"acrs":{"value":"c1"}}}"#).unwrap();
    let (plain, with_claims) = (world.call(&request_of("ann", "read")), world.call(&stepped_up));
    world.run();
    assert_ne!(world.result(plain).unwrap().0, world.result(with_claims).unwrap().0);
    assert_eq!(world.ask(&stepped_up).unwrap(), ("minted~ann~read~2".to_owned(), Source::Memory));
    assert_eq!(world.ask(&request_of("ann", "read")).unwrap(), ("minted~ann~read~1".to_owned(), Source::Memory));
}

#[test]
fn a_call_that_wants_no_cached_token_joins_nobody_and_reads_no_store() {
    let mut world = World::with_store();
    let first = world.call(&request_of("ann", "read"));
    let forced =
        [world.call_after(5, &anew(request_of("ann", "read"))), world.call_after(6, &anew(request_of("ann", "read")))];
    world.run();
    assert_eq!(world.posted.len(), 3, "each makes its own");
    assert_eq!(world.store.reads.len(), 1, "only the first reads the store");
    for caller in forced {
        assert_eq!(world.result(caller).unwrap().1, Source::Issuer);
    }
    assert_eq!(world.result(first).unwrap().1, Source::Issuer);
    assert_eq!(world.stats().joins, 0);
}

#[test]
fn nobody_joins_a_call_that_wanted_no_cached_token() {
    let mut world = World::new();
    let forced = world.call(&anew(request_of("ann", "read")));
    let plain = world.call_after(5, &request_of("ann", "read"));
    world.run();
    assert_eq!(world.posted.len(), 2);
    assert_ne!(world.result(forced).unwrap().0, world.result(plain).unwrap().0);
    assert_eq!(world.result(plain).unwrap().1, Source::Issuer);
}

#[test]
fn a_token_made_past_the_caches_takes_the_old_ones_place_in_memory_and_store() {
    let mut world = World::with_store();
    assert_eq!(world.ask(&request_of("ann", "read")).unwrap().0, "minted~ann~read~1");
    world.advance(SECOND);
    assert_eq!(world.ask(&anew(request_of("ann", "read"))).unwrap(), ("minted~ann~read~2".to_owned(), Source::Issuer));
    assert_eq!(world.ask(&request_of("ann", "read")).unwrap(), ("minted~ann~read~2".to_owned(), Source::Memory));
    world.new_isolate();
    assert_eq!(world.ask(&request_of("ann", "read")).unwrap(), ("minted~ann~read~2".to_owned(), Source::Store));
    assert_eq!(world.store.entries.len(), 1);
}

#[test]
fn a_flight_that_finds_an_older_token_in_the_store_does_not_put_it_over_a_newer_one() {
    let mut world = World::with_store();
    world.ask(&request_of("ann", "read")).unwrap();
    world.new_isolate();
    world.advance(MINUTE);
    // The store answers slowly with what it had; meanwhile another call makes a new token past the caches.
    world.store.read_after_ms = SECOND;
    world.call(&request_of("ann", "read"));
    let forced = world.call_after(10, &anew(request_of("ann", "read")));
    world.run();
    assert_eq!(world.result(forced).unwrap().0, "minted~ann~read~2");
    assert_eq!(world.ask(&request_of("ann", "read")).unwrap().0, "minted~ann~read~2");
}

#[test]
fn a_slow_flight_does_not_put_an_older_token_over_a_newer_one() {
    let mut world = World::with_store();
    world.answers = [Answer::token(3600).after(3 * SECOND), Answer::token(3600).after(50)].into();
    world.call(&request_of("ann", "read"));
    let forced = world.call_after(SECOND, &anew(request_of("ann", "read")));
    world.run();
    assert_eq!(world.result(forced).unwrap().0, "minted~ann~read~2");
    // Asked for first, made first, arrived last.
    assert_eq!(world.ask(&request_of("ann", "read")).unwrap().0, "minted~ann~read~2", "in memory");
    world.new_isolate();
    assert_eq!(world.ask(&request_of("ann", "read")).unwrap().0, "minted~ann~read~2", "in the store");
}

#[test]
fn a_callers_signal_ends_its_own_wait_only() {
    let mut world = World::new();
    world.otherwise = Answer::token(3600).after(SECOND);
    let callers = hundred(&mut world);
    for aborted in [0, 17] {
        world.abort_after(100, callers[aborted]);
    }
    world.run();
    for aborted in [0, 17] {
        let failure = world.result(callers[aborted]).unwrap_err();
        assert_eq!((failure.reason, failure.retryable), (FailureReason::Cancelled, false));
        assert!(world.took_ms(callers[aborted]) <= 100);
    }
    assert_eq!(world.posted.len(), 1, "the exchange went on");
    assert_eq!(world.count(Source::Flight), 98);
    world.assert_nothing_is_left();
}

#[test]
fn a_caller_whose_time_is_up_leaves_the_exchange_to_those_who_came_later() {
    let mut world = World::with_options(options_with("retry", json!({"attempts": 1})), false);
    // A flight that lasts as long as a flight may; the endpoint answers the second one at once.
    world.answers = [Answer::never(), Answer::token(3600)].into();
    let first = world.call(&request_of("ann", "read"));
    let later = world.call_after(9 * SECOND, &request_of("ann", "read"));
    world.run();
    assert_eq!(reason(world.result(first)), FailureReason::Unavailable);
    assert_eq!(world.took_ms(first), TIMEOUT);
    assert!(world.took_ms(later) <= TIMEOUT);
    assert_eq!(world.ask(&request_of("ann", "read")).unwrap().0, "minted~ann~read~2");
    world.assert_nothing_is_left();
}

#[test]
fn every_call_ends_within_its_time_when_the_token_endpoint_and_the_store_never_answer() {
    for timers_come_first in [false, true] {
        for timeout_ms in [1000, 10_000, 25_000] {
            for attempts in 1..=5_usize {
                let mut options = options_with("timeoutMs", json!(timeout_ms));
                options["retry"] = json!({"attempts": attempts});
                options["storeSecrets"] = json!([store_secret('a'), store_secret('b')]);
                let mut world = World::with_options(options, true);
                world.timers_come_first = timers_come_first;
                world.store.read_after_ms = u64::MAX;
                world.otherwise = Answer::never();
                let callers = hundred(&mut world);
                world.run();
                assert!((1..=attempts).contains(&world.posted.len()));
                assert_eq!(world.most_posting, 1);
                for caller in callers {
                    let failure = world.result(caller).unwrap_err();
                    assert_eq!((failure.reason, failure.retryable), (FailureReason::Unavailable, true));
                    assert!(world.took_ms(caller) <= world.timeout_ms, "{attempts} attempts in {timeout_ms}");
                }
                world.assert_nothing_is_left();
            }
        }
    }
}

#[test]
fn a_silent_leader_leaves_followers_the_time_to_take_over_with_each_number_of_attempts_from_two() {
    for timeout_ms in [1000, 10_000, 25_000] {
        for attempts in 2..=5 {
            let mut options = options_with("timeoutMs", json!(timeout_ms));
            options["retry"] = json!({"attempts": attempts});
            let mut world = World::with_options(options, false);
            world.vanish_at.push((Step::Posting, Bell::StaysSilent));
            let callers = hundred(&mut world);
            world.run();
            assert_all_got(&world, &callers[1..], "minted~ann~read~2");
            world.assert_nothing_is_left();
        }
    }
}

#[test]
fn a_bell_that_rings_while_the_flight_is_on_its_way_costs_one_request_and_hangs_nobody() {
    use obo_edge::call::{Call, Turn, Wake};
    let mut world = World::new();
    let (request, now) = (request_of("ann", "read"), world.now());
    let (mut leader, turn) = Call::begin(&mut world.exchanger, &request, now);
    let Turn::Lead(first) = turn else { panic!("{turn:?}") };
    let (mut follower, turn) = Call::begin(&mut world.exchanger, &request, now);
    assert!(matches!(turn, Turn::Wait(joined) if joined == first));
    // The outcome is not there, so the flight is taken for one that came to nothing.
    let turn = follower.wake(&mut world.exchanger, &request, now, Wake::Rang);
    let Turn::Lead(second) = turn else { panic!("{turn:?}") };
    assert!(second > first);
    let turn = leader.wake(&mut world.exchanger, &request, now, Wake::Orphaned);
    assert!(matches!(turn, Turn::Wait(joined) if joined == second), "{turn:?}");
}

#[test]
fn one_users_failure_never_stops_another_user() {
    let mut world = World::new();
    world.judge = Some(Box::new(|posted: &Posted| {
        (posted.user == "bob").then(|| Answer::error(400, "invalid_grant", &[500_133]))
    }));
    for round in 0..5 {
        world.call_after(round * 20, &request_of("ann", "read"));
        world.call_after(round * 20, &request_of("bob", "read"));
    }
    world.run();
    for pair in 0..5 {
        assert!(world.result(pair * 2).is_ok());
        assert_eq!(reason(world.result(pair * 2 + 1)), FailureReason::AssertionRejected);
    }
}

/// The token endpoint refuses assertions of this number, each in this way.
fn refuse(world: &mut World, number: u32, error: &'static str, code: u32) {
    let refused = assertion("ann", at(24 * HOUR), number);
    world.judge = Some(Box::new(move |posted: &Posted| {
        (posted.assertion == refused).then(|| Answer::error(400, error, &[code]))
    }));
}

fn signed_in(number: u32) -> obo_edge::request::Request {
    shared(request_with(&assertion("ann", at(24 * HOUR), number), "read"))
}

#[test]
fn a_failure_about_an_assertion_does_not_go_to_those_who_hold_another_of_the_same_subject() {
    for (error, code, expected) in [
        ("invalid_grant", 500_133, FailureReason::AssertionRejected),
        ("interaction_required", 50_076, FailureReason::InteractionRequired),
        ("invalid_grant", 53_003, FailureReason::Blocked),
    ] {
        let mut world = World::new();
        refuse(&mut world, 1, error, code);
        let old: Vec<_> = (0..10).map(|_| world.call(&signed_in(1))).collect();
        let renewed: Vec<_> = (0..10).map(|_| world.call(&signed_in(2))).collect();
        world.run();
        for caller in old {
            assert_eq!(reason(world.result(caller)), expected);
        }
        for caller in renewed {
            assert_eq!(world.result(caller).unwrap().0, "minted~ann~read~2");
        }
        assert_eq!(world.posted.len(), 2, "{code}");
        world.assert_nothing_is_left();
    }
}

#[test]
fn a_failure_that_is_not_about_the_assertion_goes_to_all_who_joined() {
    for (error, code, expected) in [
        ("invalid_grant", 65_001, FailureReason::ConsentRequired),
        ("invalid_client", 7_000_215, FailureReason::Misconfigured),
        ("invalid_grant", 50_196, FailureReason::Throttled),
    ] {
        let mut world = World::new();
        world.otherwise = Answer::error(400, error, &[code]);
        let callers: Vec<_> = (0..20).map(|number| world.call(&signed_in(number))).collect();
        world.run();
        for caller in callers {
            assert_eq!(reason(world.result(caller)), expected);
        }
        assert_eq!(world.posted.len(), 1, "{code}");
    }
}

#[test]
fn many_refused_assertions_of_one_subject_each_learn_of_their_own_refusal() {
    let mut world = World::new();
    world.otherwise = Answer::error(400, "invalid_grant", &[500_133]);
    let callers: Vec<_> = (0..30).map(|number| world.call(&signed_in(number))).collect();
    world.run();
    for caller in &callers {
        let failure = world.result(*caller).unwrap_err();
        assert_eq!(failure.reason, FailureReason::AssertionRejected);
        let own = world.callers[*caller].request.assertion.reveal().to_owned();
        assert!(world.posted.iter().any(|posted| posted.assertion == own), "{caller} was refused unasked");
        assert!(world.callers[*caller].call.unwrap().takeovers <= 3);
    }
    assert!(world.posted.len() <= callers.len());
    world.assert_nothing_is_left();
}

#[test]
fn one_configurations_flights_are_no_business_of_anothers() {
    let mut other = options();
    other["clientId"] = json!("another-gateway");
    let (mut one, mut two) = (World::new(), World::with_options(other, false));
    assert_eq!(one.ask(&request_of("ann", "read")).unwrap().1, Source::Issuer);
    assert_eq!(two.ask(&request_of("ann", "read")).unwrap().1, Source::Issuer);
    assert!(two.posted[0].body.contains("client_id=another-gateway"));
    assert_eq!(one.posted[0].sent_at.as_millis(), START_MS);
}
