//! What outlives one call: the configuration, the memory cache, the flights, the counters.

use core::ops::ControlFlow;
use std::rc::Rc;

use crate::action::{Action, Event, StoreWrite};
use crate::assertion::AssertionFacts;
use crate::cache::assertion::AssertionTable;
use crate::cache::entry::Entry;
use crate::cache::key::{self, KeyMaker};
use crate::cache::memory::MemoryCache;
use crate::cache::recent::Recent;
use crate::cache::seal::Sealer;
use crate::common::Common;
use crate::config::Config;
use crate::coordinator;
use crate::digest::Digest;
use crate::exchange::{Exchange, Purpose, Settled};
use crate::failure::{Failure, FailureReason};
use crate::flight::{Flight, FlightTable, Generation, Outcome};
use crate::grant;
use crate::journal::{EventKind, ExchangeEvent, Journal, Stats};
use crate::request::{Request, RequestField};
use crate::source::Source;
use crate::time::Timestamp;

/// How many failures are remembered.
const MAX_FAILURES: usize = 512;
/// How far apart evictions of a key are that a server's refusals ask for, in milliseconds.
const REFUSAL_PAUSE_MS: u64 = 60_000;

/// Why a token is evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvictionCause {
    /// The caller wants all that was made until now gone.
    Asked,
    /// The server that the token is for refused it. Goes once per key and minute, and spares what is newer.
    Refused,
}

/// Exchanges tokens under one configuration.
pub struct Exchanger {
    config: Rc<Config>,
    keys: KeyMaker,
    assertions: AssertionTable,
    memory: MemoryCache,
    /// Why requests failed a moment ago. Apart from the tokens, so that they never push one out.
    failures: Recent<Failure>,
    flights: FlightTable,
    common: Common,
}

/// The key of a request, and the facts of its assertion.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestKey {
    pub(crate) digest: Digest,
    pub(crate) assertion: AssertionFacts,
}

impl Exchanger {
    /// An exchanger with empty caches.
    pub fn new(config: Config) -> Self {
        Self {
            keys: KeyMaker::new(&config),
            assertions: AssertionTable::new(config.servers.first().map_or("", |server| &server.client_id)),
            config: Rc::new(config),
            memory: MemoryCache::default(),
            failures: Recent::bounded(MAX_FAILURES),
            flights: FlightTable::default(),
            common: Common::default(),
        }
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What happened.
    pub fn journal(&mut self) -> &mut Journal {
        &mut self.common.journal
    }

    /// The counters, and what is held now.
    pub fn stats(&mut self, now: Timestamp) -> Stats {
        self.flights.sweep(now);
        Stats {
            flights: self.flights.flying() as u64,
            memory_entries: self.memory.len() as u64,
            memory_bytes: self.memory.bytes() as u64,
            ..self.common.journal.stats()
        }
    }

    /// Drives a flight: takes what the host did, says what to do next. It ends with the outcome standing in
    /// the table, and maybe something to write into the store.
    pub fn step(
        &mut self,
        generation: Generation,
        now: Timestamp,
        event: Event,
    ) -> ControlFlow<Option<StoreWrite>, Action> {
        match self.flights.step(generation, now, event, &mut self.common) {
            None => ControlFlow::Break(None),
            Some(ControlFlow::Continue(action)) => ControlFlow::Continue(action),
            Some(ControlFlow::Break(settled)) => ControlFlow::Break(self.settle(generation, settled, now)),
        }
    }

    /// The oldest flight in the table, or the next to come; a host may forget what it keeps of those before.
    pub fn oldest_generation(&self) -> Generation {
        self.flights.oldest()
    }

    /// Whether what was written was evicted meanwhile, so that it is to be removed again.
    pub fn is_evicted(&mut self, write: &StoreWrite, now: Timestamp) -> bool {
        self.common.is_buried(write.digest, write.minted_at, now)
    }

    /// Counts a write into the store, or a removal from it, that failed.
    pub fn store_failed(&mut self) {
        self.common.journal.count(EventKind::StoreFailure);
    }

    /// Counts a coordinator that did not evict.
    pub fn coordinator_failed(&mut self) {
        self.common.journal.count(EventKind::CoordinatorFailure);
    }

    /// Forgets the token for `request`; returns its names in the store and among the coordinator's objects, or `None`
    /// where it was forgotten lately. What was made until then does not come back, whatever a store still holds.
    ///
    /// # Errors
    /// `invalid_request` with the field that is missing or wrong.
    pub fn evict(
        &mut self,
        request: &Request,
        cause: EvictionCause,
        now: Timestamp,
    ) -> Result<Option<Vec<String>>, Failure> {
        let key = self.key(request)?;
        let is_refused = cause == EvictionCause::Refused;
        if is_refused && self.common.was_evicted_lately(key.digest, REFUSAL_PAUSE_MS, now) {
            return Ok(None);
        }
        let minted_at = self.memory.get(key.digest, now).map(|entry| entry.minted_at);
        // Another edge's clock may be ahead.
        let minted_until = minted_at.map_or(now, |minted_at| if is_refused { minted_at } else { minted_at.max(now) });
        // By then whatever was made until now serves no more.
        let until = now.plus(self.config.max_lifetime_ms);
        self.common.bury(key.digest, minted_until, now, until);
        self.memory.remove(key.digest);
        self.common.identity_assertions.remove(key.digest);
        self.failures.remove(key::of_failure(key.digest, key.assertion.digest));
        // Who asks from now on must not be handed what was under way before.
        if let Some(generation) = self.flights.joinable(key.digest, now) {
            self.flights.detach(generation);
        }
        self.common.journal.count(EventKind::Eviction);
        Ok(Some(self.names(request, key.digest)))
    }

    /// Whether the coordinator's object of this `name` is the one for `request`.
    ///
    /// # Errors
    /// `invalid_request` with the field that is missing or wrong.
    pub fn is_named(&mut self, request: &Request, name: &str) -> Result<bool, Failure> {
        let key = self.key(request)?;
        Ok(self.names(request, key.digest).iter().any(|own| own == name))
    }

    /// A coordinator's answer: the token for `request`, sealed as for a store, and none that was evicted while it was
    /// made: whoever asks would keep it. The nonce must be fresh and random.
    pub fn sealed_answer(
        &mut self,
        request: &Request,
        entry: &Entry,
        source: Source,
        nonce: [u8; 12],
        now: Timestamp,
    ) -> Option<String> {
        let digest = self.key(request).ok()?.digest;
        if self.common.is_buried(digest, entry.minted_at, now) {
            return None;
        }
        let sealed = Sealer::of(request, digest).seal(self.config.store_secrets.first()?, nonce, entry)?;
        Some(coordinator::sealed(source, &sealed))
    }

    fn names(&self, request: &Request, digest: Digest) -> Vec<String> {
        let sealer = Sealer::of(request, digest);
        self.config.store_secrets.iter().filter_map(|secret| sealer.name(secret)).collect()
    }

    /// Checks `request` and finds its key.
    pub(crate) fn key(&mut self, request: &Request) -> Result<RequestKey, Failure> {
        request.check()?;
        grant::check(self.config.grant, request)?;
        let assertion = self.assertions.facts(&request.assertion);
        Ok(RequestKey { digest: self.keys.key(request, assertion.digest), assertion })
    }

    /// The entry in memory that may be served to whoever presents this assertion now.
    pub(crate) fn remembered(&mut self, key: RequestKey, now: Timestamp) -> Option<Entry> {
        if key.assertion.is_expired(now) {
            return None;
        }
        self.memory.get(key.digest, now).filter(|entry| entry.is_served(now)).cloned()
    }

    /// Why the same request failed a moment ago.
    pub(crate) fn remembered_failure(&mut self, key: RequestKey, now: Timestamp) -> Option<Failure> {
        let note = self.failures.get(key::of_failure(key.digest, key.assertion.digest), now)?;
        (!note.is_from_the_future(now)).then(|| note.value.clone())
    }

    /// Whether a renewal of this entry is to begin now, for whoever presents this assertion.
    pub(crate) fn renews(&mut self, key: RequestKey, entry: &Entry, now: Timestamp) -> bool {
        // A new entry would end with the assertion, too.
        now >= entry.renew_at()
            && key.assertion.expires_at.is_none_or(|expiry| entry.serve_until() < expiry)
            && self.memory.begins_renewal(key.digest, now)
            && self.flights.joinable(key.digest, now).is_none()
    }

    /// Why the identity provider would refuse the assertion in any case.
    pub(crate) fn objection(&self, request: &Request, key: RequestKey, now: Timestamp) -> Option<Failure> {
        if !self.config.inspect_assertion {
            return None;
        }
        let objection = self.config.grant.objection(request, &key.assertion);
        let objection = objection.or_else(|| key.assertion.untimely(now))?;
        Some(Failure::of_field(FailureReason::AssertionRejected, RequestField::Assertion.name(), objection))
    }

    /// The flight of this generation.
    pub(crate) fn flight(&self, generation: Generation) -> Option<&Flight> {
        self.flights.get(generation)
    }

    /// The flight that may be joined for this key.
    pub(crate) fn joinable(&mut self, key: RequestKey, now: Timestamp) -> Option<Generation> {
        self.flights.joinable(key.digest, now)
    }

    /// Lets nobody join this flight from now on.
    pub(crate) fn detach(&mut self, generation: Generation) {
        self.flights.detach(generation);
    }

    /// Begins a flight. Its time is its own: one caller's deadline never ends what others wait for.
    pub(crate) fn begin(
        &mut self,
        request: &Request,
        key: RequestKey,
        purpose: Purpose,
        shared: bool,
        now: Timestamp,
    ) -> Generation {
        let (config, evictions) = (self.config.clone(), self.common.evictions);
        let timeout_ms = config.timeout_ms;
        let exchange = Exchange::new(config, request.clone(), key.digest, key.assertion, purpose, evictions, now);
        self.flights.begin(exchange, key.digest, key.assertion, shared, now, timeout_ms)
    }

    fn settle(&mut self, generation: Generation, mut settled: Settled, now: Timestamp) -> Option<StoreWrite> {
        let flight = self.flights.get(generation)?;
        let key = RequestKey { digest: flight.digest(), assertion: flight.assertion() };
        let shared = flight.is_shared();
        if let Some(entry) = settled.last_minutes.filter(|_| !settled.evicted) {
            self.remember(key, entry, now);
        }
        let failure_key = key::of_failure(key.digest, key.assertion.digest);
        let outcome = match settled.outcome {
            Ok(entry) => {
                self.failures.remove(failure_key);
                // What was minted later stands, however late this one comes; what was evicted meanwhile stays away.
                if settled.evicted || !self.remember(key, entry.clone(), now) {
                    settled.write = None;
                }
                Outcome { result: Ok(entry), origin: settled.origin }
            }
            Err(failure) => {
                // What a server answered, and not what was found here: that costs nothing, and may be mended.
                let remembered_ms = failure.reason.remembered_ms();
                if remembered_ms > 0 && failure.status.is_some() {
                    self.failures.insert(failure_key, failure.clone(), now, now.plus(remembered_ms));
                }
                match if shared { self.last_resort(key, &failure, now) } else { None } {
                    Some(entry) => Outcome { result: Ok(entry), origin: Source::Memory },
                    None => Outcome { result: Err(failure), origin: Source::Issuer },
                }
            }
        };
        self.flights.land(generation, outcome, now);
        settled.write
    }

    /// Puts an entry into memory, unless it or a newer one is there. Returns whether it is the newest.
    fn remember(&mut self, key: RequestKey, entry: Entry, now: Timestamp) -> bool {
        match self.memory.get(key.digest, now) {
            Some(known) if known.minted_at > entry.minted_at => return false,
            // The same stays as it is, and with it when it was last renewed.
            Some(known) if *known == entry => {}
            _ => self.memory.insert(key.digest, entry, now),
        }
        true
    }

    /// The token in its last minutes, where its renewal failed because the identity provider is away.
    pub(crate) fn last_resort(&mut self, key: RequestKey, failure: &Failure, now: Timestamp) -> Option<Entry> {
        let away = matches!(failure.reason, FailureReason::Unavailable | FailureReason::Throttled);
        if !away || key.assertion.is_expired(now) {
            return None;
        }
        let entry = self.memory.get(key.digest, now).cloned()?;
        // A renewal that fails before serving ends costs nobody anything.
        if !entry.is_served(now) {
            self.common.journal.record(ExchangeEvent::of_failure(EventKind::LastResort, failure));
        }
        Some(entry)
    }
}
