//! The flights: exchanges under way, each shared by all who ask for the same key.
//!
//! A flight may end without a word, when the request that it ran in is cancelled. So nobody relies on it:
//! each waits until the instant at which the flight's present step must have reported, then looks here.

use core::ops::ControlFlow;
use std::collections::VecDeque;

use crate::action::{Action, Event};
use crate::assertion::AssertionFacts;
use crate::cache::entry::Entry;
use crate::cache::key::DigestMap;
use crate::common::Common;
use crate::digest::Digest;
use crate::exchange::{Exchange, Settled};
use crate::failure::Failure;
use crate::source::Source;
use crate::time::Timestamp;

/// How much later than its time-out a step may report, in milliseconds.
const GRACE_MS: u64 = 100;
/// How long an outcome stays for those who were told of it, in milliseconds.
const OUTCOME_MS: u64 = 5000;
/// Of more flights than this the oldest go once they have landed. Who comes too late for an outcome finds its token in
/// memory.
const MANY_FLIGHTS: usize = 4096;
/// A clock that went back by more than this, in milliseconds, makes every flight an old one.
const CLOCK_TOLERANCE_MS: u64 = 1000;
/// No flight stays longer than this, in milliseconds: the longest time-out and the outcome's.
const LONGEST_STAY_MS: u64 = 31_000;

/// Which flight. Numbers rise, and are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation(pub u64);

/// How a flight ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The entry, or why there is none.
    pub result: Result<Entry, Failure>,
    /// Where the entry came from, for the one who led the flight.
    pub origin: Source,
}

/// A flight.
pub struct Flight {
    generation: Generation,
    digest: Digest,
    /// The assertion that it exchanges.
    assertion: AssertionFacts,
    shared: bool,
    begun_at: Timestamp,
    /// When its present step must have reported.
    due: Timestamp,
    /// When it leaves the table.
    leaves_at: Timestamp,
    state: State,
}

enum State {
    Flying(Box<Exchange>),
    Landed(Outcome),
}

impl Flight {
    /// The key.
    pub(crate) fn digest(&self) -> Digest {
        self.digest
    }

    /// The assertion that it exchanges.
    pub(crate) fn assertion(&self) -> AssertionFacts {
        self.assertion
    }

    /// Whether others may have joined it.
    pub(crate) fn is_shared(&self) -> bool {
        self.shared
    }

    /// When its present step must have reported.
    pub(crate) fn due(&self) -> Timestamp {
        self.due
    }

    /// How it ended, if it did.
    pub(crate) fn outcome(&self) -> Option<&Outcome> {
        match &self.state {
            State::Landed(outcome) => Some(outcome),
            State::Flying(_) => None,
        }
    }

    fn is_old(&self, now: Timestamp) -> bool {
        self.leaves_at <= now
            || now.plus(CLOCK_TOLERANCE_MS) < self.begun_at
            || now.plus(LONGEST_STAY_MS) < self.leaves_at
    }
}

/// The flights, oldest first, and which of them others may join.
#[derive(Default)]
pub struct FlightTable {
    flights: VecDeque<Flight>,
    joinable: DigestMap<Generation>,
    begun: u64,
}

impl FlightTable {
    /// Begins a flight, which others may join where `shared`.
    pub(crate) fn begin(
        &mut self,
        exchange: Exchange,
        digest: Digest,
        assertion: AssertionFacts,
        shared: bool,
        now: Timestamp,
        timeout_ms: u64,
    ) -> Generation {
        self.sweep(now);
        self.begun = self.begun.saturating_add(1);
        let generation = Generation(self.begun);
        let flight = Flight {
            generation,
            digest,
            assertion,
            shared,
            begun_at: now,
            due: now.plus(GRACE_MS),
            leaves_at: now.plus(timeout_ms).plus(GRACE_MS),
            state: State::Flying(Box::new(exchange)),
        };
        self.flights.push_back(flight);
        if shared {
            self.joinable.insert(digest, generation);
        }
        generation
    }

    /// The flight that others may join for this key.
    pub(crate) fn joinable(&mut self, digest: Digest, now: Timestamp) -> Option<Generation> {
        self.sweep(now);
        let generation = *self.joinable.get(&digest)?;
        if self.get(generation).is_none_or(|flight| flight.is_old(now)) {
            self.joinable.remove(&digest);
            return None;
        }
        Some(generation)
    }

    /// The flight of this generation, flying or landed lately.
    pub(crate) fn get(&self, generation: Generation) -> Option<&Flight> {
        self.flights.get(self.place(generation)?)
    }

    /// Lets nobody join this flight from now on. It flies on, if it still does.
    pub(crate) fn detach(&mut self, generation: Generation) {
        let digest = self.get(generation).map(Flight::digest);
        if let Some(digest) = digest.filter(|digest| self.joinable.get(digest) == Some(&generation)) {
            self.joinable.remove(&digest);
        }
    }

    /// Hands what the host reports to the flight. `None` where there is no such flight, or it landed.
    pub(crate) fn step(
        &mut self,
        generation: Generation,
        now: Timestamp,
        event: Event,
        common: &mut Common,
    ) -> Option<ControlFlow<Settled, Action>> {
        let place = self.place(generation)?;
        let flight = self.flights.get_mut(place)?;
        let State::Flying(exchange) = &mut flight.state else { return None };
        let flow = exchange.step(now, event, common);
        if let ControlFlow::Continue(action) = &flow {
            flight.due = now.plus(action.timeout_ms()).plus(GRACE_MS);
        }
        Some(flow)
    }

    /// Puts the outcome where those who wait will look.
    pub(crate) fn land(&mut self, generation: Generation, outcome: Outcome, now: Timestamp) {
        self.detach(generation);
        let flight = self.place(generation).and_then(|place| self.flights.get_mut(place));
        if let Some(flight) = flight {
            flight.leaves_at = now.plus(OUTCOME_MS);
            flight.state = State::Landed(outcome);
        }
        while self.flights.len() > MANY_FLIGHTS && self.flights.front().is_some_and(|flight| flight.outcome().is_some())
        {
            self.flights.pop_front();
        }
    }

    /// The oldest flight in the table, or the next to come.
    pub(crate) fn oldest(&self) -> Generation {
        self.flights.front().map_or(Generation(self.begun.saturating_add(1)), |flight| flight.generation)
    }

    /// How many flights are under way.
    pub(crate) fn flying(&self) -> usize {
        self.flights.iter().filter(|flight| matches!(flight.state, State::Flying(_))).count()
    }

    /// Lets the oldest flights go whose time is over, with whatever request they ran in.
    pub(crate) fn sweep(&mut self, now: Timestamp) {
        while let Some(oldest) = self.flights.front().filter(|oldest| oldest.is_old(now)) {
            let generation = oldest.generation;
            self.detach(generation);
            self.flights.pop_front();
        }
    }

    fn place(&self, generation: Generation) -> Option<usize> {
        self.flights.binary_search_by_key(&generation, |flight| flight.generation).ok()
    }
}
