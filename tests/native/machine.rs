//! Anything may happen in any order, and some things never do.

use std::collections::BTreeSet;

use obo_edge::assertion::AssertionFacts;
use obo_edge::call::Source;
use obo_edge::exchanger::EvictionCause;
use obo_edge::failure::{FailureReason, TransportFailure};
use obo_edge::journal::EventKind;
use obo_edge::request::Request;
use proptest::prelude::*;

use crate::world::{
    Answer, Bell, Caller, HOUR, MINUTE, Posted, Reading, SECOND, State, World, anew, assertion, at, request_with,
    shared,
};

/// Who asks, with what in hand, for what.
#[derive(Clone, Debug)]
struct Asked {
    user: u8,
    /// Of the second and third, the assertion ends soon.
    sign_in: u32,
    scope: u8,
    shares: bool,
    from_cache: bool,
}

impl Asked {
    fn request(&self) -> Request {
        let user = ["ann", "bob"][usize::from(self.user)];
        let expires_ms = [3 * HOUR, SECOND, 40 * SECOND][self.sign_in as usize];
        let request =
            request_with(&assertion(user, at(expires_ms), self.sign_in), ["read", "write"][usize::from(self.scope)]);
        let request = if self.shares { shared(request) } else { request };
        if self.from_cache { request } else { anew(request) }
    }
}

#[derive(Clone, Debug)]
enum Move {
    Calls {
        asked: Asked,
        callers: u8,
    },
    Aborts {
        caller: prop::sample::Index,
    },
    Advances(u64),
    /// The next token request is answered like this; or, where `for_good`, all from now on.
    Answers {
        answer: Answer,
        for_good: bool,
    },
    Vanishes {
        flight: prop::sample::Index,
        bell: Bell,
    },
    Evicts(Asked, EvictionCause),
    /// What was in the store before the last eviction is there again.
    StoreGoesBack,
    StoreIs(Reading, u64),
    ClockJumps(i64),
}

fn asked() -> impl Strategy<Value = Asked> {
    (0..2_u8, 0..3_u32, prop::bool::weighted(0.2), prop::bool::ANY, prop::bool::weighted(0.85)).prop_map(
        |(user, sign_in, writes, shares, from_cache)| Asked {
            user,
            sign_in,
            scope: u8::from(writes),
            shares,
            from_cache,
        },
    )
}

fn answer() -> impl Strategy<Value = Answer> {
    let what = prop_oneof![
        6 => prop::sample::select(vec![3600_u64, 900, 60, 7, 86_400]).prop_map(Answer::token),
        2 => Just(Answer::respond(503, "")),
        1 => Just(Answer::respond(429, "").retry_after("2")),
        1 => Just(Answer::respond(503, "").retry_after("30")),
        1 => Just(Answer::error(400, "invalid_grant", &[50196])),
        2 => Just(Answer::error(400, "invalid_grant", &[500_133])),
        1 => Just(Answer::error(400, "interaction_required", &[50076])),
        1 => Just(Answer::error(400, "invalid_grant", &[65001])),
        1 => Just(Answer::respond(200, "<html>")),
        1 => Just(Answer::transport(TransportFailure::Network)),
    ];
    let after_ms = prop_oneof![3 => 1..400_u64, 3 => 400..4000_u64, 2 => 4000..12_000_u64, 1 => Just(u64::MAX)];
    (what, after_ms).prop_map(|(what, after_ms)| what.after(after_ms))
}

fn bell() -> impl Strategy<Value = Bell> {
    prop_oneof![Just(Bell::Rejects), Just(Bell::StaysSilent)]
}

fn step() -> impl Strategy<Value = Move> {
    prop_oneof![
        8 => (asked(), 1..5_u8).prop_map(|(asked, callers)| Move::Calls { asked, callers }),
        1 => any::<prop::sample::Index>().prop_map(|caller| Move::Aborts { caller }),
        6 => prop_oneof![3 => 1..500_u64, 2 => 500..12_000_u64, 1 => 30_000..900_000_u64].prop_map(Move::Advances),
        4 => (answer(), prop::bool::weighted(0.2)).prop_map(|(answer, for_good)| Move::Answers { answer, for_good }),
        2 => (any::<prop::sample::Index>(), bell()).prop_map(|(flight, bell)| Move::Vanishes { flight, bell }),
        2 => (asked(), prop::bool::ANY).prop_map(|(asked, refused)| {
            Move::Evicts(asked, if refused { EvictionCause::Refused } else { EvictionCause::Asked })
        }),
        1 => Just(Move::StoreGoesBack),
        1 => (
            prop_oneof![3 => Just(Reading::Works), 1 => Just(Reading::Throws), 1 => Just(Reading::Answers("1.AAAA".into()))],
            prop_oneof![Just(1), Just(300), Just(2000), Just(u64::MAX)],
        ).prop_map(|(reading, after_ms)| Move::StoreIs(reading, after_ms)),
    ]
}

fn jump() -> impl Strategy<Value = Move> {
    let (hour, seconds) = (HOUR as i64, 50 * SECOND as i64);
    prop::sample::select(vec![-hour, hour, -seconds, seconds, -1000, 1000]).prop_map(Move::ClockJumps)
}

/// What is known of a run beside what the world keeps.
#[derive(Default)]
struct Notes {
    evictions: Vec<Eviction>,
    jumped_at_ms: Vec<u64>,
}

struct Eviction {
    request: Request,
    cause: EvictionCause,
    /// How many callers there were, and the real millisecond.
    callers: usize,
    at_ms: u64,
}

impl Notes {
    fn jumped_between(&self, from_ms: u64, to_ms: u64) -> bool {
        self.jumped_at_ms.iter().any(|jumped_ms| (from_ms..=to_ms).contains(jumped_ms))
    }
}

fn play(moves: &[Move]) -> (World, Notes) {
    let (mut world, mut notes) = (World::with_store(), Notes::default());
    let mut stale = world.store.entries.clone();
    // A token endpoint in its right mind refuses an assertion that has ended, whatever the script says.
    world.judge = Some(Box::new(|posted: &Posted| {
        let ended = AssertionFacts::of(&posted.assertion, "").is_expired(posted.sent_at);
        ended.then(|| Answer::error(400, "invalid_grant", &[500_133]).after(30))
    }));
    for step in moves {
        match step {
            Move::Calls { asked, callers } => {
                for _ in 0..*callers {
                    world.call(&asked.request());
                }
            }
            Move::Aborts { caller } if !world.callers.is_empty() => {
                let caller = caller.index(world.callers.len());
                world.abort_after(0, caller);
            }
            Move::Aborts { .. } => {}
            Move::Advances(milliseconds) => world.advance(*milliseconds),
            Move::Answers { answer, for_good: true } => world.otherwise = answer.clone(),
            Move::Answers { answer, for_good: false } => world.answers.push_back(answer.clone()),
            Move::Vanishes { flight, bell } => {
                let flying = world.flying();
                if !flying.is_empty() {
                    world.vanishes(flying[flight.index(flying.len())], *bell);
                }
            }
            Move::Evicts(asked, cause) => {
                stale = world.store.entries.clone();
                let (request, cause) = (asked.request(), *cause);
                if world.evict_because(&request, cause) {
                    let (callers, at_ms) = (world.callers.len(), world.real_ms());
                    notes.evictions.push(Eviction { request, cause, callers, at_ms });
                }
            }
            Move::StoreGoesBack => world.store.entries.extend(stale.clone()),
            Move::StoreIs(reading, after_ms) => {
                world.store.reading = reading.clone();
                world.store.read_after_ms = *after_ms;
            }
            Move::ClockJumps(milliseconds) => {
                world.clock_jumps(*milliseconds);
                notes.jumped_at_ms.push(world.real_ms());
            }
        }
        // What was asked for begins before the next move.
        world.advance(0);
    }
    world.run();
    (world, notes)
}

/// The token request that minted this token.
fn minting<'a>(world: &'a World, token: &str) -> &'a Posted {
    let number: usize = token.rsplit('~').next().unwrap().parse().unwrap();
    let posted = &world.posted[number - 1];
    assert_eq!(posted.token(), token);
    posted
}

fn scopes(request: &Request) -> String {
    request.scopes.join(" ")
}

fn check_caller(world: &World, notes: &Notes, number: usize, caller: &Caller) -> Result<(), TestCaseError> {
    let State::Ended { result, ended_ms, ended_at } = &caller.state else { return Ok(()) };
    let own = caller.request.assertion.reveal();
    let jumped = notes.jumped_between(caller.begun_ms, *ended_ms);
    match result {
        Ok((entry, source)) => {
            let token = entry.token.access_token.reveal();
            let posted = minting(world, token);
            prop_assert_eq!(&posted.user, &crate::world::user_of(own), "another user's");
            prop_assert_eq!(&posted.scopes, &scopes(&caller.request), "for other scopes");
            if caller.request.subject.is_none() {
                prop_assert_eq!(&posted.assertion, own, "another assertion's");
            }
            if !caller.request.from_cache {
                prop_assert_eq!(*source, Source::Issuer);
                prop_assert!(posted.sent_ms >= caller.begun_ms, "caller {} was served what was made before", number);
            }
            if *source == Source::Issuer {
                prop_assert!(posted.sent_ms >= caller.begun_ms);
            }
            // Who asks after an eviction is served nothing that was made before.
            let same_key = |eviction: &&Eviction| {
                key(&eviction.request) == key(&caller.request) && scopes(&eviction.request) == scopes(&caller.request)
            };
            for eviction in notes.evictions.iter().filter(same_key).filter(|eviction| eviction.callers <= number) {
                if eviction.cause == EvictionCause::Asked && notes.jumped_at_ms.is_empty() {
                    prop_assert!(posted.sent_ms >= eviction.at_ms, "caller {}: {} was evicted", number, token);
                }
            }
            // The clock's own errors aside: neither an ended token nor one for an assertion that had ended before.
            if !jumped && notes.jumped_at_ms.is_empty() {
                // Who joins the exchange of the very same assertion gets what that was good enough for.
                let joined = *source == Source::Flight && posted.assertion == own;
                let ended = AssertionFacts::of(own, "").is_expired(caller.begun_at) && !joined;
                prop_assert!(!ended, "caller {} was served from {:?} though its assertion had ended", number, source);
                // Its life counts from when it was asked for, so that one shorter than an exchange may come too late.
                let life_ms = entry.token.expires_at.after(entry.minted_at);
                let lives = entry.token.expires_at > *ended_at || life_ms <= world.timeout_ms;
                prop_assert!(lives, "caller {}: {} has ended", number, token);
                if matches!(source, Source::Memory | Source::Store) {
                    let last = entry.token.expires_at.minus((10 * SECOND).min(life_ms / 2));
                    prop_assert!(
                        *ended_at < last,
                        "caller {}: {} in its last seconds from {:?}",
                        number,
                        token,
                        source
                    );
                    prop_assert!(*ended_at < entry.minted_at.plus(HOUR), "longer than an entry may serve");
                }
                // What was made for another assertion of the subject is not served past this one's own end.
                let foreign = posted.assertion != own;
                prop_assert!(
                    !foreign || !AssertionFacts::of(own, "").is_expired(*ended_at),
                    "caller {} has ended",
                    number
                );
                if *source == Source::Memory {
                    check_newest(world, number, caller, posted)?;
                }
            }
        }
        Err(failure) => {
            prop_assert!(failure.reason != FailureReason::Misconfigured, "{}", failure);
            if failure.reason.is_about_the_assertion() {
                let asked = world.posted.iter().any(|posted| posted.assertion == own && posted.sent_ms <= *ended_ms);
                prop_assert!(asked, "caller {} was refused for another's assertion", number);
            }
            prop_assert!(serde_json::to_string(failure).is_ok_and(|shown| !shown.contains(own)));
        }
    }
    // Timers go by real time, so a wait has its end whatever the clock shows.
    let took_ms = ended_ms - caller.begun_ms;
    let most_ms = if jumped { 4 * world.timeout_ms } else { world.timeout_ms };
    prop_assert!(took_ms <= most_ms, "caller {} took {} ms", number, took_ms);
    Ok(())
}

/// What was made past the caches is never followed by what was made before it.
fn check_newest(world: &World, number: usize, caller: &Caller, served: &Posted) -> Result<(), TestCaseError> {
    let same_key = |other: &&Caller| {
        key(&other.request) == key(&caller.request) && scopes(&other.request) == scopes(&caller.request)
    };
    for forced in world.callers.iter().filter(|other| !other.request.from_cache).filter(same_key) {
        if let State::Ended { result: Ok((entry, _)), ended_ms, .. } = &forced.state
            && *ended_ms < caller.begun_ms
            && entry.serve_until() > caller.begun_at
        {
            let newest = minting(world, entry.token.access_token.reveal());
            prop_assert!(served.sent_ms >= newest.sent_ms, "caller {} was served what a newer token replaced", number);
        }
    }
    Ok(())
}

fn check(moves: &[Move]) -> Result<(), TestCaseError> {
    let (mut world, notes) = play(moves);
    for (number, caller) in world.callers.iter().enumerate() {
        let over = matches!(caller.state, State::Ended { .. } | State::Gone);
        prop_assert!(over, "caller {} is left waiting", number);
        prop_assert!(caller.wakes <= 24, "caller {} was woken {} times", number, caller.wakes);
        let takeovers = caller.call.unwrap().takeovers;
        prop_assert!(takeovers <= 3);
        check_caller(&world, &notes, number, caller)?;
    }
    check_requests(&world, &notes)?;
    // Nothing is left in the table, and every key lives.
    world.advance(2 * MINUTE);
    prop_assert_eq!(world.stats().flights, 0);
    // A hold is longer by what the clock went back.
    world.advance(10 * MINUTE);
    world.answers.clear();
    world.otherwise = Answer::token(3600);
    let users: BTreeSet<_> = world.callers.iter().map(|caller| caller.request.subject.is_some()).collect();
    for shares in users {
        let asked = Asked { user: 0, sign_in: 0, scope: 0, shares, from_cache: true };
        if !AssertionFacts::of(asked.request().assertion.reveal(), "").is_expired(world.now()) {
            let result = world.ask(&asked.request());
            prop_assert!(result.is_ok(), "{:?}", result);
        }
    }
    Ok(())
}

/// Of one key, no more token requests are under way at once than something excuses.
fn check_requests(world: &World, notes: &Notes) -> Result<(), TestCaseError> {
    let forced = world.callers.iter().filter(|caller| !caller.request.from_cache).count();
    let alone = world.callers.iter().filter(|caller| caller.call.unwrap().takeovers >= 3).count();
    let keys: BTreeSet<_> =
        world.callers.iter().map(|caller| (key(&caller.request), scopes(&caller.request))).collect();
    let excused = keys.len() + forced + alone + notes.evictions.len() + notes.jumped_at_ms.len() * keys.len();
    prop_assert!(world.most_posting <= excused, "{} at once, {} excused", world.most_posting, excused);
    // Two attempts of each flight, and a flight for each call and each takeover at the most.
    let takeovers: usize = world.callers.iter().map(|caller| caller.call.unwrap().takeovers as usize).sum();
    let renewals = world.events.iter().filter(|event| event.kind == EventKind::Renewal).count();
    prop_assert!(world.posted.len() <= 2 * (world.callers.len() + takeovers + renewals));
    Ok(())
}

fn key(request: &Request) -> String {
    let assertion = if request.subject.is_some() { "" } else { request.assertion.reveal() };
    format!("{:?}{assertion}", request.subject)
}

fn config() -> ProptestConfig {
    // What fails is kept as a scenario with a name, not as a seed.
    let config = ProptestConfig::default();
    ProptestConfig { cases: config.cases.saturating_mul(3), failure_persistence: None, ..config }
}

proptest! {
    #![proptest_config(config())]
    #[test]
    fn whatever_happens_everybody_gets_their_own_or_a_failure_and_nobody_is_left_waiting(
        moves in prop::collection::vec(step(), 1..40),
    ) {
        check(&moves)?;
    }

    #[test]
    fn whatever_happens_under_a_clock_that_jumps_nobody_is_left_waiting(
        moves in prop::collection::vec(prop_oneof![9 => step(), 1 => jump()], 1..40),
    ) {
        check(&moves)?;
    }
}
