//! A clock that is set while calls are under way. Timers go on as they were; only what `now` says is wrong.

use obo_edge::call::Source;
use obo_edge::failure::FailureReason;
use obo_edge::time::Timestamp;

use crate::world::{
    Answer, BELLS, Bell, HOUR, MINUTE, SECOND, Step, TIMEOUT, World, anew, reason, request_of, request_with,
};

const JUMPS: [i64; 6] =
    [-(HOUR as i64), HOUR as i64, -(50 * SECOND as i64), 50 * SECOND as i64, -(5 * SECOND as i64), 5 * SECOND as i64];

/// No wait is longer than a whole exchange may take, and no call lasts longer than its takeovers may.
fn assert_no_call_hung(world: &World, about: &str) {
    for (number, caller) in world.callers.iter().enumerate() {
        assert!(caller.longest_wait_ms <= TIMEOUT + 100, "{about}: {number} waits {} ms", caller.longest_wait_ms);
        assert!(caller.wakes <= 24, "{about}: {number} was woken {} times", caller.wakes);
        if !world.is_gone(number) {
            assert!(world.took_ms(number) <= 4 * TIMEOUT, "{about}: {number} took {} ms", world.took_ms(number));
        }
    }
    for posted in &world.posted {
        assert!(posted.timeout_ms <= TIMEOUT, "{about}: a token request may take {} ms", posted.timeout_ms);
    }
    for slept in &world.slept {
        assert!(*slept <= TIMEOUT, "{about}: a flight sleeps {slept} ms");
    }
}

#[test]
fn a_clock_that_jumps_while_the_token_endpoint_is_asked_hangs_nobody() {
    for jump in JUMPS {
        let mut world = World::with_store();
        world.otherwise = Answer::token(3600).after(2 * SECOND);
        for number in 0..10 {
            world.call(&request_of("ann", "read"));
            world.call_after(1500 + number, &request_of("ann", "read"));
        }
        world.advance(SECOND);
        world.clock_jumps(jump);
        world.run();
        for number in 0..20 {
            if let Ok((token, _)) = world.result(number) {
                assert!(token.starts_with("minted~ann~read~"));
            }
        }
        assert_no_call_hung(&world, &format!("{jump}"));
        // Whatever became of those: who asks now gets a token.
        assert!(world.ask(&request_of("ann", "read")).is_ok());
        world.assert_nothing_is_left();
    }
}

#[test]
fn a_clock_that_jumps_at_any_instant_of_an_exchange_with_retries_hangs_nobody() {
    for jump in JUMPS {
        for instant in [1, 12, 100, 3000, 5011, 5200, 6000, 9000] {
            let mut world = World::with_store();
            world.otherwise = Answer::never();
            for number in 0..5 {
                world.call_after(number * 700, &request_of("ann", "read"));
            }
            world.advance(instant);
            world.clock_jumps(jump);
            world.run();
            assert_no_call_hung(&world, &format!("{jump} after {instant} ms"));
            world.otherwise = Answer::token(3600);
            assert!(world.ask(&request_of("ann", "read")).is_ok());
            world.assert_nothing_is_left();
        }
    }
}

#[test]
fn a_clock_that_jumps_and_a_leader_that_vanishes_leave_no_key_dead() {
    for jump in JUMPS {
        for bell in BELLS {
            for late_ms in [1, SECOND, 6 * SECOND, 20 * SECOND, 45 * SECOND] {
                let mut world = World::new();
                world.vanish_at.push((Step::Posting, bell));
                world.call(&request_of("ann", "read"));
                world.advance(100);
                world.clock_jumps(jump);
                let late = world.call_after(late_ms, &request_of("ann", "read"));
                world.run();
                let result = world.result(late);
                assert!(result.is_ok(), "{jump} {bell:?} {late_ms}: {result:?}");
                assert!(world.took_ms(late) <= TIMEOUT);
                world.assert_nothing_is_left();
            }
        }
    }
}

#[test]
fn a_clock_that_was_ahead_for_a_moment_leaves_no_key_dead() {
    for bell in BELLS {
        let mut world = World::new();
        // Bob's flight begins before the clock goes ahead and lands while it is.
        world.call(&request_of("bob", "read"));
        world.advance(10);
        world.clock_jumps(HOUR as i64);
        world.advance(100);
        world.vanish_at.push((Step::Posting, bell));
        world.call(&request_of("ann", "read"));
        world.advance(100);
        world.clock_jumps(-(HOUR as i64));
        let late = world.call(&request_of("ann", "read"));
        world.run();
        assert_eq!(world.result(late).map(|(_, source)| source), Ok(Source::Issuer), "{bell:?}");
        world.assert_nothing_is_left();
    }
}

#[test]
fn a_clock_set_back_does_not_make_a_retry_after_fit_that_does_not() {
    let mut world = World::new();
    world.answers = [Answer::error(503, "server_error", &[]).after(SECOND).retry_after("1800")].into();
    let caller = world.call(&request_of("ann", "read"));
    world.advance(500);
    world.clock_jumps(-(HOUR as i64));
    world.run();
    assert_eq!(reason(world.result(caller)), FailureReason::Unavailable);
    assert_no_call_hung(&world, "a Retry-After of half an hour");
}

#[test]
fn a_clock_that_jumps_between_calls_gives_nobody_a_token_of_another() {
    for jump in JUMPS {
        let mut world = World::with_store();
        for round in 0..3 {
            for user in ["ann", "bob"] {
                let (token, _) = world.ask(&request_of(user, "read")).unwrap();
                assert!(token.starts_with(&format!("minted~{user}~read~")), "round {round}");
            }
            world.clock_jumps(jump);
        }
        world.assert_nothing_is_left();
    }
}

#[test]
fn an_entry_is_no_hit_once_the_clock_has_gone_past_it_and_not_served_to_an_assertion_that_has_ended() {
    let mut world = World::new();
    world.ask(&request_of("ann", "read")).unwrap();
    world.clock_jumps(HOUR as i64);
    assert_eq!(world.ask(&request_of("ann", "read")).unwrap().1, Source::Issuer);
    world.clock_jumps(-(HOUR as i64));
    // The newer token is of the future now: by the clock that made it, it would be served for an hour too long.
    let (token, _) = world.ask(&request_of("ann", "read")).unwrap();
    assert_eq!(token, "minted~ann~read~3");
    assert_eq!(world.ask(&request_of("ann", "read")).unwrap().1, Source::Memory);
}

#[test]
fn a_clock_that_stands_still_ends_waits_all_the_same() {
    use obo_edge::action::Event;
    use obo_edge::call::{Call, Turn, Wake};
    // In production a Worker's clock stands still between I/O.
    let mut world = World::new();
    let (request, now) = (request_of("ann", "read"), world.now());
    let (mut leader, turn) = Call::begin(&mut world.exchanger, &request, now);
    let Turn::Lead(generation) = turn else { panic!("{turn:?}") };
    let _ = world.exchanger.step(generation, now, Event::Begun([1; 32]));
    let (mut follower, _) = Call::begin(&mut world.exchanger, &request, now);
    let mut waited_ms = 0;
    let mut wakes = 0;
    let ended = loop {
        waited_ms += follower.wait_ms(&world.exchanger, now);
        wakes += 1;
        match follower.wake(&mut world.exchanger, &request, now, Wake::TimedOut) {
            Turn::Fail(failure) => break failure.reason,
            Turn::Lead(generation) => drop(world.exchanger.step(generation, now, Event::Begun([2; 32]))),
            Turn::Wait(_) => {}
            Turn::Answer(..) | Turn::AnswerAndRenew(..) => panic!("nobody answered"),
        }
        assert!(wakes < 24, "it never ends");
    };
    assert_eq!(ended, FailureReason::Unavailable);
    assert!(waited_ms <= 4 * TIMEOUT, "{waited_ms}");
    let _ = leader.wait_ms(&world.exchanger, now);
}

#[test]
fn the_ends_of_time_make_nothing_panic() {
    for shown in [0, 1, u64::MAX - 1, u64::MAX] {
        let request = request_with("opaque-assertion", "read");
        for request in [request.clone(), anew(request)] {
            let mut world = World::with_store();
            let offset = i64::try_from(i128::from(shown) - i128::from(world.now().as_millis()));
            // A clock at the end of time is further away than the world can set it: the core takes it directly.
            if let Ok(offset) = offset {
                world.clock_jumps(offset);
                let caller = world.call(&request);
                world.run();
                assert!(world.result(caller).is_ok());
            } else {
                use obo_edge::call::Call;
                let (mut call, _) = Call::begin(&mut world.exchanger, &request, Timestamp::from_millis(shown));
                assert!(call.wait_ms(&world.exchanger, Timestamp::from_millis(shown)) >= 1);
            }
        }
    }
}

#[test]
fn a_flight_of_a_request_that_ended_leaves_the_table_when_the_clock_was_set_back() {
    let mut world = World::new();
    world.vanish_at.push((Step::Posting, Bell::StaysSilent));
    world.call(&request_of("ann", "read"));
    world.advance(100);
    assert_eq!(world.stats().flights, 1);
    world.clock_jumps(-(HOUR as i64));
    assert_eq!(world.stats().flights, 0);
    world.clock_jumps(HOUR as i64);
    world.advance(MINUTE);
    assert!(world.ask(&request_of("ann", "read")).is_ok());
}
