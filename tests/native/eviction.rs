//! Evicted tokens stay away, whatever a store still answers.

use obo_edge::call::Source;
use obo_edge::exchanger::EvictionCause;
use obo_edge::request::Request;

use crate::world::assertion;
use crate::world::{Answer, HOUR, MINUTE, SECOND, World, at, request_of, request_with, shared};

fn ann() -> Request {
    request_of("ann", "read")
}

#[test]
fn a_stale_read_of_the_store_does_not_bring_an_evicted_token_back() {
    for request in [ann(), shared(ann())] {
        let mut world = World::with_store();
        world.ask(&request).unwrap();
        let stale = world.store.entries.clone();
        world.advance(MINUTE);
        world.evict(&request);
        world.store.entries = stale.clone();
        assert_eq!(world.ask(&request).unwrap(), ("minted~ann~read~2".to_owned(), Source::Issuer));
        // For as long as the old one would have served.
        world.store.entries = stale;
        world.advance(50 * MINUTE);
        assert_ne!(world.ask(&request).unwrap().0, "minted~ann~read~1");
    }
}

#[test]
fn a_token_that_was_made_after_an_eviction_is_taken_from_the_store() {
    let mut world = World::with_store();
    world.ask(&ann()).unwrap();
    world.evict(&ann());
    let mut elsewhere = World::with_store();
    elsewhere.advance(world.real_ms() + SECOND);
    elsewhere.ask(&ann()).unwrap();
    world.advance(5 * SECOND);
    world.store.entries = elsewhere.store.entries;
    assert_eq!(world.ask(&ann()).unwrap().1, Source::Store);
}

#[test]
fn an_exchange_that_began_before_an_eviction_answers_its_callers_and_is_kept_nowhere() {
    let mut world = World::with_store();
    world.otherwise = Answer::token(3600).after(SECOND);
    let caller = world.call(&ann());
    world.advance(100);
    world.evict(&ann());
    world.run();
    assert!(world.result(caller).is_ok());
    assert_eq!((world.stats().memory_entries, world.store.entries.len()), (0, 0));
    assert_eq!(world.ask(&ann()).unwrap().1, Source::Issuer);
    assert_eq!((world.stats().memory_entries, world.store.entries.len()), (1, 1));
}

#[test]
fn a_renewal_that_began_before_an_eviction_is_kept_nowhere() {
    let mut world = World::with_store();
    world.ask(&ann()).unwrap();
    world.advance(50 * MINUTE);
    world.call(&ann());
    world.advance(1);
    world.evict(&ann());
    world.run();
    assert_eq!((world.posted.len(), world.stats().memory_entries), (2, 0));
}

#[test]
fn a_refusal_evicts_once_a_minute_and_spares_what_is_newer() {
    let mut world = World::with_store();
    world.ask(&ann()).unwrap();
    let stale = world.store.entries.clone();
    world.advance(10 * MINUTE);
    assert!(world.evict_because(&ann(), EvictionCause::Refused));
    // Another isolate has made a newer one; its clock is a little behind.
    let mut elsewhere = World::with_store();
    elsewhere.advance(9 * MINUTE);
    elsewhere.ask(&ann()).unwrap();
    world.store.entries = elsewhere.store.entries;
    assert_eq!(world.ask(&ann()).unwrap().1, Source::Store);
    world.advance(59 * SECOND);
    assert!(!world.evict_because(&ann(), EvictionCause::Refused), "within a minute");
    assert_eq!(world.ask(&ann()).unwrap().1, Source::Memory);
    world.advance(2 * SECOND);
    assert!(world.evict_because(&ann(), EvictionCause::Refused));
    world.store.entries = stale;
    assert_eq!(world.ask(&ann()).unwrap().1, Source::Issuer);
    // Another user's is another's affair, and who asks is heard at any time.
    assert!(world.evict_because(&request_of("bob", "read"), EvictionCause::Refused));
    assert!(world.evict_because(&ann(), EvictionCause::Asked));
    assert!(world.evict_because(&ann(), EvictionCause::Asked));
}

#[test]
fn a_clock_that_goes_back_brings_nothing_back() {
    let mut world = World::with_store();
    world.advance(2 * HOUR);
    world.ask(&request_with(&assertion("ann", at(24 * HOUR), 1), "read")).unwrap();
    let stale = world.store.entries.clone();
    world.advance(30 * MINUTE);
    world.evict(&ann());
    for jump in [10 * MINUTE, 50 * MINUTE] {
        world.clock_jumps(-(jump as i64));
        world.store.entries = stale.clone();
        assert_ne!(world.ask(&ann()).unwrap().0, "minted~ann~read~1", "back by {jump}");
        world.evict(&ann());
    }
}

#[test]
fn of_too_many_evictions_the_latest_are_known() {
    let mut world = World::with_store();
    let user = |number: usize| request_of(&format!("user{number}"), "read");
    world.otherwise = Answer::token(3600).after(1);
    for number in 0..1030 {
        world.ask(&user(number)).unwrap();
    }
    let stale = world.store.entries.clone();
    for number in 0..1030 {
        world.evict(&user(number));
    }
    world.store.entries = stale;
    for number in 10..1030 {
        assert_eq!(world.ask(&user(number)).unwrap().1, Source::Issuer, "{number}");
    }
}
