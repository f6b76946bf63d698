//! One caller: it hits, leads or joins, and never waits without an end.
//!
//! A call is a few numbers, so that a host may keep it where a cancelled request costs nothing.

use crate::cache::entry::Entry;
use crate::exchange::Purpose;
use crate::exchanger::{Exchanger, RequestKey};
use crate::failure::{Failure, FailureReason};
use crate::flight::Generation;

use crate::journal::{EventKind, ExchangeEvent};
use crate::request::Request;
pub use crate::source::Source;
use crate::time::Timestamp;

/// How often a call begins anew because the flight that it waited for came to nothing.
const MAX_TAKEOVERS: u32 = 3;

/// What the host reports to a call that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// The flight's bell rang: its outcome stands in the table.
    Rang,
    /// The wait that was asked for is over.
    TimedOut,
    /// The request that the flight ran in has ended.
    Orphaned,
    /// The caller's own signal fired.
    Aborted,
}

/// What a call wants next.
#[derive(Debug)]
pub enum Turn {
    /// The answer.
    Answer(Entry, Source),
    /// The answer, from memory; start this flight, for which nobody waits.
    AnswerAndRenew(Entry, Generation),
    /// The failure.
    Fail(Failure),
    /// Start this flight, then wait for it as with [`Turn::Wait`].
    Lead(Generation),
    /// Wait for this flight's bell, for [`Call::wait_ms`], or for the caller's signal, then [`Call::wake`].
    Wait(Generation),
}

/// A caller's machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// When the caller's time is up.
    pub deadline: Timestamp,
    /// The flight that it waits for.
    pub generation: Generation,
    /// When that flight's step must report, as it was when the wait began.
    pub due: Timestamp,
    /// How often it began anew.
    pub takeovers: u32,
    /// Whether it leads that flight.
    pub leads: bool,
}

impl Call {
    /// A call that asks for nothing yet.
    pub const fn idle() -> Self {
        let start = Timestamp::from_millis(0);
        Self { deadline: start, generation: Generation(0), due: start, takeovers: 0, leads: false }
    }

    /// A call begins.
    pub fn begin(exchanger: &mut Exchanger, request: &Request, now: Timestamp) -> (Self, Turn) {
        let mut call = Self { deadline: now.plus(exchanger.config().timeout_ms), ..Self::idle() };
        let turn = match exchanger.key(request) {
            Ok(key) => call.look(exchanger, request, key, now),
            Err(failure) => Turn::Fail(failure),
        };
        (call, turn)
    }

    /// A wait ends.
    pub fn wake(&mut self, exchanger: &mut Exchanger, request: &Request, now: Timestamp, wake: Wake) -> Turn {
        if wake == Wake::Aborted {
            return Turn::Fail(Failure::cancelled());
        }
        let key = match exchanger.key(request) {
            Ok(key) => key,
            Err(failure) => return Turn::Fail(failure),
        };
        let flight = exchanger.flight(self.generation);
        if let Some(outcome) = flight.and_then(|flight| flight.outcome()) {
            let foreign = flight.is_some_and(|flight| flight.assertion().digest != key.assertion.digest);
            return match &outcome.result {
                // Its own assertion has ended: another's success is not for it.
                Ok(_) if foreign && key.assertion.is_expired(now) => self.take_over(exchanger, request, key, true, now),
                Ok(entry) => Turn::Answer(entry.clone(), self.source(outcome.origin)),
                Err(failure) if foreign && failure.reason.is_about_the_assertion() => {
                    self.take_over(exchanger, request, key, true, now)
                }
                Err(failure) => Turn::Fail(failure.clone()),
            };
        }
        if wake == Wake::TimedOut {
            // By the wait that was asked for, and not by the clock, which may have gone back.
            if self.deadline <= self.due || self.deadline <= now {
                return late(exchanger, request, key, now);
            }
            if flight.is_some_and(|flight| flight.due() != self.due) {
                return Turn::Wait(self.generation);
            }
        }
        exchanger.detach(self.generation);
        self.take_over(exchanger, request, key, false, now)
    }

    /// How long to wait now, in milliseconds: until the flight's present step must have reported, and no
    /// longer than the caller's own time.
    pub fn wait_ms(&mut self, exchanger: &Exchanger, now: Timestamp) -> u64 {
        // A clock that went back must not lengthen what the caller waits.
        self.deadline = self.deadline.min(now.plus(exchanger.config().timeout_ms));
        self.due = exchanger.flight(self.generation).map_or(now, |flight| flight.due());
        self.due.min(self.deadline).after(now).max(1)
    }

    /// Memory first, then a flight to join, then a flight of its own.
    fn look(&mut self, exchanger: &mut Exchanger, request: &Request, key: RequestKey, now: Timestamp) -> Turn {
        if request.from_cache
            && let Some(entry) = exchanger.remembered(key, now)
        {
            exchanger.journal().count(EventKind::MemoryHit);
            if exchanger.renews(key, &entry, now) {
                exchanger.journal().count(EventKind::Renewal);
                let purpose = Purpose::Renewal(entry.serve_until());
                self.generation = exchanger.begin(request, key, purpose, true, now);
                return Turn::AnswerAndRenew(entry, self.generation);
            }
            return Turn::Answer(entry, Source::Memory);
        }
        // Before anybody is asked, or joined who asks.
        if let Some(failure) = exchanger.objection(request, key, now) {
            return Turn::Fail(failure);
        }
        if request.from_cache
            && let Some(failure) = exchanger.remembered_failure(key, now)
        {
            exchanger.journal().record(ExchangeEvent::of_failure(EventKind::RememberedFailure, &failure));
            return Turn::Fail(failure);
        }
        if request.from_cache
            && let Some(generation) = exchanger.joinable(key, now)
        {
            exchanger.journal().count(EventKind::Join);
            self.generation = generation;
            self.leads = false;
            return Turn::Wait(generation);
        }
        self.lead(exchanger, request, key, request.from_cache, now)
    }

    fn lead(
        &mut self,
        exchanger: &mut Exchanger,
        request: &Request,
        key: RequestKey,
        shared: bool,
        now: Timestamp,
    ) -> Turn {
        self.generation = exchanger.begin(request, key, Purpose::Answer, shared, now);
        self.leads = true;
        Turn::Lead(self.generation)
    }

    /// Begins anew after a flight that came to nothing for this caller. `foreign`: because of another's assertion.
    fn take_over(
        &mut self,
        exchanger: &mut Exchanger,
        request: &Request,
        key: RequestKey,
        foreign: bool,
        now: Timestamp,
    ) -> Turn {
        if self.deadline <= now {
            return late(exchanger, request, key, now);
        }
        if self.takeovers >= MAX_TAKEOVERS {
            let failure = Failure::new(FailureReason::Unavailable, "the exchange was interrupted too often");
            return Turn::Fail(failure);
        }
        self.takeovers = self.takeovers.saturating_add(1);
        exchanger.journal().count(EventKind::Takeover);
        // The last time on its own: what others' assertions come to must not decide.
        if foreign && self.takeovers == MAX_TAKEOVERS {
            return self.lead(exchanger, request, key, false, now);
        }
        self.look(exchanger, request, key, now)
    }

    fn source(&self, origin: Source) -> Source {
        if self.leads || origin == Source::Memory { origin } else { Source::Flight }
    }
}

/// The caller's time is up: a token in its last minutes, or a failure.
fn late(exchanger: &mut Exchanger, request: &Request, key: RequestKey, now: Timestamp) -> Turn {
    let failure = Failure::timed_out();
    match if request.from_cache { exchanger.last_resort(key, &failure, now) } else { None } {
        Some(entry) => Turn::Answer(entry, Source::Memory),
        None => Turn::Fail(failure),
    }
}
