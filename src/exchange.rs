//! One exchange, from the store to the token: the machine of one flight.
//!
//! The host asks [`Exchange::step`] what to do, does it, and reports what came of it. No step is taken
//! twice, and each ends: every action names its time-out.

use core::fmt;
use core::ops::ControlFlow;
use std::rc::Rc;

use sha2::{Digest as _, Sha256};

use crate::cache::assertion::AssertionFacts;
use crate::cache::entry::Entry;
use crate::cache::key::Digest;
use crate::cache::seal::Sealer;
use crate::config::{Config, StoreSecret};
use crate::error_response;
use crate::failure::{Failure, FailureReason, TransportFailure};
use crate::journal::{EventKind, ExchangeEvent, Journal};
use crate::request::Request;
use crate::secret::Secret;
use crate::time::Timestamp;
use crate::token::Token;

/// The longest body that is read from a token endpoint, in bytes.
pub const MAX_RESPONSE_BYTES: usize = 1024 * 1024;
/// How long a read of the store may take, in milliseconds; and at most a quarter of what is left.
const STORE_READ_MS: u64 = 1500;
/// How long a write may take, in milliseconds. Nobody waits for it.
const STORE_WRITE_MS: u64 = 10_000;
/// The shortest life that Workers KV accepts for an entry, in milliseconds.
const MIN_STORE_LIFE_MS: u64 = 60_000;

/// What the host reports.
#[derive(Debug)]
pub enum Event {
    /// The exchange begins, with 32 fresh random bytes.
    Begun([u8; 32]),
    /// The store answered; `None` where it has no such entry.
    StoreRead(Option<String>),
    /// The store threw, or did not answer in time.
    StoreFailed,
    /// The token endpoint answered.
    Responded(Response),
    /// The token endpoint did not answer.
    TransportFailed(TransportFailure),
    /// The sleep is over.
    Slept,
}

/// What the host is asked to do.
#[derive(Debug)]
pub enum Action {
    /// Read the entry of this name from the store.
    ReadStore {
        /// The name.
        name: String,
        /// Milliseconds after which it counts as failed.
        timeout_ms: u64,
    },
    /// POST a token request. Redirects are not followed.
    Post(TokenRequest),
    /// Wait.
    Sleep {
        /// Milliseconds.
        wait_ms: u64,
    },
}

impl Action {
    /// Within how many milliseconds the host reports.
    pub fn timeout_ms(&self) -> u64 {
        match self {
            Self::ReadStore { timeout_ms, .. } => *timeout_ms,
            Self::Post(request) => request.timeout_ms,
            Self::Sleep { wait_ms } => *wait_ms,
        }
    }
}

/// A token request: a POST of a form (RFC 6749 section 3.2).
#[derive(Debug)]
pub struct TokenRequest {
    /// Where to.
    pub url: String,
    /// The value of the `Authorization` header, if there is one.
    pub authorization: Option<Secret>,
    /// The body, `application/x-www-form-urlencoded`.
    pub body: Secret,
    /// Milliseconds until the whole response must be there.
    pub timeout_ms: u64,
    /// The longest body to read, in bytes.
    pub max_response_bytes: usize,
}

/// The response to a token request. Its `Debug` is without the body, which may be a token.
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// The `Retry-After` header.
    pub retry_after: Option<String>,
    /// The body.
    pub body: Vec<u8>,
}

impl fmt::Debug for Response {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Response").field("status", &self.status).finish_non_exhaustive()
    }
}

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

/// A write into the store. The entry's own end is sealed within; the store's is only there to forget it.
#[derive(Debug)]
pub struct StoreWrite {
    /// The name.
    pub name: String,
    /// The sealed entry.
    pub value: String,
    /// Seconds after which the store may forget it, at least 60.
    pub expires_in_seconds: u64,
    /// Milliseconds after which the write counts as failed.
    pub timeout_ms: u64,
}

/// The machine.
pub struct Exchange {
    config: Rc<Config>,
    request: Request,
    digest: Digest,
    assertion: AssertionFacts,
    deadline: Timestamp,
    attempts: u64,
    random: [u8; 32],
    last_minutes: Option<Entry>,
    state: State,
}

enum State {
    Made,
    ReadingStore { secret: usize },
    Posting { sent_at: Timestamp },
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
        let (attempts, random, last_minutes, state) = (0, [0; 32], None, State::Made);
        Self { config, request, digest, assertion, deadline, attempts, random, last_minutes, state }
    }

    /// Takes what the host reports, and says what to do next or how it ended.
    pub fn step(&mut self, now: Timestamp, event: Event, journal: &mut Journal) -> ControlFlow<Settled, Action> {
        // A clock that went back must not lengthen what is left.
        self.deadline = self.deadline.min(now.plus(self.config.timeout_ms));
        match (core::mem::replace(&mut self.state, State::Ended), event) {
            (State::Made, Event::Begun(random)) => {
                self.random = random;
                if self.request.from_cache { self.read_store(0, now, journal) } else { self.post(now, journal) }
            }
            (State::ReadingStore { secret }, Event::StoreRead(Some(text))) => match self.open(secret, &text) {
                // Nothing is served past the presented assertion's own end.
                Some(_) if self.assertion.is_expired(now) => self.post(now, journal),
                Some(entry) if entry.serve_until() > now => {
                    journal.count(EventKind::StoreHit);
                    self.end(Ok(entry), true, None)
                }
                // In its last minutes or past them: a new one is due.
                Some(entry) => {
                    self.last_minutes = Some(entry);
                    self.post(now, journal)
                }
                None => {
                    journal.count(EventKind::SealFailure);
                    self.read_store(secret.saturating_add(1), now, journal)
                }
            },
            (State::ReadingStore { secret }, Event::StoreRead(None)) => {
                self.read_store(secret.saturating_add(1), now, journal)
            }
            (State::ReadingStore { .. }, Event::StoreFailed) => {
                journal.count(EventKind::StoreFailure);
                self.post(now, journal)
            }
            (State::Posting { sent_at }, Event::Responded(response)) => {
                self.responded(&response, sent_at, now, journal)
            }
            (State::Posting { .. }, Event::TransportFailed(transport)) => self.failed(transport.into(), now, journal),
            (State::Sleeping, Event::Slept) => self.post(now, journal),
            (_, _) => {
                let failure = Failure::new(FailureReason::Misconfigured, "the host reported what was not asked of it");
                self.end_in_failure(failure, journal)
            }
        }
    }

    /// Reads the store under the name that the listed secret number `secret` gives, or goes on without.
    fn read_store(&mut self, secret: usize, now: Timestamp, journal: &mut Journal) -> ControlFlow<Settled, Action> {
        match self.config.store_secrets.get(secret).and_then(|listed| self.sealer().name(listed)) {
            Some(name) => {
                self.state = State::ReadingStore { secret };
                let timeout_ms = STORE_READ_MS.min(self.deadline.after(now) / 4).max(1);
                ControlFlow::Continue(Action::ReadStore { name, timeout_ms })
            }
            None => self.post(now, journal),
        }
    }

    fn post(&mut self, now: Timestamp, journal: &mut Journal) -> ControlFlow<Settled, Action> {
        if self.deadline <= now {
            return self.end_in_failure(Failure::timed_out(), journal);
        }
        let timeout_ms = self.config.retry.attempt_ms(self.attempts, now, self.deadline);
        self.attempts = self.attempts.saturating_add(1);
        self.state = State::Posting { sent_at: now };
        journal.record(ExchangeEvent { attempt: Some(self.attempts), ..ExchangeEvent::of(EventKind::TokenRequest) });
        let mut form = self.config.grant.parameters(&self.request);
        let authorization = self.config.client_authentication.apply(&self.config.client_id, &mut form);
        ControlFlow::Continue(Action::Post(TokenRequest {
            url: self.config.token_endpoint.as_str().to_owned(),
            authorization,
            body: form.into_body(),
            timeout_ms,
            max_response_bytes: MAX_RESPONSE_BYTES,
        }))
    }

    fn responded(
        &mut self,
        response: &Response,
        sent_at: Timestamp,
        now: Timestamp,
        journal: &mut Journal,
    ) -> ControlFlow<Settled, Action> {
        let token = if response.body.len() > MAX_RESPONSE_BYTES {
            Err(TransportFailure::TooLarge.into())
        } else if (200..300).contains(&response.status) {
            Token::read(&self.request, &response.body, sent_at).map_err(|mut failure| {
                failure.status = Some(response.status);
                failure
            })
        } else {
            let retry_after = response.retry_after.as_deref();
            Err(error_response::classify(
                self.config.grant,
                &self.request.assertion,
                response.status,
                retry_after,
                &response.body,
                now,
            ))
        };
        match token {
            Ok(token) => {
                journal.record(ExchangeEvent { attempt: Some(self.attempts), ..ExchangeEvent::of(EventKind::Token) });
                let entry = Entry::new(token, sent_at, self.assertion.expires_at, self.config.max_lifetime_ms);
                let write = self.store_write(&entry, now);
                self.end(Ok(entry), false, write)
            }
            Err(failure) => self.failed(failure, now, journal),
        }
    }

    fn failed(&mut self, failure: Failure, now: Timestamp, journal: &mut Journal) -> ControlFlow<Settled, Action> {
        let random = u64::from_be_bytes(self.derive(b"jitter"));
        match self.config.retry.wait(self.attempts, &failure, now, self.deadline, random) {
            Some(wait_ms) => {
                self.state = State::Sleeping;
                journal.record(ExchangeEvent {
                    attempt: Some(self.attempts),
                    wait_ms: Some(wait_ms),
                    ..ExchangeEvent::of_failure(EventKind::Retry, &failure)
                });
                ControlFlow::Continue(Action::Sleep { wait_ms })
            }
            None => self.end_in_failure(failure, journal),
        }
    }

    fn end_in_failure(&mut self, failure: Failure, journal: &mut Journal) -> ControlFlow<Settled, Action> {
        journal.record(ExchangeEvent {
            attempt: Some(self.attempts),
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

    fn store_write(&self, entry: &Entry, now: Timestamp) -> Option<StoreWrite> {
        let secret: &StoreSecret = self.config.store_secrets.first()?;
        let life_ms = entry.last_resort_until().after(now);
        if life_ms < MIN_STORE_LIFE_MS {
            return None;
        }
        let sealer = self.sealer();
        Some(StoreWrite {
            name: sealer.name(secret)?,
            value: sealer.seal(secret, self.derive(b"nonce"), entry)?,
            expires_in_seconds: life_ms / 1000,
            timeout_ms: STORE_WRITE_MS,
        })
    }

    fn sealer(&self) -> Sealer<'_> {
        Sealer::of(&self.request, self.digest)
    }

    /// Random bytes for one use, from those that the exchange began with.
    fn derive<const N: usize>(&self, r#use: &[u8]) -> [u8; N] {
        let digest = Sha256::new().chain_update(self.random).chain_update(r#use);
        let digest = digest.chain_update(self.attempts.to_be_bytes()).finalize();
        let mut bytes = [0; N];
        bytes.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
        bytes
    }
}
