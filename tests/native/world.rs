//! A host of the core on virtual time: callers, flights, a scripted token endpoint, a scripted store, and a clock
//! that may be wrong. It decides nothing that a real host would not.

use core::ops::ControlFlow;
use std::collections::{BTreeMap, VecDeque};

use base64ct::{Base64UrlUnpadded, Encoding};
use obo_edge::action::{Action, Event, Response, StoreWrite};
use obo_edge::cache::entry::Entry;
use obo_edge::call::{Call, Source, Turn, Wake};
use obo_edge::config::{Config, HostObjects};
use obo_edge::exchanger::{EvictionCause, Exchanger};
use obo_edge::failure::{Failure, FailureReason, TransportFailure};
use obo_edge::flight::Generation;
use obo_edge::journal::{ExchangeEvent, Stats};
use obo_edge::request::{Request, RequestField};
use obo_edge::secret::Secret;
use obo_edge::time::Timestamp;
use obo_edge::url::UrlComponents;
use serde_json::{Value, json};

/// What the clock shows when a world begins, in milliseconds since 1970: a whole second in January 2027.
pub(crate) const START_MS: u64 = 1_800_000_000_000;
pub(crate) const SECOND: u64 = 1000;
pub(crate) const MINUTE: u64 = 60 * SECOND;
pub(crate) const HOUR: u64 = 60 * MINUTE;
/// `timeoutMs` where the options do not say.
pub(crate) const TIMEOUT: u64 = 10 * SECOND;
/// How long a read of the store takes where no scenario says.
pub(crate) const STORE_READ_MS: u64 = 10;
/// More happenings than any scenario needs: beyond it, something goes round in a circle.
const MOST_HAPPENINGS: usize = 400_000;

pub(crate) fn at(milliseconds_after_start: u64) -> Timestamp {
    Timestamp::from_millis(START_MS + milliseconds_after_start)
}

// ---------------------------------------------------------------- what callers bring

/// A JWT of `user` that ends at `expires_at`; `number` tells one sign-in from another.
pub(crate) fn assertion(user: &str, expires_at: Timestamp, number: u32) -> String {
    let payload = json!({"sub": user, "exp": expires_at.as_millis() / 1000, "jti": number}).to_string();
    let part = |text: &str| Base64UrlUnpadded::encode_string(text.as_bytes());
    format!("{}.{}.{}", part("{}"), part(&payload), part(&format!("signature {number} of {user}")))
}

fn claims_of(assertion: &str) -> Option<Value> {
    let payload = Base64UrlUnpadded::decode_vec(assertion.split('.').nth(1)?).ok()?;
    serde_json::from_slice(&payload).ok()
}

/// Whose assertion it is; an opaque one is of whoever it names.
pub(crate) fn user_of(assertion: &str) -> String {
    let claims = claims_of(assertion);
    claims.and_then(|claims| Some(claims["sub"].as_str()?.to_owned())).unwrap_or_else(|| assertion.to_owned())
}

pub(crate) fn request_with(assertion: &str, scopes: &str) -> Request {
    let mut request = Request::new();
    request.set(RequestField::Assertion, assertion).unwrap();
    request.set(RequestField::Scopes, scopes).unwrap();
    request
}

/// A request of `user`, whose assertion is good for a day.
pub(crate) fn request_of(user: &str, scopes: &str) -> Request {
    request_with(&assertion(user, at(24 * HOUR), 1), scopes)
}

/// The same, with the user named as a verified subject, so that renewed assertions share.
pub(crate) fn shared(mut request: Request) -> Request {
    let user = user_of(request.assertion.reveal());
    request.set(RequestField::SubjectIssuer, "https://issuer.example").unwrap();
    request.set(RequestField::SubjectId, &user).unwrap();
    request
}

/// The same, answered from no cache.
pub(crate) fn anew(mut request: Request) -> Request {
    request.from_cache = false;
    request
}

// ---------------------------------------------------------------- options

pub(crate) const CLIENT_SECRET: &str = "client-secret-of-the-gateway";

pub(crate) fn options() -> Value {
    json!({
        "tokenEndpoint": "https://login.example/tenant/oauth2/v2.0/token",
        "clientId": "gateway",
        "clientAuthentication": {"method": "client_secret_post", "clientSecret": CLIENT_SECRET},
        // What becomes of an assertion that has ended is for the flight to show, too.
        "inspectAssertion": false,
    })
}

pub(crate) fn options_with(name: &str, value: Value) -> Value {
    let mut options = options();
    options[name] = value;
    options
}

/// A store secret of 32 bytes, each alike.
pub(crate) fn store_secret(letter: char) -> String {
    Base64UrlUnpadded::encode_string(letter.to_string().repeat(32).as_bytes())
}

pub(crate) fn parse_url(text: &str) -> Option<UrlComponents> {
    let url = url::Url::parse(text).ok()?;
    Some(UrlComponents {
        scheme: url.scheme().to_owned(),
        has_userinfo: !url.username().is_empty() || url.password().is_some(),
        host: url.host_str().unwrap_or_default().to_owned(),
        origin: url.origin().ascii_serialization(),
        path: url.path().to_owned(),
        has_query: url.query().is_some_and(|query| !query.is_empty()),
        serialisation: url.as_str().to_owned(),
    })
}

/// As a host reads them: a coordinator is an object of its own.
pub(crate) fn read_options(mut options: Value, has_store: bool) -> Result<Config, Failure> {
    let coordinator = options.as_object_mut().and_then(|options| options.remove("coordinator")).is_some();
    Config::read(options, HostObjects { store: has_store, coordinator, fetch: true }, parse_url)
}

// ---------------------------------------------------------------- the token endpoint

/// What the token endpoint does with one request.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    after_ms: u64,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Mint { expires_in: Value },
    Respond { status: u16, retry_after: Option<String>, body: Vec<u8> },
    Fail(TransportFailure),
}

impl Answer {
    fn new(what: What) -> Self {
        Self { after_ms: 50, what }
    }

    /// A token that names user, scopes and the number of the request, and lives for so many seconds.
    pub(crate) fn token(expires_in: impl Into<Value>) -> Self {
        Self::new(What::Mint { expires_in: expires_in.into() })
    }

    pub(crate) fn respond(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self::new(What::Respond { status, retry_after: None, body: body.into() })
    }

    /// An error response as Entra writes it, description and all.
    pub(crate) fn error(status: u16, error: &str, codes: &[u32]) -> Self {
        Self::respond(status, error_body(error, codes).to_string())
    }

    pub(crate) fn transport(failure: TransportFailure) -> Self {
        Self::new(What::Fail(failure))
    }

    pub(crate) fn never() -> Self {
        Self::respond(200, "").after(u64::MAX)
    }

    /// The same, so many milliseconds after the request.
    pub(crate) fn after(mut self, milliseconds: u64) -> Self {
        self.after_ms = milliseconds;
        self
    }

    pub(crate) fn retry_after(mut self, value: &str) -> Self {
        if let What::Respond { retry_after, .. } = &mut self.what {
            *retry_after = Some(value.to_owned());
        }
        self
    }

    /// What comes of it where there is no token request.
    fn plain_event(self) -> Event {
        match self.what {
            What::Fail(failure) => Event::TransportFailed(failure),
            What::Respond { status, retry_after, body } => Event::Responded(Response { status, retry_after, body }),
            What::Mint { .. } => panic!("nobody asked for a token"),
        }
    }

    fn event(self, posted: &Posted) -> Event {
        match self.what {
            What::Fail(_) | What::Respond { .. } => self.plain_event(),
            What::Mint { expires_in } => {
                let mut body = json!({
                    "token_type": "Bearer", "scope": posted.scopes, "access_token": posted.token(),
                    "refresh_token": "refresh-token-that-nobody-keeps", "ext_expires_in": 9_999_999,
                });
                if !expires_in.is_null() {
                    body["expires_in"] = expires_in;
                }
                Event::Responded(Response { status: 200, retry_after: None, body: body.to_string().into_bytes() })
            }
        }
    }
}

/// What stands in `error_description` and must come out nowhere.
pub(crate) const DESCRIPTION: &str = "AADSTS50076 AADSTS65001: the-description-that-nobody-shows";

pub(crate) fn error_body(error: &str, codes: &[u32]) -> Value {
    json!({
        "error": error, "error_codes": codes, "error_description": DESCRIPTION,
        "correlation_id": "3f6d1c4e-0000-4a4a-8b8b-0123456789ab", "trace_id": "0a1b2c3d-0000-4a4a-8b8b-0123456789ab",
        "timestamp": "2027-01-15 08:00:00Z", "error_uri": "https://login.example/error?code=65001",
    })
}

/// A request as the token endpoint saw it.
#[derive(Clone, Debug)]
pub(crate) struct Posted {
    pub(crate) number: usize,
    /// Real milliseconds since the world began.
    pub(crate) sent_ms: u64,
    /// What the clock showed.
    pub(crate) sent_at: Timestamp,
    pub(crate) url: String,
    pub(crate) authorization: Option<String>,
    pub(crate) body: String,
    pub(crate) timeout_ms: u64,
    pub(crate) assertion: String,
    pub(crate) user: String,
    pub(crate) scopes: String,
}

impl Posted {
    pub(crate) fn token(&self) -> String {
        format!("minted~{}~{}~{}", self.user, self.scopes.replace(' ', "+"), self.number)
    }
}

/// Looks at a request, and answers it where it has something to say.
pub(crate) type Judge = Box<dyn FnMut(&Posted) -> Option<Answer>>;

/// A host that made this client assertion.
pub(crate) fn client_assertion(text: &str) -> Event {
    Event::ClientAssertion(Secret::new(text))
}

// ---------------------------------------------------------------- the store

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    Works,
    Throws,
    Answers(String),
}

/// A store of texts, scripted.
pub(crate) struct Store {
    /// By name: the text, and the real millisecond at which it is forgotten.
    pub(crate) entries: BTreeMap<String, (String, u64)>,
    pub(crate) reading: Reading,
    pub(crate) read_after_ms: u64,
    pub(crate) writing_throws: bool,
    pub(crate) reads: Vec<String>,
    /// Seconds of life that each write asked for.
    pub(crate) written_for_seconds: Vec<u64>,
}

// ---------------------------------------------------------------- the host

/// What becomes of the bell of a flight whose request has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bell {
    Rejects,
    StaysSilent,
}

pub(crate) const BELLS: [Bell; 2] = [Bell::Rejects, Bell::StaysSilent];

/// What a flight is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    ReadingStore,
    Coordinating,
    ReadingMetadata,
    Authenticating,
    Posting,
    Sleeping,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flown {
    Flying(Step),
    Landed,
    Vanished(Bell),
}

struct Run {
    leader: usize,
    flown: Flown,
}

#[derive(Debug)]
pub(crate) enum State {
    NotBegun,
    Waiting {
        generation: Generation,
        wait: u64,
    },
    Ended {
        result: Result<(Entry, Source), Failure>,
        ended_ms: u64,
        ended_at: Timestamp,
    },
    /// Its own request was cancelled.
    Gone,
}

pub(crate) struct Caller {
    pub(crate) request: Request,
    pub(crate) call: Option<Call>,
    pub(crate) state: State,
    pub(crate) begun_ms: u64,
    pub(crate) begun_at: Timestamp,
    pub(crate) wakes: u32,
    pub(crate) longest_wait_ms: u64,
}

#[derive(Debug)]
enum Happening {
    Begins(usize),
    Wakes { caller: usize, wait: u64, wake: Wake },
    Aborts(usize),
    Reports { generation: Generation, event: Event },
    Vanishes { generation: Generation, bell: Bell },
}

pub(crate) struct World {
    pub(crate) exchanger: Exchanger,
    pub(crate) callers: Vec<Caller>,
    pub(crate) posted: Vec<Posted>,
    /// What flights slept, in milliseconds.
    pub(crate) slept: Vec<u64>,
    pub(crate) store: Store,
    /// What the coordinator was asked: the name of its object, and the request.
    pub(crate) coordinator_asked: Vec<(String, Request)>,
    /// What it answers next, and after how long; then nothing.
    pub(crate) coordinator_answers: VecDeque<(u64, Event)>,
    /// What is answered to a GET of each URL; 404 where nothing is.
    pub(crate) metadata: BTreeMap<String, Answer>,
    /// The URLs that metadata was asked from.
    pub(crate) fetched: Vec<String>,
    /// What was signed: at which server, the header, the claims.
    pub(crate) signed: Vec<(usize, String, String)>,
    /// At which server the callback was asked.
    pub(crate) obtained: Vec<usize>,
    /// What comes of the next client assertions; then a JWT of its own each time.
    pub(crate) client_assertions: VecDeque<Event>,
    pub(crate) events: Vec<ExchangeEvent>,
    /// The answers to the next requests, in turn; then `otherwise`.
    pub(crate) answers: VecDeque<Answer>,
    pub(crate) otherwise: Answer,
    pub(crate) judge: Option<Judge>,
    /// The next flight that comes to this step vanishes in the middle of it.
    pub(crate) vanish_at: Vec<(Step, Bell)>,
    /// Of a timer and a report in the same millisecond, which comes first: a real host promises neither.
    pub(crate) timers_come_first: bool,
    pub(crate) timeout_ms: u64,
    /// The most token requests that were under way at once, of flights whose request lives.
    pub(crate) most_posting: usize,
    real_ms: u64,
    clock_is_off_by: i64,
    queue: BTreeMap<(u64, u8, u64), Happening>,
    sequence: u64,
    runs: BTreeMap<u64, Run>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with_options(options(), false)
    }

    pub(crate) fn with_store() -> Self {
        Self::with_options(options_with("storeSecrets", json!(store_secret('a'))), true)
    }

    pub(crate) fn with_options(options: Value, has_store: bool) -> Self {
        let timeout_ms = options["timeoutMs"].as_u64().unwrap_or(TIMEOUT);
        let mut exchanger = Exchanger::new(read_options(options, has_store).unwrap());
        exchanger.journal().listen();
        Self {
            exchanger,
            callers: Vec::new(),
            posted: Vec::new(),
            slept: Vec::new(),
            store: Store {
                entries: BTreeMap::new(),
                reading: Reading::Works,
                read_after_ms: STORE_READ_MS,
                writing_throws: false,
                reads: Vec::new(),
                written_for_seconds: Vec::new(),
            },
            coordinator_asked: Vec::new(),
            coordinator_answers: VecDeque::new(),
            metadata: BTreeMap::new(),
            fetched: Vec::new(),
            signed: Vec::new(),
            obtained: Vec::new(),
            client_assertions: VecDeque::new(),
            events: Vec::new(),
            answers: VecDeque::new(),
            otherwise: Answer::token(3600),
            judge: None,
            vanish_at: Vec::new(),
            timers_come_first: false,
            timeout_ms,
            most_posting: 0,
            real_ms: 0,
            clock_is_off_by: 0,
            queue: BTreeMap::new(),
            sequence: 0,
            runs: BTreeMap::new(),
        }
    }

    /// The same store and token endpoint, seen from an isolate that has just started.
    pub(crate) fn new_isolate(&mut self) {
        self.new_isolate_with(options_with("storeSecrets", json!(store_secret('a'))));
    }

    pub(crate) fn new_isolate_with(&mut self, options: Value) {
        assert!(self.queue.is_empty(), "nothing may be under way");
        self.exchanger = Exchanger::new(read_options(options, true).unwrap());
        self.exchanger.journal().listen();
        self.runs.clear();
    }

    // ------------------------------------------------------------ time

    /// What the host's clock shows.
    pub(crate) fn now(&self) -> Timestamp {
        let shown = (START_MS + self.real_ms).saturating_add_signed(self.clock_is_off_by);
        Timestamp::from_millis(shown)
    }

    /// Real milliseconds since the world began.
    pub(crate) fn real_ms(&self) -> u64 {
        self.real_ms
    }

    /// The clock jumps; timers do not.
    pub(crate) fn clock_jumps(&mut self, milliseconds: i64) {
        self.clock_is_off_by += milliseconds;
    }

    /// Lets everything happen that is to happen, in its order.
    pub(crate) fn run(&mut self) {
        let mut happened = 0;
        while let Some((time, happening)) = self.next_until(u64::MAX) {
            self.real_ms = time;
            self.happen(happening);
            happened += 1;
            assert!(happened < MOST_HAPPENINGS, "it goes round in a circle");
        }
    }

    /// Lets so much time pass, and happen what is to happen in it.
    pub(crate) fn advance(&mut self, milliseconds: u64) {
        let until = self.real_ms + milliseconds;
        while let Some((time, happening)) = self.next_until(until) {
            self.real_ms = time;
            self.happen(happening);
        }
        self.real_ms = until;
    }

    /// The next that happens. What nobody waits for any more takes no time.
    fn next_until(&mut self, until: u64) -> Option<(u64, Happening)> {
        loop {
            let key = *self.queue.first_key_value()?.0;
            if key.0 > until {
                return None;
            }
            let happening = self.queue.remove(&key)?;
            let matters = match &happening {
                Happening::Begins(_) | Happening::Vanishes { .. } => true,
                Happening::Wakes { caller, wait, .. } => {
                    matches!(self.callers[*caller].state, State::Waiting { wait: current, .. } if current == *wait)
                }
                Happening::Aborts(caller) => matches!(self.callers[*caller].state, State::Waiting { .. }),
                Happening::Reports { generation, .. } => {
                    matches!(self.runs.get(&generation.0), Some(Run { flown: Flown::Flying(_), .. }))
                }
            };
            if matters {
                return Some((key.0, happening));
            }
        }
    }

    fn schedule(&mut self, after_ms: u64, happening: Happening) {
        let is_timer = matches!(happening, Happening::Wakes { wake: Wake::TimedOut, .. });
        let rank = if is_timer { u8::from(!self.timers_come_first) * 2 } else { 1 };
        self.sequence += 1;
        self.queue.insert((self.real_ms.saturating_add(after_ms), rank, self.sequence), happening);
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Begins(caller) => self.begins(caller),
            Happening::Wakes { caller, wake, .. } => self.wakes(caller, wake),
            Happening::Aborts(caller) => self.wakes(caller, Wake::Aborted),
            Happening::Reports { generation, event } => self.step(generation, event),
            Happening::Vanishes { generation, bell } => self.vanishes(generation, bell),
        }
        while let Some(event) = self.exchanger.journal().next_event() {
            self.events.push(event);
        }
    }

    // ------------------------------------------------------------ callers

    /// A call that begins now; its number.
    pub(crate) fn call(&mut self, request: &Request) -> usize {
        self.call_after(0, request)
    }

    /// A call that begins so many milliseconds from now; its number.
    pub(crate) fn call_after(&mut self, after_ms: u64, request: &Request) -> usize {
        let caller = self.callers.len();
        self.callers.push(Caller {
            request: request.clone(),
            call: None,
            state: State::NotBegun,
            begun_ms: 0,
            begun_at: Timestamp::from_millis(0),
            wakes: 0,
            longest_wait_ms: 0,
        });
        self.schedule(after_ms, Happening::Begins(caller));
        caller
    }

    /// Its signal fires so many milliseconds from now.
    pub(crate) fn abort_after(&mut self, after_ms: u64, caller: usize) {
        self.schedule(after_ms, Happening::Aborts(caller));
    }

    /// Runs a call to its end, and nothing else is left to happen.
    pub(crate) fn ask(&mut self, request: &Request) -> Result<(String, Source), Failure> {
        let caller = self.call(request);
        self.run();
        self.result(caller)
    }

    /// The token and its source, or the failure. It must have ended.
    pub(crate) fn result(&self, caller: usize) -> Result<(String, Source), Failure> {
        match &self.callers[caller].state {
            State::Ended { result: Ok((entry, source)), .. } => {
                Ok((entry.token.access_token.reveal().to_owned(), *source))
            }
            State::Ended { result: Err(failure), .. } => Err(failure.clone()),
            other => panic!("caller {caller} has not ended: {other:?}"),
        }
    }

    pub(crate) fn entry(&self, caller: usize) -> Entry {
        match &self.callers[caller].state {
            State::Ended { result: Ok((entry, _)), .. } => entry.clone(),
            other => panic!("caller {caller} has no token: {other:?}"),
        }
    }

    /// Real milliseconds from its beginning to its end.
    pub(crate) fn took_ms(&self, caller: usize) -> u64 {
        match &self.callers[caller].state {
            State::Ended { ended_ms, .. } => ended_ms - self.callers[caller].begun_ms,
            other => panic!("caller {caller} has not ended: {other:?}"),
        }
    }

    pub(crate) fn is_gone(&self, caller: usize) -> bool {
        matches!(self.callers[caller].state, State::Gone)
    }

    fn begins(&mut self, number: usize) {
        let (real_ms, now) = (self.real_ms, self.now());
        let caller = &mut self.callers[number];
        (caller.begun_ms, caller.begun_at) = (real_ms, now);
        let (call, turn) = Call::begin(&mut self.exchanger, &caller.request, now);
        caller.call = Some(call);
        self.turn(number, turn);
    }

    fn wakes(&mut self, number: usize, wake: Wake) {
        let now = self.now();
        let caller = &mut self.callers[number];
        caller.wakes += 1;
        let turn = caller.call.as_mut().unwrap().wake(&mut self.exchanger, &caller.request, now, wake);
        self.turn(number, turn);
    }

    fn turn(&mut self, number: usize, turn: Turn) {
        let result = match turn {
            Turn::Answer(entry, source) => Ok((entry, source)),
            Turn::AnswerAndRenew(entry, generation) => {
                self.fly(number, generation);
                Ok((entry, Source::Memory))
            }
            Turn::Fail(failure) => Err(failure),
            Turn::Lead(generation) => {
                self.fly(number, generation);
                return self.wait(number, generation);
            }
            Turn::Wait(generation) => return self.wait(number, generation),
        };
        self.callers[number].state = State::Ended { result, ended_ms: self.real_ms, ended_at: self.now() };
    }

    fn fly(&mut self, leader: usize, generation: Generation) {
        self.runs.insert(generation.0, Run { leader, flown: Flown::Flying(Step::ReadingStore) });
        self.step(generation, Event::Begun([u8::try_from(generation.0 % 251).unwrap(); 32]));
    }

    fn wait(&mut self, number: usize, generation: Generation) {
        let now = self.now();
        let caller = &mut self.callers[number];
        let wait_ms = caller.call.as_mut().unwrap().wait_ms(&self.exchanger, now);
        caller.longest_wait_ms = caller.longest_wait_ms.max(wait_ms);
        self.sequence += 1;
        let wait = self.sequence;
        caller.state = State::Waiting { generation, wait };
        self.schedule(wait_ms, Happening::Wakes { caller: number, wait, wake: Wake::TimedOut });
        // A promise that is settled already answers at once.
        let wake = match self.runs[&generation.0].flown {
            Flown::Landed => Wake::Rang,
            Flown::Vanished(Bell::Rejects) => Wake::Orphaned,
            Flown::Flying(_) | Flown::Vanished(Bell::StaysSilent) => return,
        };
        self.schedule(0, Happening::Wakes { caller: number, wait, wake });
    }

    fn ring(&mut self, generation: Generation, wake: Wake) {
        for number in 0..self.callers.len() {
            if let State::Waiting { generation: awaited, wait } = self.callers[number].state
                && awaited == generation
            {
                self.schedule(0, Happening::Wakes { caller: number, wait, wake });
            }
        }
    }

    // ------------------------------------------------------------ flights

    /// The flights under way, as their hosts see it.
    pub(crate) fn flying(&self) -> Vec<Generation> {
        let flying = self.runs.iter().filter(|(_, run)| matches!(run.flown, Flown::Flying(_)));
        flying.map(|(generation, _)| Generation(*generation)).collect()
    }

    /// The request that the flight runs in ends, and its leader with it.
    pub(crate) fn vanishes(&mut self, generation: Generation, bell: Bell) {
        let Some(Run { leader, flown: Flown::Flying(_) }) = self.runs.get(&generation.0) else { return };
        let leader = *leader;
        if matches!(self.callers[leader].state, State::Waiting { .. }) {
            self.callers[leader].state = State::Gone;
        }
        // It may have led another meanwhile, in the same request.
        let led = self.runs.iter_mut().filter(|(_, run)| run.leader == leader && matches!(run.flown, Flown::Flying(_)));
        let mut vanished = Vec::new();
        for (led, run) in led {
            run.flown = Flown::Vanished(bell);
            vanished.push(Generation(*led));
        }
        if bell == Bell::Rejects {
            vanished.into_iter().for_each(|generation| self.ring(generation, Wake::Orphaned));
        }
    }

    fn step(&mut self, generation: Generation, event: Event) {
        let now = self.now();
        match self.exchanger.step(generation, now, event) {
            ControlFlow::Continue(action) => self.perform(generation, action),
            ControlFlow::Break(write) => {
                self.runs.get_mut(&generation.0).unwrap().flown = Flown::Landed;
                self.ring(generation, Wake::Rang);
                if let Some(write) = write {
                    self.write(write);
                }
            }
        }
    }

    fn perform(&mut self, generation: Generation, action: Action) {
        let timeout_ms = action.timeout_ms();
        let (step, after_ms, event) = match action {
            Action::ReadStore { name, .. } => (Step::ReadingStore, self.store.read_after_ms, self.read(&name)),
            Action::Coordinate { name, request, .. } => {
                self.coordinator_asked.push((name, *request));
                let answer = self.coordinator_answers.pop_front();
                let (after_ms, event) = answer.unwrap_or((5, Event::CoordinatorFailed));
                (Step::Coordinating, after_ms, event)
            }
            Action::Get { url, .. } => {
                let answer = self.metadata.get(&url).cloned().unwrap_or_else(|| Answer::respond(404, "not here"));
                self.fetched.push(url);
                (Step::ReadingMetadata, answer.after_ms, answer.plain_event())
            }
            Action::Sign { server, jwt, .. } => {
                self.signed.push((server, jwt.header, jwt.claims.clone()));
                // Not a signature, but as unlike as signatures are.
                let text = format!("e30.{}.c2ln", Base64UrlUnpadded::encode_string(jwt.claims.as_bytes()));
                (Step::Authenticating, 1, self.client_assertions.pop_front().unwrap_or_else(|| client_assertion(&text)))
            }
            Action::ObtainClientAssertion { server, .. } => {
                self.obtained.push(server);
                let text = format!(
                    "e30.{}.c2ln",
                    Base64UrlUnpadded::encode_string(self.obtained.len().to_string().as_bytes())
                );
                (Step::Authenticating, 1, self.client_assertions.pop_front().unwrap_or_else(|| client_assertion(&text)))
            }
            Action::Post(request) => {
                let posted = self.receive(request);
                let judged = self.judge.as_mut().and_then(|judge| judge(&posted));
                let answer = judged.or_else(|| self.answers.pop_front()).unwrap_or_else(|| self.otherwise.clone());
                let answered = (Step::Posting, answer.after_ms, answer.event(&posted));
                self.posted.push(posted);
                answered
            }
            Action::Sleep { wait_ms } => {
                self.slept.push(wait_ms);
                (Step::Sleeping, wait_ms, Event::Slept)
            }
        };
        let late = match step {
            Step::ReadingStore => Event::StoreFailed,
            Step::Coordinating => Event::CoordinatorFailed,
            Step::Posting | Step::ReadingMetadata => Event::TransportFailed(TransportFailure::TimedOut),
            Step::Authenticating => Event::ClientAssertionFailed,
            Step::Sleeping => Event::Slept,
        };
        let event = if after_ms < timeout_ms { event } else { late };
        self.runs.get_mut(&generation.0).unwrap().flown = Flown::Flying(step);
        let posting = self.runs.values().filter(|run| run.flown == Flown::Flying(Step::Posting)).count();
        self.most_posting = self.most_posting.max(posting);
        if let Some(place) = self.vanish_at.iter().position(|(vanishing, _)| *vanishing == step) {
            let (_, bell) = self.vanish_at.remove(place);
            self.schedule(after_ms.min(timeout_ms) / 2, Happening::Vanishes { generation, bell });
        }
        self.schedule(after_ms.min(timeout_ms), Happening::Reports { generation, event });
    }

    fn receive(&self, request: obo_edge::action::TokenRequest) -> Posted {
        let body = request.body.reveal().to_owned();
        let parameter = |name: &str| {
            let mut values = form_urlencoded::parse(body.as_bytes()).filter(|(known, _)| known == name);
            values.next().map(|(_, value)| value.into_owned()).unwrap_or_default()
        };
        let assertion = Some(parameter("assertion")).filter(|text| !text.is_empty());
        let assertion = assertion.unwrap_or_else(|| parameter("subject_token"));
        Posted {
            number: self.posted.len() + 1,
            sent_ms: self.real_ms,
            sent_at: self.now(),
            url: request.url,
            authorization: request.authorization.map(|value| value.reveal().to_owned()),
            timeout_ms: request.timeout_ms,
            user: user_of(&assertion),
            scopes: parameter("scope"),
            assertion,
            body,
        }
    }

    // ------------------------------------------------------------ the store

    fn read(&mut self, name: &str) -> Event {
        self.store.reads.push(name.to_owned());
        match &self.store.reading {
            Reading::Throws => Event::StoreFailed,
            Reading::Answers(text) => Event::StoreRead(Some(text.clone())),
            Reading::Works => {
                let kept = self.store.entries.get(name).filter(|(_, forgotten_ms)| *forgotten_ms > self.real_ms);
                Event::StoreRead(kept.map(|(text, _)| text.clone()))
            }
        }
    }

    fn write(&mut self, write: StoreWrite) {
        self.store.written_for_seconds.push(write.expires_in_seconds);
        if self.store.writing_throws {
            self.exchanger.store_failed();
        } else {
            let forgotten_ms = self.real_ms + write.expires_in_seconds * SECOND;
            self.store.entries.insert(write.name, (write.value, forgotten_ms));
        }
    }

    /// Evicts, and removes what is to be removed from the store.
    pub(crate) fn evict(&mut self, request: &Request) {
        assert!(self.evict_because(request, EvictionCause::Asked));
    }

    /// The same; whether it was not forgotten lately.
    pub(crate) fn evict_because(&mut self, request: &Request, cause: EvictionCause) -> bool {
        let now = self.now();
        let names = self.exchanger.evict(request, cause, now).unwrap();
        let evicted = names.is_some();
        for name in names.into_iter().flatten() {
            self.store.entries.remove(&name);
        }
        evicted
    }

    // ------------------------------------------------------------ afterwards

    pub(crate) fn stats(&mut self) -> Stats {
        let now = self.now();
        self.exchanger.stats(now)
    }

    /// Everybody has an answer or is gone, and no flight is left once its time is over.
    pub(crate) fn assert_nothing_is_left(&mut self) {
        self.run();
        for (number, caller) in self.callers.iter().enumerate() {
            let over = matches!(caller.state, State::Ended { .. } | State::Gone);
            assert!(over, "caller {number} still waits: {:?}", caller.state);
        }
        self.advance(2 * MINUTE);
        assert_eq!(self.stats().flights, 0, "a flight stays in the table");
    }

    /// How many callers got a token from this source.
    pub(crate) fn count(&self, source: Source) -> usize {
        let with =
            |caller: &&Caller| matches!(&caller.state, State::Ended { result: Ok((_, from)), .. } if *from == source);
        self.callers.iter().filter(with).count()
    }
}

/// The reason that a call failed for.
pub(crate) fn reason(result: Result<(String, Source), Failure>) -> FailureReason {
    match result {
        Err(failure) => failure.reason,
        Ok((token, source)) => panic!("a token, {token}, from {source:?}"),
    }
}

#[test]
fn the_world_mints_a_token_that_names_its_user_and_scopes() {
    let mut world = World::new();
    assert_eq!(world.ask(&request_of("ann", "b a")), Ok(("minted~ann~a+b~1".to_owned(), Source::Issuer)));
    assert_eq!((world.real_ms(), world.took_ms(0)), (50, 50));
    world.assert_nothing_is_left();
}
