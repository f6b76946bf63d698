//! What outlives one call: the configuration, the memory cache, the flights, the counters.

use core::ops::ControlFlow;
use std::rc::Rc;

use crate::action::{Action, Event, StoreWrite};
use crate::assertion::AssertionFacts;
use crate::cache::assertion::AssertionTable;
use crate::cache::entry::Entry;
use crate::cache::key::KeyMaker;
use crate::cache::memory::MemoryCache;
use crate::cache::seal::Sealer;
use crate::common::Common;
use crate::config::Config;
use crate::digest::Digest;
use crate::exchange::{Exchange, Settled};
use crate::failure::{Failure, FailureReason};
use crate::flight::{Flight, FlightTable, Generation, Origin, Outcome};
use crate::grant;
use crate::journal::{EventKind, ExchangeEvent, Journal, Stats};
use crate::request::{Request, RequestField};
use crate::time::Timestamp;

/// Exchanges tokens under one configuration.
pub struct Exchanger {
    config: Rc<Config>,
    keys: KeyMaker,
    assertions: AssertionTable,
    memory: MemoryCache,
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

    /// Counts a write into the store, or a removal from it, that failed.
    pub fn store_failed(&mut self) {
        self.common.journal.count(EventKind::StoreFailure);
    }

    /// Forgets the token for `request`; returns the names to remove from the store.
    ///
    /// # Errors
    /// `invalid_request` with the field that is missing or wrong.
    pub fn evict(&mut self, request: &Request, now: Timestamp) -> Result<Vec<String>, Failure> {
        let key = self.key(request)?;
        self.memory.remove(key.digest);
        self.common.identity_assertions.remove(key.digest);
        // Who asks from now on must not be handed what was under way before.
        if let Some(generation) = self.flights.joinable(key.digest, now) {
            self.flights.detach(generation);
        }
        self.common.journal.count(EventKind::Eviction);
        let sealer = Sealer::of(request, key.digest);
        Ok(self.config.store_secrets.iter().filter_map(|secret| sealer.name(secret)).collect())
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
        self.memory.get(key.digest, now).filter(|entry| entry.serve_until() > now).cloned()
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
    pub(crate) fn begin(&mut self, request: &Request, key: RequestKey, shared: bool, now: Timestamp) -> Generation {
        let timeout_ms = self.config.timeout_ms;
        let exchange =
            Exchange::new(self.config.clone(), request.clone(), key.digest, key.assertion, now.plus(timeout_ms));
        self.flights.begin(exchange, key.digest, key.assertion, shared, now, timeout_ms)
    }

    fn settle(&mut self, generation: Generation, mut settled: Settled, now: Timestamp) -> Option<StoreWrite> {
        let flight = self.flights.get(generation)?;
        let key = RequestKey { digest: flight.digest(), assertion: flight.assertion() };
        let shared = flight.is_shared();
        if let Some(entry) = settled.last_minutes {
            self.remember(key, entry, now);
        }
        let outcome = match settled.outcome {
            Ok(entry) => {
                // What was minted later stands, however late this one comes.
                if !self.remember(key, entry.clone(), now) {
                    settled.write = None;
                }
                let origin = if settled.from_store { Origin::Store } else { Origin::Issuer };
                Outcome { result: Ok(entry), origin }
            }
            Err(failure) => match if shared { self.last_resort(key, &failure, now) } else { None } {
                Some(entry) => Outcome { result: Ok(entry), origin: Origin::Memory },
                None => Outcome { result: Err(failure), origin: Origin::Issuer },
            },
        };
        self.flights.land(generation, outcome, now);
        settled.write
    }

    /// Puts an entry into memory, unless a newer one is there.
    fn remember(&mut self, key: RequestKey, entry: Entry, now: Timestamp) -> bool {
        if self.memory.get(key.digest, now).is_some_and(|known| known.minted_at > entry.minted_at) {
            return false;
        }
        self.memory.insert(key.digest, entry, now);
        true
    }

    /// The token in its last minutes, where its renewal failed because the identity provider is away.
    pub(crate) fn last_resort(&mut self, key: RequestKey, failure: &Failure, now: Timestamp) -> Option<Entry> {
        let away = matches!(failure.reason, FailureReason::Unavailable | FailureReason::Throttled);
        if !away || key.assertion.is_expired(now) {
            return None;
        }
        let entry = self.memory.get(key.digest, now).cloned()?;
        self.common.journal.record(ExchangeEvent::of_failure(EventKind::LastResort, failure));
        Some(entry)
    }
}
