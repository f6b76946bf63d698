//! One exchange, from the store to the token: the machine of one flight.
//!
//! The host asks [`Exchange::step`] what to do, does it, and reports what came of it. No step is taken
//! twice, and each ends: every action names its time-out.

use core::ops::ControlFlow;
use std::rc::Rc;

use sha2::{Digest as _, Sha256};

use crate::action::{Action, Event, MAX_RESPONSE_BYTES, Response, StoreWrite};
use crate::assertion::AssertionFacts;
use crate::attempt::{Attempt, Progress, redirected};
use crate::cache::entry::Entry;
use crate::cache::seal::Sealer;
use crate::common::Common;
use crate::config::{Config, StoreSecret};
use crate::digest::Digest;
use crate::error_response;
use crate::failure::{Failure, FailureReason, TransportFailure};
use crate::grant::{Leg, Presented};
use crate::journal::{EventKind, ExchangeEvent};
use crate::request::Request;
use crate::secret::Secret;
use crate::time::Timestamp;
use crate::token::Token;

/// How long a read of the store may take, in milliseconds; and at most a quarter of what is left.
const STORE_READ_MS: u64 = 1500;
/// How long a write may take, in milliseconds. Nobody waits for it.
const STORE_WRITE_MS: u64 = 10_000;
/// The shortest life that Workers KV accepts for an entry, in milliseconds.
const MIN_STORE_LIFE_MS: u64 = 60_000;

/// How an exchange ended.
#[derive(Debug)]
pub struct Settled {
    /// The entry, or why there is none.
    pub outcome: Result<Entry, Failure>,
    /// Whether the entry came from the store.
    pub from_store: bool,
    /// An entry in its last minutes that the store had.
    pub last_minutes: Option<Entry>,
    /// What to write into the store, in the background.
    pub write: Option<StoreWrite>,
}

/// The machine.
pub struct Exchange {
    config: Rc<Config>,
    request: Request,
    digest: Digest,
    assertion: AssertionFacts,
    deadline: Timestamp,
    random: [u8; 32],
    /// How often random bytes were derived.
    draws: u64,
    last_minutes: Option<Entry>,
    /// Which of the grant's legs.
    leg: usize,
    /// Attempts at this leg.
    attempts: u64,
    /// Attempts in all.
    requests: u64,
    /// What the leg before gave.
    identity_assertion: Option<Entry>,
    /// What a server refused once and was renewed is not renewed again.
    renewed_client_assertion: bool,
    renewed_identity_assertion: bool,
    state: State,
}

enum State {
    Made,
    ReadingStore { secret: usize },
    Attempting(Attempt),
    Sleeping,
    Ended,
}

impl Exchange {
    /// An exchange of `request`, whose key is `digest`, that may take until `deadline`.
    pub(crate) fn new(
        config: Rc<Config>,
        request: Request,
        digest: Digest,
        assertion: AssertionFacts,
        deadline: Timestamp,
    ) -> Self {
        Self {
            config,
            request,
            digest,
            assertion,
            deadline,
            random: [0; 32],
            draws: 0,
            last_minutes: None,
            leg: 0,
            attempts: 0,
            requests: 0,
            identity_assertion: None,
            renewed_client_assertion: false,
            renewed_identity_assertion: false,
            state: State::Made,
        }
    }

    /// Takes what the host reports, and says what to do next or how it ended.
    pub fn step(&mut self, now: Timestamp, event: Event, common: &mut Common) -> ControlFlow<Settled, Action> {
        // A clock that went back must not lengthen what is left.
        self.deadline = self.deadline.min(now.plus(self.config.timeout_ms));
        match (core::mem::replace(&mut self.state, State::Ended), event) {
            (State::Made, Event::Begun(random)) => {
                self.random = random;
                if self.request.from_cache { self.read_store(0, now, common) } else { self.attempt(now, common) }
            }
            (State::ReadingStore { secret }, Event::StoreRead(Some(text))) => match self.open(secret, &text) {
                // Nothing is served past the presented assertion's own end.
                Some(_) if self.assertion.is_expired(now) => self.first_leg(now, common),
                Some(entry) if entry.serve_until() > now => {
                    common.journal.count(EventKind::StoreHit);
                    self.end(Ok(entry), true, None)
                }
                // In its last minutes or past them: a new one is due.
                Some(entry) => {
                    self.last_minutes = Some(entry);
                    self.first_leg(now, common)
                }
                None => {
                    common.journal.count(EventKind::SealFailure);
                    self.read_store(secret.saturating_add(1), now, common)
                }
            },
            (State::ReadingStore { secret }, Event::StoreRead(None)) => {
                self.read_store(secret.saturating_add(1), now, common)
            }
            (State::ReadingStore { .. }, Event::StoreFailed) => {
                common.journal.count(EventKind::StoreFailure);
                self.first_leg(now, common)
            }
            (State::Attempting(mut attempt), event) => {
                let progress = attempt.step(event, &self.config, now, common);
                self.progress(attempt, progress, now, common)
            }
            (State::Sleeping, Event::Slept) => self.attempt(now, common),
            (_, _) => self.end_in_failure(Failure::unasked(), common),
        }
    }

    /// Reads the store under the name that the listed secret number `secret` gives, or goes on without.
    fn read_store(&mut self, secret: usize, now: Timestamp, common: &mut Common) -> ControlFlow<Settled, Action> {
        match self.config.store_secrets.get(secret).and_then(|listed| self.sealer().name(listed)) {
            Some(name) => {
                self.state = State::ReadingStore { secret };
                let timeout_ms = STORE_READ_MS.min(self.deadline.after(now) / 4).max(1);
                ControlFlow::Continue(Action::ReadStore { name, timeout_ms })
            }
            None => self.first_leg(now, common),
        }
    }

    /// Begins with the first leg whose result is not at hand.
    fn first_leg(&mut self, now: Timestamp, common: &mut Common) -> ControlFlow<Settled, Action> {
        let known = common.identity_assertions.get(self.digest, now);
        let known = known.filter(|entry| entry.serve_until() > now && !self.assertion.is_expired(now));
        if let Some(entry) = known.cloned() {
            self.begin_leg(self.leg.saturating_add(1), Some(entry));
        }
        self.attempt(now, common)
    }

    fn begin_leg(&mut self, leg: usize, identity_assertion: Option<Entry>) {
        (self.leg, self.attempts, self.identity_assertion) = (leg, 0, identity_assertion);
    }

    /// Makes an attempt at the present leg.
    fn attempt(&mut self, now: Timestamp, common: &mut Common) -> ControlFlow<Settled, Action> {
        if self.deadline <= now {
            return self.end_in_failure(Failure::timed_out(), common);
        }
        let legs = self.config.grant.legs();
        let Some(leg) = legs.get(self.leg) else { return self.end_in_failure(Failure::unasked(), common) };
        let further = legs.len().saturating_sub(self.leg).saturating_sub(1) as u64;
        let timeout_ms = self.config.retry.attempt_ms(self.attempts, further, now, self.deadline);
        self.attempts = self.attempts.saturating_add(1);
        self.requests = self.requests.saturating_add(1);
        let form = leg.parameters(&Presented {
            request: &self.request,
            assertion: self.presented(),
            resource_issuer: self.config.resource_issuer(),
        });
        let jti = self.derive(b"jti");
        let mut attempt = Attempt::new(self.leg, self.requests, form, jti, now.plus(timeout_ms));
        let progress = attempt.begin(&self.config, now, common);
        self.progress(attempt, progress, now, common)
    }

    fn progress(
        &mut self,
        attempt: Attempt,
        progress: Progress,
        now: Timestamp,
        common: &mut Common,
    ) -> ControlFlow<Settled, Action> {
        match progress {
            Ok(ControlFlow::Continue(action)) => {
                self.state = State::Attempting(attempt);
                ControlFlow::Continue(action)
            }
            Ok(ControlFlow::Break((response, sent_at))) => self.responded(&attempt, &response, sent_at, now, common),
            Err(failure) => self.failed(failure, now, common),
        }
    }

    fn responded(
        &mut self,
        attempt: &Attempt,
        response: &Response,
        sent_at: Timestamp,
        now: Timestamp,
        common: &mut Common,
    ) -> ControlFlow<Settled, Action> {
        let legs = self.config.grant.legs();
        let Some(leg) = legs.get(self.leg).copied() else { return self.end_in_failure(Failure::unasked(), common) };
        match self.read(leg, response, sent_at, now) {
            Ok(token) => {
                let number = Some(self.requests);
                common.journal.record(ExchangeEvent { attempt: number, ..ExchangeEvent::of(EventKind::Token) });
                if self.leg.saturating_add(1) < legs.len() {
                    return self.next_leg(token, sent_at, now, common);
                }
                let entry = Entry::new(token, sent_at, self.assertion.expires_at, self.config.max_lifetime_ms);
                let write = self.store_write(&entry, now);
                self.end(Ok(entry), false, write)
            }
            Err(failure) => {
                if self.renews_client_assertion(leg, attempt, &failure, common)
                    || self.renews_identity_assertion(&failure, common)
                {
                    common.journal.record(ExchangeEvent {
                        attempt: Some(self.requests),
                        wait_ms: Some(0),
                        ..ExchangeEvent::of_failure(EventKind::Retry, &failure)
                    });
                    return self.attempt(now, common);
                }
                self.failed(self.naming_the_server(failure), now, common)
            }
        }
    }

    /// Of two servers the message names the second, or an operator of two clients looks at the wrong one.
    fn naming_the_server(&self, mut failure: Failure) -> Failure {
        if self.leg > 0 && failure.field.is_none() {
            failure.message = ["resourceAuthorizationServer: ", &failure.message].concat();
        }
        failure
    }

    /// What the response is: a token, or why not.
    fn read(&self, leg: &dyn Leg, response: &Response, sent_at: Timestamp, now: Timestamp) -> Result<Token, Failure> {
        if response.body.len() > MAX_RESPONSE_BYTES {
            return Err(TransportFailure::TooLarge.into());
        }
        if (200..300).contains(&response.status) {
            let token = Token::read(leg, &self.request, self.presented(), &response.body, sent_at);
            return token.map_err(|mut failure| {
                failure.status = Some(response.status);
                failure
            });
        }
        if (300..400).contains(&response.status) {
            let mut failure = self.config.servers.get(self.leg).map_or_else(Failure::unasked, redirected);
            failure.status = Some(response.status);
            return Err(failure);
        }
        let presented = [&self.request.assertion, self.presented()];
        let retry_after = response.retry_after.as_deref();
        Err(error_response::classify(leg, presented, response.status, retry_after, &response.body, now))
    }

    /// Goes on with what this leg gave, and keeps it.
    fn next_leg(
        &mut self,
        mut token: Token,
        sent_at: Timestamp,
        now: Timestamp,
        common: &mut Common,
    ) -> ControlFlow<Settled, Action> {
        // Servers leave out expires_in here: the assertion itself says how long it is good for.
        if let Some(expiry) = AssertionFacts::of(token.access_token.reveal(), "").expires_at {
            token.expires_at = token.expires_at.min(expiry);
        }
        let entry = Entry::new(token, sent_at, self.assertion.expires_at, self.config.max_lifetime_ms);
        common.identity_assertions.insert(self.digest, entry.clone(), now);
        // It was refused as kept from before; a fresh one is not renewed.
        self.renewed_identity_assertion = true;
        self.begin_leg(self.leg.saturating_add(1), Some(entry));
        self.attempt(now, common)
    }

    /// What this leg presents.
    fn presented(&self) -> &Secret {
        self.identity_assertion.as_ref().map_or(&self.request.assertion, |entry| &entry.token.access_token)
    }

    /// Whether a fresh client assertion is to be tried, once.
    fn renews_client_assertion(
        &mut self,
        leg: &dyn Leg,
        attempt: &Attempt,
        failure: &Failure,
        common: &mut Common,
    ) -> bool {
        let is_outdated = failure.reason == FailureReason::Misconfigured
            && failure.error.as_deref() == Some("invalid_client")
            && leg.wants_a_fresh_client_assertion(&failure.error_codes)
            && attempt.may_be_outdated();
        if is_outdated {
            attempt.drop_client_assertion(common);
        }
        let renews = is_outdated && !core::mem::replace(&mut self.renewed_client_assertion, true);
        if renews {
            // The server looked at nothing but the client: this was no attempt.
            self.attempts = self.attempts.saturating_sub(1);
        }
        renews
    }

    /// Whether the first leg is to run once more, for what it gave an earlier exchange was refused.
    fn renews_identity_assertion(&mut self, failure: &Failure, common: &mut Common) -> bool {
        // A server that is away says nothing about what it was shown, whatever its `error`.
        let is_refused = failure.reason == FailureReason::AssertionRejected;
        if self.identity_assertion.is_none() || !is_refused || failure.error.as_deref() != Some("invalid_grant") {
            return false;
        }
        common.identity_assertions.remove(self.digest);
        let renews = !core::mem::replace(&mut self.renewed_identity_assertion, true);
        if renews {
            self.begin_leg(0, None);
        }
        renews
    }

    fn failed(&mut self, failure: Failure, now: Timestamp, common: &mut Common) -> ControlFlow<Settled, Action> {
        let random = u64::from_be_bytes(self.derive(b"jitter"));
        match self.config.retry.wait(self.attempts, &failure, now, self.deadline, random) {
            Some(wait_ms) => {
                self.state = State::Sleeping;
                common.journal.record(ExchangeEvent {
                    attempt: Some(self.requests),
                    wait_ms: Some(wait_ms),
                    ..ExchangeEvent::of_failure(EventKind::Retry, &failure)
                });
                ControlFlow::Continue(Action::Sleep { wait_ms })
            }
            None => self.end_in_failure(failure, common),
        }
    }

    fn end_in_failure(&mut self, failure: Failure, common: &mut Common) -> ControlFlow<Settled, Action> {
        common.journal.record(ExchangeEvent {
            attempt: Some(self.requests),
            ..ExchangeEvent::of_failure(EventKind::Failure, &failure)
        });
        self.end(Err(failure), false, None)
    }

    fn end(
        &mut self,
        outcome: Result<Entry, Failure>,
        from_store: bool,
        write: Option<StoreWrite>,
    ) -> ControlFlow<Settled, Action> {
        ControlFlow::Break(Settled { outcome, from_store, last_minutes: self.last_minutes.take(), write })
    }

    fn open(&self, secret: usize, text: &str) -> Option<Entry> {
        let mut entry = self.sealer().open(self.config.store_secrets.get(secret)?, text)?;
        // Another Worker's configuration, or this one's of yesterday, may have allowed more.
        entry.bound = entry.bound.min(entry.minted_at.plus(self.config.max_lifetime_ms));
        Some(entry)
    }

    fn store_write(&mut self, entry: &Entry, now: Timestamp) -> Option<StoreWrite> {
        let nonce = self.derive(b"nonce");
        let secret: &StoreSecret = self.config.store_secrets.first()?;
        let life_ms = entry.last_resort_until().after(now);
        if life_ms < MIN_STORE_LIFE_MS {
            return None;
        }
        let sealer = self.sealer();
        Some(StoreWrite {
            name: sealer.name(secret)?,
            value: sealer.seal(secret, nonce, entry)?,
            expires_in_seconds: life_ms / 1000,
            timeout_ms: STORE_WRITE_MS,
        })
    }

    fn sealer(&self) -> Sealer<'_> {
        Sealer::of(&self.request, self.digest)
    }

    /// Random bytes for one use, from those that the exchange began with.
    fn derive<const N: usize>(&mut self, r#use: &[u8]) -> [u8; N] {
        self.draws = self.draws.saturating_add(1);
        let digest = Sha256::new().chain_update(self.random).chain_update(r#use);
        let digest = digest.chain_update(self.draws.to_be_bytes()).finalize();
        let mut bytes = [0; N];
        bytes.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
        bytes
    }
}
