//! Memory and store: for how long a token is served, to whom, and what a store can do wrong.

use obo_edge::action::MAX_RESPONSE_BYTES;
use obo_edge::call::Source;
use obo_edge::exchanger::EvictionCause;
use obo_edge::failure::{FailureReason, TransportFailure};
use obo_edge::request::{Request, RequestField};
use serde_json::json;

use crate::world::{
    Answer, HOUR, MINUTE, Posted, Reading, SECOND, STORE_READ_MS, World, anew, assertion, at, options_with, reason,
    request_of, request_with, shared, store_secret,
};

fn ann() -> Request {
    request_of("ann", "read")
}

/// Ann, who has signed in for the `number`th time, until `expires_ms` after the start.
fn signed_in(number: u32, expires_ms: u64) -> Request {
    shared(request_with(&assertion("ann", at(expires_ms), number), "read"))
}

/// The source of an answer so many milliseconds after the start.
fn source_at(world: &mut World, milliseconds: u64, request: &Request) -> Source {
    world.advance(milliseconds - world.real_ms());
    world.ask(request).unwrap().1
}

#[test]
fn a_token_is_served_from_memory_until_five_minutes_before_it_ends() {
    for (milliseconds, source) in [(55 * MINUTE - 1, Source::Memory), (55 * MINUTE, Source::Issuer)] {
        let mut world = World::new();
        world.ask(&ann()).unwrap();
        assert_eq!(source_at(&mut world, milliseconds, &ann()), source);
    }
}

#[test]
fn a_token_of_a_short_life_is_served_for_half_of_it() {
    for life_seconds in [2, 20, 60, 599] {
        for (milliseconds, source) in [(life_seconds * 500 - 1, Source::Memory), (life_seconds * 500, Source::Issuer)] {
            let mut world = World::new();
            world.otherwise = Answer::token(life_seconds).after(1);
            world.ask(&ann()).unwrap();
            assert_eq!(source_at(&mut world, milliseconds, &ann()), source, "{life_seconds}");
        }
    }
}

#[test]
fn a_token_is_served_no_longer_than_the_options_allow() {
    for (life_seconds, max_lifetime_ms) in [(3600, 90_000), (86_400, HOUR), (31_536_000, 24 * HOUR)] {
        for (milliseconds, source) in [(max_lifetime_ms - 1, Source::Memory), (max_lifetime_ms, Source::Issuer)] {
            let mut world = World::with_options(options_with("maxLifetimeMs", json!(max_lifetime_ms)), false);
            world.otherwise = Answer::token(life_seconds);
            let request = request_with("opaque", "read");
            world.ask(&request).unwrap();
            assert_eq!(source_at(&mut world, milliseconds, &request), source);
        }
    }
    // One hour, where the options do not say.
    for (milliseconds, source) in [(HOUR - 1, Source::Memory), (HOUR, Source::Issuer)] {
        let mut world = World::new();
        world.otherwise = Answer::token(86_400);
        world.ask(&ann()).unwrap();
        assert_eq!(source_at(&mut world, milliseconds, &ann()), source);
    }
}

#[test]
fn a_token_is_not_served_past_the_end_of_the_assertion_that_it_was_made_for() {
    let mut world = World::new();
    let request = request_with(&assertion("ann", at(10 * MINUTE), 1), "read");
    world.ask(&request).unwrap();
    assert_eq!(source_at(&mut world, 10 * MINUTE - 1, &request), Source::Memory);
    assert_eq!(source_at(&mut world, 10 * MINUTE, &request), Source::Issuer);
}

#[test]
fn no_expires_in_makes_an_entry_that_does_not_end() {
    for expires_in in [json!(null), json!("3600"), json!(3600.5), json!(1e18), json!(u64::MAX)] {
        let mut world = World::with_options(options_with("maxLifetimeMs", json!(24 * HOUR)), false);
        world.otherwise = Answer::token(expires_in.clone());
        let request = request_with("opaque", "read");
        assert!(world.ask(&request).is_ok(), "{expires_in}");
        assert_eq!(world.stats().memory_entries, 1, "{expires_in}");
        assert_eq!(source_at(&mut world, 24 * HOUR, &request), Source::Issuer, "{expires_in}");
    }
    for expires_in in
        [json!(0), json!(-1), json!("abc"), json!("-1"), json!(""), json!("NaN"), json!(true), json!([3600])]
    {
        let mut world = World::new();
        world.otherwise = Answer::token(expires_in.clone());
        let failure = world.ask(&ann()).unwrap_err();
        assert_eq!((failure.reason, failure.field.as_deref()), (FailureReason::InvalidResponse, Some("expires_in")));
        assert_eq!(world.stats().memory_entries, 0, "{expires_in}");
    }
}

// ---------------------------------------------------------------- the last resort

/// What is asked for once a token of an hour is 57 minutes old, and the token endpoint answers like this.
fn renewal(answer: Answer, request: &Request) -> Result<(String, Source), FailureReason> {
    let mut world = World::new();
    world.ask(&ann()).unwrap();
    world.advance(57 * MINUTE);
    world.otherwise = answer;
    world.ask(request).map_err(|failure| failure.reason)
}

#[test]
fn a_token_in_its_last_minutes_is_served_only_where_its_renewal_failed_as_unavailable_or_throttled() {
    let last_resort = Ok(("minted~ann~read~1".to_owned(), Source::Memory));
    for away in [
        Answer::respond(503, ""),
        Answer::respond(500, "<html>"),
        Answer::respond(408, ""),
        Answer::respond(429, "").retry_after("60"),
        Answer::error(400, "invalid_grant", &[50196]),
        Answer::error(400, "temporarily_unavailable", &[]),
        Answer::transport(TransportFailure::Network),
    ] {
        assert_eq!(renewal(away.clone(), &ann()), last_resort, "{away:?}");
        assert!(renewal(away.clone(), &anew(ann())).is_err(), "past the caches: {away:?}");
    }
    for (refusal, expected) in [
        (Answer::error(400, "invalid_grant", &[500_133]), FailureReason::AssertionRejected),
        (Answer::error(400, "interaction_required", &[50076]), FailureReason::InteractionRequired),
        (Answer::error(400, "invalid_grant", &[65001]), FailureReason::ConsentRequired),
        (Answer::error(400, "invalid_grant", &[53003]), FailureReason::Blocked),
        (Answer::error(401, "invalid_client", &[7_000_215]), FailureReason::Misconfigured),
        (Answer::respond(200, "<html>"), FailureReason::InvalidResponse),
        (Answer::respond(302, ""), FailureReason::InvalidResponse),
        (Answer::transport(TransportFailure::TooLarge), FailureReason::InvalidResponse),
    ] {
        assert_eq!(renewal(refusal, &ann()), Err(expected));
    }
}

#[test]
fn the_last_resort_ends_ten_seconds_before_the_token_does() {
    for (asked_ms, served) in
        [(HOUR - 10 * SECOND - 1000, true), (HOUR - 10 * SECOND, false), (HOUR - 5 * SECOND, false), (HOUR, false)]
    {
        let mut world = World::new();
        world.ask(&ann()).unwrap();
        // No retry, so that it is known when the failure comes.
        world.otherwise = Answer::error(400, "invalid_grant", &[50196]);
        world.advance(asked_ms - world.real_ms());
        assert_eq!(world.ask(&ann()).is_ok(), served, "{asked_ms}");
    }
}

#[test]
fn the_last_resort_outlasts_neither_the_assertion_nor_the_longest_lifetime() {
    let mut world = World::new();
    let request = request_with(&assertion("ann", at(56 * MINUTE), 1), "read");
    world.ask(&request).unwrap();
    world.otherwise = Answer::respond(503, "");
    world.advance(57 * MINUTE);
    assert_eq!(reason(world.ask(&request)), FailureReason::Unavailable);

    let mut world = World::with_options(options_with("maxLifetimeMs", json!(56 * MINUTE)), false);
    world.ask(&ann()).unwrap();
    world.otherwise = Answer::respond(503, "");
    world.advance(57 * MINUTE);
    assert_eq!(reason(world.ask(&ann())), FailureReason::Unavailable);
}

#[test]
fn the_last_resort_of_a_subject_is_not_for_an_assertion_that_has_ended() {
    let mut world = World::new();
    world.ask(&signed_in(1, 2 * HOUR)).unwrap();
    world.otherwise = Answer::respond(503, "");
    world.advance(57 * MINUTE);
    assert_eq!(world.ask(&signed_in(2, 2 * HOUR)).unwrap().1, Source::Memory);
    assert_eq!(reason(world.ask(&signed_in(3, 30 * MINUTE))), FailureReason::Unavailable);
}

#[test]
fn the_last_resort_serves_all_who_waited_for_the_renewal_and_is_counted_once() {
    let mut world = World::new();
    world.ask(&ann()).unwrap();
    world.advance(57 * MINUTE);
    world.otherwise = Answer::respond(503, "");
    let callers: Vec<_> = (0..20).map(|_| world.call(&ann())).collect();
    world.run();
    for caller in callers {
        assert_eq!(world.result(caller), Ok(("minted~ann~read~1".to_owned(), Source::Memory)));
    }
    assert_eq!((world.stats().last_resorts, world.posted.len()), (1, 3));
}

#[test]
fn the_last_resort_is_served_where_the_token_endpoint_never_answers_whichever_timer_comes_first() {
    for timers_come_first in [false, true] {
        let mut world = World::new();
        world.timers_come_first = timers_come_first;
        world.ask(&ann()).unwrap();
        world.advance(57 * MINUTE);
        world.otherwise = Answer::never();
        let result = world.ask(&ann()).map_err(|failure| failure.to_string());
        assert_eq!(result, Ok(("minted~ann~read~1".to_owned(), Source::Memory)), "timers first: {timers_come_first}");
    }
}

#[test]
fn a_token_in_its_last_minutes_that_only_the_store_holds_is_a_last_resort_too() {
    let mut world = World::with_store();
    world.ask(&ann()).unwrap();
    world.advance(57 * MINUTE);
    world.new_isolate();
    world.otherwise = Answer::respond(503, "");
    let result = world.ask(&ann()).map(|(token, _)| token).map_err(|failure| failure.reason);
    assert_eq!(result, Ok("minted~ann~read~1".to_owned()));
}

#[test]
fn a_token_that_has_ended_is_never_the_last_resort() {
    let mut world = World::with_store();
    world.ask(&ann()).unwrap();
    world.otherwise = Answer::respond(503, "");
    world.advance(HOUR);
    assert_eq!(reason(world.ask(&ann())), FailureReason::Unavailable);
    world.new_isolate();
    assert_eq!(reason(world.ask(&ann())), FailureReason::Unavailable);
}

// ---------------------------------------------------------------- the store

#[test]
fn a_store_hit_fills_memory_and_every_layer_tells_the_same_expiry() {
    let mut world = World::with_store();
    let issuer = world.call(&ann());
    let follower = world.call(&ann());
    world.run();
    let memory = world.call(&ann());
    world.run();
    world.advance(20 * MINUTE);
    world.new_isolate();
    let (store, store_follower) = (world.call(&ann()), world.call(&ann()));
    world.run();
    let memory_again = world.call(&ann());
    world.run();
    let expected = [Source::Issuer, Source::Flight, Source::Memory, Source::Store, Source::Flight, Source::Memory];
    for (caller, source) in [issuer, follower, memory, store, store_follower, memory_again].into_iter().zip(expected) {
        assert_eq!(world.result(caller).unwrap().1, source);
        assert_eq!(world.entry(caller).token.expires_at, at(HOUR + STORE_READ_MS), "{source:?}");
        assert_eq!(world.entry(caller), world.entry(issuer), "{source:?}");
    }
    assert_eq!((world.posted.len(), world.stats().store_hits), (1, 1));
}

#[test]
fn what_came_from_the_store_is_served_no_longer_than_what_was_put_there() {
    let end_ms = 55 * MINUTE + STORE_READ_MS;
    for (milliseconds, source) in [(end_ms - 1, Source::Memory), (end_ms, Source::Issuer)] {
        let mut world = World::with_store();
        world.ask(&ann()).unwrap();
        world.advance(50 * MINUTE);
        world.new_isolate();
        assert_eq!(world.ask(&ann()).unwrap().1, Source::Store);
        assert_eq!(source_at(&mut world, milliseconds, &ann()), source);
    }
}

#[test]
fn what_the_store_holds_in_its_last_minutes_is_renewed() {
    let mut world = World::with_store();
    world.ask(&ann()).unwrap();
    world.advance(57 * MINUTE);
    world.new_isolate();
    assert_eq!(world.ask(&ann()).unwrap(), ("minted~ann~read~2".to_owned(), Source::Issuer));
}

#[test]
fn a_shorter_longest_lifetime_holds_for_what_an_earlier_deployment_stored() {
    let mut options = options_with("storeSecrets", json!(store_secret('a')));
    options["maxLifetimeMs"] = json!(10 * MINUTE);
    let mut world = World::with_store();
    world.ask(&ann()).unwrap();
    world.advance(9 * MINUTE);
    world.new_isolate_with(options.clone());
    assert_eq!(world.ask(&ann()).unwrap().1, Source::Store);
    assert_eq!(source_at(&mut world, 10 * MINUTE + STORE_READ_MS, &ann()), Source::Issuer);
    world.advance(11 * MINUTE);
    world.new_isolate_with(options);
    assert_eq!(world.ask(&ann()).unwrap().1, Source::Issuer);
}

#[test]
fn entries_that_workers_kv_would_refuse_stay_in_memory() {
    for (life_seconds, written) in [(10, false), (60, false), (69, false), (71, true), (3600, true)] {
        let mut world = World::with_store();
        world.otherwise = Answer::token(life_seconds);
        world.ask(&ann()).unwrap();
        assert_eq!(world.store.entries.len(), usize::from(written), "{life_seconds}");
        assert!(world.store.written_for_seconds.iter().all(|seconds| (60..=life_seconds).contains(seconds)));
        assert_eq!(world.ask(&ann()).unwrap().1, Source::Memory);
    }
    // The assertion's end and the longest lifetime count as well.
    let mut world = World::with_store();
    world.ask(&request_with(&assertion("ann", at(59 * SECOND), 1), "read")).unwrap();
    assert!(world.store.written_for_seconds.is_empty());
}

#[test]
fn the_store_holds_nothing_that_can_be_read_and_no_name_that_tells() {
    let mut world = World::with_store();
    for request in [ann(), shared(ann())] {
        world.ask(&request).unwrap();
    }
    assert_eq!(world.store.entries.len(), 2);
    for (name, (text, _)) in &world.store.entries {
        assert!(name.len() <= 512);
        for told in ["ann", "read", "minted", "Bearer", "issuer.example", ann().assertion.reveal()] {
            assert!(!name.contains(told) && !text.contains(told), "{told} in {name}: {text}");
        }
    }
    // The same token sealed twice is not the same text: the nonce is fresh.
    let before = world.store.entries.clone();
    world.ask(&anew(ann())).unwrap();
    let changed = world.store.entries.iter().filter(|(name, entry)| before[*name] != **entry).count();
    assert_eq!(changed, 1);
}

#[test]
fn whatever_a_store_answers_that_was_not_written_for_this_very_key_is_a_miss() {
    let mut world = World::with_store();
    world.ask(&request_of("bob", "read")).unwrap();
    let bobs = world.store.entries.values().next().unwrap().0.clone();
    let mut texts = vec![String::new(), "1.".into(), "1.AAAA".into(), "garbage".into(), "null".into(), "{}".into()];
    texts.extend([format!("2.{}", &bobs[2..]), bobs[..bobs.len() / 2].to_owned(), format!("{bobs}A"), bobs.clone()]);
    texts.extend(["\u{0}\u{fffd}\u{1f600}".into(), "1.".to_owned() + &"A".repeat(2_000_000)]);
    for text in texts {
        world.new_isolate();
        world.store.reading = Reading::Answers(text.clone());
        let (token, source) = world.ask(&ann()).unwrap();
        assert!(token.starts_with("minted~ann~read~"), "{text:.40} made {token}");
        assert_eq!(source, Source::Issuer, "{text:.40}");
        let stats = world.stats();
        assert_eq!((stats.store_hits, stats.seal_failures, stats.store_failures), (0, 1, 0), "{text:.40}");
        assert!(world.events.iter().any(|event| format!("{:?}", event.kind) == "SealFailure"));
    }
}

#[test]
fn entries_whose_names_were_swapped_open_for_nobody() {
    let mut world = World::with_store();
    let requests = [
        ann(),
        request_of("bob", "read"),
        request_of("ann", "write"),
        shared(ann()),
        shared(request_of("bob", "read")),
    ];
    for request in &requests {
        world.ask(request).unwrap();
    }
    let mut texts: Vec<_> = world.store.entries.values().cloned().collect();
    texts.rotate_left(1);
    world.store.entries.values_mut().zip(texts).for_each(|(entry, text)| *entry = text);
    world.new_isolate();
    for request in &requests {
        assert_eq!(world.ask(request).unwrap().1, Source::Issuer);
    }
    assert_eq!((world.stats().seal_failures, world.stats().store_hits), (5, 0));
}

#[test]
fn a_store_that_throws_or_never_answers_costs_nobody_the_token() {
    let mut world = World::with_store();
    world.store.reading = Reading::Throws;
    world.store.writing_throws = true;
    assert_eq!(world.ask(&ann()).unwrap().1, Source::Issuer);
    assert_eq!(world.stats().store_failures, 2, "the read and the write");
    assert_eq!(world.ask(&ann()).unwrap().1, Source::Memory);

    for timeout_ms in [1000, 10_000, 25_000] {
        let mut options = options_with("storeSecrets", json!([store_secret('a'), store_secret('b')]));
        options["timeoutMs"] = json!(timeout_ms);
        let mut world = World::with_options(options, true);
        world.store.read_after_ms = u64::MAX;
        assert_eq!(world.ask(&ann()).unwrap().1, Source::Issuer);
        assert!(world.posted[0].sent_ms <= (timeout_ms / 4).min(1500), "{}", world.posted[0].sent_ms);
        assert_eq!((world.stats().store_failures, world.store.reads.len()), (1, 1), "one wait is enough");
    }
}

#[test]
fn a_slow_store_leaves_the_exchange_its_time() {
    let mut options = options_with("storeSecrets", json!(['a', 'b', 'c', 'd'].map(store_secret)));
    options["timeoutMs"] = json!(1000);
    let mut world = World::with_options(options, true);
    // Each answers just in time that it has nothing.
    world.store.read_after_ms = 100;
    assert_eq!(world.ask(&ann()).unwrap().1, Source::Issuer);
    assert_eq!(world.store.reads.len(), 4);
    assert!(world.took_ms(0) <= 1000);
}

#[test]
fn an_old_secret_opens_and_the_newest_seals() {
    let secrets = |letters: &[char]| {
        let secrets: Vec<_> = letters.iter().map(|letter| store_secret(*letter)).collect();
        options_with("storeSecrets", json!(secrets))
    };
    for request in [ann(), shared(ann())] {
        let mut world = World::with_options(secrets(&['a']), true);
        world.ask(&request).unwrap();
        let old = world.store.entries.clone();
        world.new_isolate_with(secrets(&['b', 'a']));
        assert_eq!(world.ask(&request).unwrap().1, Source::Store);
        world.ask(&anew(request.clone())).unwrap();
        assert_eq!(world.store.entries.len(), 2, "the newest has a name of its own");
        for (name, entry) in &old {
            assert_eq!(&world.store.entries[name], entry, "nothing is sealed by the old one");
        }
        // Once the old one is gone from the list, what it sealed is a miss, and what the new one sealed is not.
        world.new_isolate_with(secrets(&['b']));
        assert_eq!(world.ask(&request).unwrap(), ("minted~ann~read~2".to_owned(), Source::Store));
        world.store.entries = old;
        world.new_isolate_with(secrets(&['b']));
        assert_eq!(world.ask(&request).unwrap().1, Source::Issuer);
    }
}

#[test]
fn a_token_past_the_caches_is_the_one_that_a_rotation_finds() {
    let secrets = |letters: &[char]| {
        let secrets: Vec<_> = letters.iter().map(|letter| store_secret(*letter)).collect();
        options_with("storeSecrets", json!(secrets))
    };
    let mut world = World::with_options(secrets(&['a']), true);
    world.ask(&ann()).unwrap();
    world.new_isolate_with(secrets(&['b', 'a']));
    world.ask(&anew(ann())).unwrap();
    world.new_isolate_with(secrets(&['b', 'a']));
    assert_eq!(world.ask(&ann()).unwrap(), ("minted~ann~read~2".to_owned(), Source::Store));
}

// ---------------------------------------------------------------- shared entries

#[test]
fn two_assertions_of_one_subject_share_and_without_a_subject_they_do_not() {
    let mut world = World::with_store();
    world.ask(&signed_in(1, 2 * HOUR)).unwrap();
    assert_eq!(world.ask(&signed_in(2, 2 * HOUR)).unwrap(), ("minted~ann~read~1".to_owned(), Source::Memory));
    world.new_isolate();
    assert_eq!(world.ask(&signed_in(3, 2 * HOUR)).unwrap(), ("minted~ann~read~1".to_owned(), Source::Store));

    let plain = |number| request_with(&assertion("ann", at(2 * HOUR), number), "read");
    assert_eq!(world.ask(&plain(1)).unwrap().1, Source::Issuer, "tagged apart from the subject's");
    assert_eq!(world.ask(&plain(2)).unwrap().1, Source::Issuer);
}

#[test]
fn whatever_tells_two_subjects_apart_tells_their_tokens_apart() {
    let of = |parts: &[(RequestField, &str)]| {
        let mut request = ann();
        for (field, value) in parts {
            request.set(*field, value).unwrap();
        }
        request
    };
    use RequestField::{SubjectContext as Context, SubjectId as Id, SubjectIssuer as Issuer, SubjectTenant as Tenant};
    let mut world = World::with_store();
    let all = [
        of(&[]),
        of(&[(Issuer, "https://one.example"), (Id, "ann")]),
        of(&[(Issuer, "https://two.example"), (Id, "ann")]),
        of(&[(Issuer, "https://one.example"), (Id, "bob")]),
        of(&[(Issuer, "https://one.example"), (Id, "ann"), (Tenant, "tenant")]),
        of(&[(Issuer, "https://one.example"), (Id, "ann"), (Tenant, "tenant2")]),
        of(&[(Issuer, "https://one.example"), (Id, "ann"), (Context, "tenant")]),
        of(&[(Issuer, "https://one.example"), (Id, "ann"), (Context, "tenant2")]),
        of(&[(Issuer, "https://one.example"), (Id, "ann"), (Tenant, "tenant"), (Context, "tenant")]),
        // The same letters, cut elsewhere.
        of(&[(Issuer, "https://one.examplea"), (Id, "nn")]),
        of(&[(Issuer, "https://one.example"), (Id, "anntenant")]),
    ];
    for (place, request) in all.iter().enumerate() {
        assert_eq!(world.ask(request).unwrap().1, Source::Issuer, "{place}");
    }
    world.new_isolate();
    for (place, request) in all.iter().enumerate() {
        assert_eq!(world.ask(request).unwrap().1, Source::Store, "{place}");
    }
    assert_eq!(world.posted.len(), all.len());
}

#[test]
fn a_shared_token_is_not_served_from_memory_past_the_presented_assertions_own_end() {
    let mut world = World::new();
    world.ask(&signed_in(1, 2 * HOUR)).unwrap();
    let short = signed_in(2, 10 * MINUTE);
    assert_eq!(source_at(&mut world, 10 * MINUTE - 1, &short), Source::Memory);
    assert_eq!(source_at(&mut world, 10 * MINUTE, &short), Source::Issuer);
}

/// The token endpoint refuses assertions that have ended, by the hosts' clock.
fn refuse_ended(world: &mut World) {
    world.judge = Some(Box::new(|posted: &Posted| {
        let ended = obo_edge::assertion::AssertionFacts::of(&posted.assertion, "").is_expired(posted.sent_at);
        ended.then(|| Answer::error(400, "invalid_grant", &[500_133]))
    }));
}

#[test]
fn a_shared_token_is_not_served_from_the_store_past_the_presented_assertions_own_end() {
    let mut world = World::with_store();
    refuse_ended(&mut world);
    world.ask(&signed_in(1, 2 * HOUR)).unwrap();
    world.advance(10 * MINUTE);
    world.new_isolate();
    let result = world.ask(&signed_in(2, 10 * MINUTE)).map_err(|failure| failure.reason);
    assert_eq!(result, Err(FailureReason::AssertionRejected));
}

#[test]
fn a_shared_token_is_not_served_by_a_flight_past_the_presented_assertions_own_end() {
    let mut world = World::new();
    refuse_ended(&mut world);
    world.advance(10 * MINUTE);
    let leader = world.call(&signed_in(1, 2 * HOUR));
    let ended = world.call(&signed_in(2, 10 * MINUTE));
    world.run();
    assert!(world.result(leader).is_ok());
    let result = world.result(ended).map_err(|failure| failure.reason);
    assert_eq!(result, Err(FailureReason::AssertionRejected));
}

#[test]
fn a_shared_token_of_the_last_resort_is_not_served_by_a_flight_to_an_assertion_that_has_ended() {
    let mut world = World::new();
    world.ask(&signed_in(1, 2 * HOUR)).unwrap();
    world.advance(57 * MINUTE);
    world.otherwise = Answer::respond(503, "");
    let leader = world.call(&signed_in(2, 2 * HOUR));
    let ended = world.call(&signed_in(3, 30 * MINUTE));
    world.run();
    assert_eq!(world.result(leader).unwrap().1, Source::Memory);
    assert!(world.result(ended).is_err());
}

// ---------------------------------------------------------------- eviction

#[test]
fn after_an_eviction_the_next_call_exchanges_again() {
    for request in [ann(), shared(ann())] {
        let mut world = World::with_store();
        world.ask(&request).unwrap();
        world.ask(&request_of("bob", "read")).unwrap();
        world.evict(&request);
        assert_eq!(world.store.entries.len(), 1, "another's stays");
        assert_eq!(world.ask(&request).unwrap(), ("minted~ann~read~3".to_owned(), Source::Issuer));
        assert_eq!(world.ask(&request_of("bob", "read")).unwrap().1, Source::Memory);
        assert_eq!(world.stats().evictions, 1);
    }
}

#[test]
fn an_eviction_removes_what_each_listed_secret_named() {
    let secrets = |letters: &[char]| {
        let secrets: Vec<_> = letters.iter().map(|letter| store_secret(*letter)).collect();
        options_with("storeSecrets", json!(secrets))
    };
    let mut world = World::with_options(secrets(&['a']), true);
    world.ask(&ann()).unwrap();
    world.new_isolate_with(secrets(&['b', 'a']));
    world.ask(&anew(ann())).unwrap();
    assert_eq!(world.store.entries.len(), 2);
    world.evict(&ann());
    assert_eq!(world.store.entries.len(), 0);
    world.new_isolate_with(secrets(&['b', 'a']));
    assert_eq!(world.ask(&ann()).unwrap().1, Source::Issuer);
}

#[test]
fn a_call_after_an_eviction_does_not_join_what_was_under_way_before() {
    let mut world = World::new();
    world.otherwise = Answer::token(3600).after(SECOND);
    let (leader, follower) = (world.call(&ann()), world.call(&ann()));
    world.advance(100);
    world.evict(&ann());
    let afterwards = world.call(&ann());
    world.run();
    for before in [leader, follower] {
        assert_eq!(world.result(before).unwrap().0, "minted~ann~read~1");
    }
    assert_eq!(world.result(afterwards).unwrap(), ("minted~ann~read~2".to_owned(), Source::Issuer));
    world.assert_nothing_is_left();
}

#[test]
fn an_eviction_of_what_nobody_has_is_no_error_and_one_of_a_wrong_request_names_the_field() {
    let mut world = World::with_store();
    world.evict(&ann());
    let now = world.now();
    let mut request = Request::new();
    assert_eq!(
        world.exchanger.evict(&request, EvictionCause::Asked, now).unwrap_err().field.as_deref(),
        Some("assertion")
    );
    request.set(RequestField::Assertion, "a").unwrap();
    assert_eq!(
        world.exchanger.evict(&request, EvictionCause::Asked, now).unwrap_err().field.as_deref(),
        Some("scopes")
    );
}

// ---------------------------------------------------------------- bounds

#[test]
fn memory_stays_bounded_whoever_comes() {
    let mut world = World::new();
    for user in 0..9000 {
        world.ask(&request_of(&format!("user{user}"), "read")).unwrap();
    }
    let stats = world.stats();
    assert!(stats.memory_entries <= 8192 && stats.memory_bytes <= 12 * 1024 * 1024, "{stats:?}");
    assert_eq!(stats.flights, 0);

    let mut world = World::new();
    let large = "x".repeat(MAX_RESPONSE_BYTES - 1000);
    world.otherwise = Answer::respond(200, json!({"access_token": large, "token_type": "Bearer"}).to_string());
    for user in 0..30 {
        world.ask(&request_of(&format!("user{user}"), "read")).unwrap();
    }
    assert!(world.stats().memory_bytes <= 12 * 1024 * 1024);
}

#[test]
fn expired_entries_leave_memory_as_others_come() {
    let mut world = World::new();
    world.otherwise = Answer::token(30);
    for user in 0..100 {
        world.ask(&request_of(&format!("user{user}"), "read")).unwrap();
    }
    world.advance(MINUTE);
    world.otherwise = Answer::token(3600);
    for user in 0..100 {
        world.ask(&request_of(&format!("other{user}"), "read")).unwrap();
    }
    assert_eq!(world.stats().memory_entries, 100);
}
