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
use crate::cache::key;
use crate::cache::seal::Sealer;
use crate::common::Common;
use crate::config::{Config, StoreSecret};
use crate::coordinator::{self, Answer};
use crate::digest::Digest;
use crate::error_response;
use crate::failure::{Failure, FailureReason, TransportFailure};
use crate::grant::{Leg, Presented};
use crate::journal::{EventKind, ExchangeEvent};
use crate::request::Request;
use crate::secret::Secret;
use crate::source::Source;
use crate::throttle::{Pass, Throttled};
use crate::time::Timestamp;
use crate::token::Token;

/// How long a read of the store may take, in milliseconds; and at most a quarter of what is left.
const STORE_READ_MS: u64 = 1500;
/// How long a write may take, in milliseconds. Nobody waits for it.
const STORE_WRITE_MS: u64 = 10_000;
/// The shortest life that Workers KV accepts for an entry, in milliseconds.
const MIN_STORE_LIFE_MS: u64 = 60_000;

/// The longest that a renewal waits before it begins, in milliseconds: other edges hit the same entry, and the first
/// of them may have renewed it then.
const RENEWAL_JITTER_MS: u64 = 2000;

/// What an exchange is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Somebody waits for it.
    Answer,
    /// What is served until this instant is renewed in the background.
    Renewal(Timestamp),
}

/// How an exchange ended.
#[derive(Debug)]
pub struct Settled {
    /// The entry, or why there is none.
    pub outcome: Result<Entry, Failure>,
    /// Where the entry came from.
    pub origin: Source,
    /// An entry in its last minutes that the store had.
    pub last_minutes: Option<Entry>,
    /// Whether the key was evicted meanwhile, so that nothing of this is kept.
    pub evicted: bool,
    /// What to write into the store, in the background.
    pub write: Option<StoreWrite>,
}

/// The machine.
pub struct Exchange {
    config: Rc<Config>,
    request: Request,
    digest: Digest,
    assertion: AssertionFacts,
    purpose: Purpose,
    /// Until when the coordinator may answer.
    coordinated_until: Timestamp,
    deadline: Timestamp,
    /// How many evictions there were when it began.
    evictions: u64,
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
    /// How it got past the throttles at this leg's server.
    passed: Option<Pass>,
    state: State,
}

enum State {
    Made,
    /// A renewal waits for others to be first.
    Lingering,
    ReadingStore {
        secret: usize,
    },
    Coordinating,
    Attempting(Attempt),
    Sleeping,
    Ended,
}

impl Exchange {
    /// An exchange of `request`, whose key is `digest`, that begins now, after so many `evictions`.
    pub(crate) fn new(
        config: Rc<Config>,
        request: Request,
        digest: Digest,
        assertion: AssertionFacts,
        purpose: Purpose,
        evictions: u64,
        now: Timestamp,
    ) -> Self {
        let timeout_ms = config.timeout_ms;
        Self {
            config,
            request,
            digest,
            assertion,
            purpose,
            coordinated_until: now.plus(timeout_ms.saturating_mul(coordinator::SHARE_PERCENT) / 100),
            deadline: now.plus(timeout_ms),
            evictions,
            random: [0; 32],
            draws: 0,
            last_minutes: None,
            leg: 0,
            attempts: 0,
            requests: 0,
            identity_assertion: None,
            renewed_client_assertion: false,
            renewed_identity_assertion: false,
            passed: None,
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
                match self.purpose {
                    Purpose::Renewal(served_until) => {
                        self.state = State::Lingering;
                        let most_ms = RENEWAL_JITTER_MS.min(served_until.after(now) / 4);
                        let wait_ms = self.random_below(most_ms);
                        ControlFlow::Continue(Action::Sleep { wait_ms })
                    }
                    Purpose::Answer if self.request.from_cache => self.read_store(0, now, common),
                    Purpose::Answer => self.coordinate(now, common),
                }
            }
            (State::Lingering, Event::Slept) => self.read_store(0, now, common),
            (State::ReadingStore { secret }, Event::StoreRead(Some(text))) => match self.open(secret, &text) {
                // Nothing is served past the presented assertion's own end, and nothing that was evicted.
                Some(entry) if !self.may_keep(&entry, now, common) => self.coordinate(now, common),
                Some(entry) if self.answers(&entry, now) => {
                    common.journal.count(EventKind::StoreHit);
                    self.end(Ok(entry), Source::Store, None, now, common)
                }
                // In its last minutes or past them: a new one is due.
                Some(entry) => {
                    self.last_minutes = Some(entry);
                    self.coordinate(now, common)
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
                self.coordinate(now, common)
            }
            (State::Coordinating, Event::Coordinated(text)) => self.coordinated(text.reveal(), now, common),
            (State::Coordinating, Event::CoordinatorFailed) => self.uncoordinated(now, common),
            (State::Attempting(mut attempt), event) => {
                let progress = attempt.step(event, &self.config, now, common);
                self.progress(attempt, progress, now, common)
            }
            (State::Sleeping, Event::Slept) => self.attempt(now, common),
            (_, _) => self.end_in_failure(Failure::unasked(), now, common),
        }
    }

    /// Whether an entry that was kept elsewhere may be of use here: to whoever presents this assertion, and unless it
    /// was evicted.
    fn may_keep(&self, entry: &Entry, now: Timestamp, common: &mut Common) -> bool {
        !self.assertion.is_expired(now) && entry.is_of_use(now) && !common.is_buried(self.digest, entry.minted_at, now)
    }

    /// Whether an entry that was kept elsewhere is the answer.
    fn answers(&self, entry: &Entry, now: Timestamp) -> bool {
        // What is to be renewed is no renewal.
        entry.is_served(now) && (self.purpose == Purpose::Answer || now < entry.renew_at())
    }

    /// Reads the store under the name that the listed secret number `secret` gives, or goes on without.
    fn read_store(&mut self, secret: usize, now: Timestamp, common: &mut Common) -> ControlFlow<Settled, Action> {
        let listed = self.config.store_secrets.get(secret).filter(|_| self.config.has_store);
        match listed.and_then(|listed| self.sealer().name(listed)) {
            Some(name) => {
                self.state = State::ReadingStore { secret };
                let timeout_ms = STORE_READ_MS.min(self.deadline.after(now) / 4).max(1);
                ControlFlow::Continue(Action::ReadStore { name, timeout_ms })
            }
            None => self.coordinate(now, common),
        }
    }

    /// Asks the coordinator, if there is one, or goes on without.
    fn coordinate(&mut self, now: Timestamp, common: &mut Common) -> ControlFlow<Settled, Action> {
        let timeout_ms = self.coordinated_until.after(now).min(self.deadline.after(now));
        let secret = self.config.store_secrets.first().filter(|_| self.config.has_coordinator);
        let name =
            secret.filter(|_| timeout_ms >= coordinator::MIN_TIME_MS).and_then(|secret| self.sealer().name(secret));
        let Some(name) = name else { return self.first_leg(now, common) };
        // It would send the request that must not leave.
        if let Err(failure) = self.pass(now, common) {
            return self.end_in_failure(failure, now, common);
        }
        self.state = State::Coordinating;
        ControlFlow::Continue(Action::Coordinate { name, request: Box::new(self.request.clone()), timeout_ms })
    }

    fn coordinated(&mut self, text: &str, now: Timestamp, common: &mut Common) -> ControlFlow<Settled, Action> {
        match Answer::read(text) {
            Some(Answer::Sealed(source, sealed)) => {
                let mut secrets = 0..self.config.store_secrets.len();
                let entry = secrets.find_map(|secret| self.open(secret, sealed));
                match entry.filter(|entry| self.may_keep(entry, now, common)) {
                    Some(entry) if entry.is_served(now) => {
                        if matches!(source, Source::Issuer | Source::Flight) {
                            self.let_pass(common);
                        }
                        common.journal.count(EventKind::CoordinatorHit);
                        // One of all who asked writes it into the store: the one for whom it was made.
                        let write = if source == Source::Issuer { self.store_write(&entry, now) } else { None };
                        let source = if source == Source::Memory { Source::Store } else { source };
                        self.end(Ok(entry), source, write, now, common)
                    }
                    last_minutes => {
                        self.last_minutes = last_minutes.or(self.last_minutes.take());
                        self.uncoordinated(now, common)
                    }
                }
            }
            // The server has spoken: asked once more, it would say the same.
            Some(Answer::Failed(failure)) if failure.status.is_some() => {
                // Of two servers it is not known which.
                if self.config.servers.len() < 2 {
                    self.throttled(&failure, now, common);
                }
                self.end_in_failure(failure, now, common)
            }
            _ => self.uncoordinated(now, common),
        }
    }

    fn uncoordinated(&mut self, now: Timestamp, common: &mut Common) -> ControlFlow<Settled, Action> {
        common.journal.count(EventKind::CoordinatorFailure);
        self.first_leg(now, common)
    }

    /// Whether a request to this leg's server may leave.
    ///
    /// # Errors
    /// The failure that the server throttles with.
    fn pass(&mut self, now: Timestamp, common: &mut Common) -> Result<(), Failure> {
        if self.passed.is_some() {
            return Ok(());
        }
        let user = key::user(&self.request, self.assertion.digest);
        match common.throttles.pass(self.leg, user, now) {
            Ok(pass) => {
                self.passed = Some(pass);
                Ok(())
            }
            Err(failure) => {
                common.journal.record(ExchangeEvent::of_failure(EventKind::Throttle, &failure));
                Err(failure)
            }
        }
    }

    /// This leg's server answers: what held others back is over, if this was to find out.
    fn let_pass(&self, common: &mut Common) {
        if self.passed == Some(Pass::Probe) {
            common.throttles.lift(self.leg);
        }
    }

    /// Takes note where a failure says that this leg's server throttles.
    fn throttled(&mut self, failure: &Failure, now: Timestamp, common: &mut Common) {
        if failure.reason != FailureReason::Throttled {
            if failure.status.is_some() && failure.reason != FailureReason::Unavailable {
                self.let_pass(common);
            }
            self.passed = None;
            return;
        }
        let leg = self.config.grant.legs().get(self.leg);
        let user_alone =
            failure.status != Some(429) && leg.is_some_and(|leg| leg.throttles_the_user_alone(&failure.error_codes));
        let user = user_alone.then(|| key::user(&self.request, self.assertion.digest));
        // The first to be told may try once more, as others must not, and so finds out.
        let is_news = common.throttles.hold(Throttled { server: self.leg, user }, failure, now);
        self.passed = is_news.then_some(Pass::Probe);
    }

    /// Begins with the first leg whose result is not at hand.
    fn first_leg(&mut self, now: Timestamp, common: &mut Common) -> ControlFlow<Settled, Action> {
        let known = common.identity_assertions.get(self.digest, now);
        let known =
            known.filter(|entry| self.request.from_cache && entry.is_served(now) && !self.assertion.is_expired(now));
        if let Some(entry) = known.cloned() {
            self.begin_leg(self.leg.saturating_add(1), Some(entry));
        }
        self.attempt(now, common)
    }

    fn begin_leg(&mut self, leg: usize, identity_assertion: Option<Entry>) {
        (self.leg, self.attempts, self.identity_assertion, self.passed) = (leg, 0, identity_assertion, None);
    }

    /// Makes an attempt at the present leg.
    fn attempt(&mut self, now: Timestamp, common: &mut Common) -> ControlFlow<Settled, Action> {
        if self.deadline <= now {
            return self.end_in_failure(Failure::timed_out(), now, common);
        }
        if let Err(failure) = self.pass(now, common) {
            return self.end_in_failure(self.naming_the_server(failure), now, common);
        }
        let legs = self.config.grant.legs();
        let Some(leg) = legs.get(self.leg) else { return self.end_in_failure(Failure::unasked(), now, common) };
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
        let Some(leg) = legs.get(self.leg).copied() else {
            return self.end_in_failure(Failure::unasked(), now, common);
        };
        match self.read(leg, response, sent_at, now) {
            Ok(token) => {
                self.let_pass(common);
                let number = Some(self.requests);
                common.journal.record(ExchangeEvent { attempt: number, ..ExchangeEvent::of(EventKind::Token) });
                if self.leg.saturating_add(1) < legs.len() {
                    return self.next_leg(token, sent_at, now, common);
                }
                let entry = Entry::new(token, sent_at, self.assertion.expires_at, self.config.max_lifetime_ms);
                let write = self.store_write(&entry, now);
                self.end(Ok(entry), Source::Issuer, write, now, common)
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
        let actor_token = self.request.actor_token.as_ref().unwrap_or(&self.request.assertion);
        let presented = [&self.request.assertion, self.presented(), actor_token];
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
        if !common.was_evicted_since(self.digest, self.evictions, now) {
            common.identity_assertions.insert(self.digest, entry.clone(), now);
        }
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
        self.throttled(&failure, now, common);
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
            None => self.end_in_failure(failure, now, common),
        }
    }

    fn end_in_failure(
        &mut self,
        failure: Failure,
        now: Timestamp,
        common: &mut Common,
    ) -> ControlFlow<Settled, Action> {
        common.journal.record(ExchangeEvent {
            attempt: Some(self.requests),
            ..ExchangeEvent::of_failure(EventKind::Failure, &failure)
        });
        self.end(Err(failure), Source::Issuer, None, now, common)
    }

    fn end(
        &mut self,
        outcome: Result<Entry, Failure>,
        origin: Source,
        write: Option<StoreWrite>,
        now: Timestamp,
        common: &mut Common,
    ) -> ControlFlow<Settled, Action> {
        let evicted = common.was_evicted_since(self.digest, self.evictions, now);
        let last_minutes = self.last_minutes.take();
        ControlFlow::Break(Settled { outcome, origin, last_minutes, evicted, write })
    }

    fn open(&self, secret: usize, text: &str) -> Option<Entry> {
        let mut entry = self.sealer().open(self.config.store_secrets.get(secret)?, text)?;
        // Another Worker's configuration, or this one's of yesterday, may have allowed more.
        entry.bound = entry.bound.min(entry.minted_at.plus(self.config.max_lifetime_ms));
        Some(entry)
    }

    fn store_write(&mut self, entry: &Entry, now: Timestamp) -> Option<StoreWrite> {
        let nonce = self.derive(b"nonce");
        let secret: &StoreSecret = self.config.store_secrets.first().filter(|_| self.config.has_store)?;
        let life_ms = entry.last_resort_until().after(now);
        if life_ms < MIN_STORE_LIFE_MS {
            return None;
        }
        let sealer = self.sealer();
        Some(StoreWrite {
            name: sealer.name(secret)?,
            value: sealer.seal(secret, nonce, entry)?,
            expires_in_seconds: life_ms / 1000,
            digest: self.digest,
            minted_at: entry.minted_at,
            timeout_ms: STORE_WRITE_MS,
        })
    }

    fn sealer(&self) -> Sealer<'_> {
        Sealer::of(&self.request, self.digest)
    }

    /// A random number of at most `most`.
    fn random_below(&mut self, most: u64) -> u64 {
        u64::from_be_bytes(self.derive(b"jitter")).checked_rem(most.saturating_add(1)).unwrap_or(0)
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
