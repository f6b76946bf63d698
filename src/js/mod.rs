//! The face for Workers and other JavaScript runtimes.
//!
//! `pkg/host.js` keeps the callers that wait; Rust futures are for flights only, for a cancelled request
//! leaks the future that is suspended in it. A caller's machine is handed out as a few numbers and handed in
//! again, and its answer is read by getters: no object is made on the way of a hit.

mod drive;
mod gateway;
mod host;
mod read;

use std::cell::RefCell;
use std::rc::Rc;

use js_sys::{Date, Function, Promise};
use serde::Serialize;
use wasm_bindgen::prelude::*;

use crate::cache::entry::Entry;
use crate::call::{Call, Source, Turn, Wake};
use crate::config::HostObjects;
use crate::exchanger::{EvictionCause, Exchanger};
use crate::failure::Failure;
use crate::flight::Generation;
use crate::request::{Request, RequestField};
use crate::time::Timestamp;
use host::Host;

thread_local! {
    /// Where JavaScript encodes the text that a call is about to take.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

#[allow(unreachable_pub, reason = "exported to JavaScript")]
/// Makes room for `bytes` bytes of text; returns the address in the wasm memory.
#[wasm_bindgen]
pub fn scratch(bytes: usize) -> usize {
    SCRATCH.with_borrow_mut(|scratch| {
        if scratch.len() < bytes {
            scratch.resize(bytes, 0);
        }
        scratch.as_ptr().addr()
    })
}

/// What a caller is to do next; the numbers that `pkg/host.js` knows them by.
#[wasm_bindgen]
#[derive(Clone, Copy)]
pub enum Next {
    /// Read the answer.
    Answer,
    /// Read the answer, then start the flight; nobody waits for it.
    AnswerAndRenew,
    /// Read the failure.
    Fail,
    /// Start the flight, then wait for it.
    Lead,
    /// Wait for the flight.
    Wait,
}

/// The texts of an answer, as the contract has them.
#[wasm_bindgen]
#[derive(Clone, Copy)]
pub enum Text {
    /// The token.
    AccessToken,
    /// `token_type`.
    TokenType,
    /// The granted scopes.
    Scope,
    /// `issued_token_type`.
    IssuedTokenType,
    /// Where it came from.
    Source,
}

/// The numbers of a call and its answer. Instants are in milliseconds since the epoch.
#[wasm_bindgen]
#[derive(Clone, Copy)]
pub enum Number {
    /// Until when the call may wait.
    Deadline,
    /// The flight that it waits for.
    Generation,
    /// When that flight's step must report.
    Due,
    /// How often it began anew.
    Takeovers,
    /// Whether it leads the flight: 1, or 0.
    Leads,
    /// The oldest flight in the table; those before it are gone.
    OldestGeneration,
    /// The token's own expiry.
    ExpiresAt,
}

/// An exchanger, and the call that is being made of it at this moment.
#[wasm_bindgen]
pub struct Core {
    shared: Rc<RefCell<Shared>>,
    host: Rc<Host>,
}

/// What flights and calls share. Borrowed for a moment only, and never while JavaScript runs.
struct Shared {
    exchanger: Exchanger,
    request: Request,
    wrong: Option<Failure>,
    call: Call,
    answer: Option<(Entry, Source)>,
    failure: Option<Failure>,
}

impl Shared {
    fn take(&mut self, turn: Turn) -> Next {
        match turn {
            Turn::Answer(entry, source) => {
                self.answer = Some((entry, source));
                Next::Answer
            }
            Turn::AnswerAndRenew(entry, _) => {
                self.answer = Some((entry, Source::Memory));
                Next::AnswerAndRenew
            }
            Turn::Fail(failure) => self.fail(failure),
            Turn::Lead(_) => Next::Lead,
            Turn::Wait(_) => Next::Wait,
        }
    }

    fn fail(&mut self, failure: Failure) -> Next {
        self.failure = Some(failure);
        Next::Fail
    }
}

#[wasm_bindgen]
impl Core {
    /// An exchanger with these options, as JSON, the host's own objects taken out of them.
    ///
    /// # Errors
    /// A failure as `failure` gives it.
    #[wasm_bindgen(constructor)]
    pub fn new(options: &str, host: Host) -> Result<Core, JsValue> {
        let (store, coordinator) = (!host.store().is_undefined(), host.has_coordinator());
        let objects = HostObjects { store, coordinator, fetch: host.has_fetch() };
        let config = read::config(options, objects).map_err(|failure| to_js(&failure))?;
        let mut exchanger = Exchanger::new(config);
        if host.on_event().is_some() {
            exchanger.journal().listen();
        }
        let call = Call::idle();
        let shared = Shared { exchanger, request: Request::new(), wrong: None, call, answer: None, failure: None };
        Ok(Self { shared: Rc::new(RefCell::new(shared)), host: Rc::new(host) })
    }

    /// Begins the description of a request.
    pub fn describe(&self, from_cache: bool) {
        let shared = &mut *self.shared.borrow_mut();
        shared.request = Request { from_cache, ..Request::new() };
        shared.wrong = None;
    }

    /// Sets the field of this number to the first `bytes` bytes of the scratch text.
    pub fn field(&self, number: u8, bytes: usize) {
        let shared = &mut *self.shared.borrow_mut();
        let result = SCRATCH.with_borrow(|scratch| {
            let text = scratch.get(..bytes).and_then(|bytes| core::str::from_utf8(bytes).ok());
            match (RequestField::from_number(number), text) {
                (Some(field), Some(text)) => shared.request.set(field, text),
                _ => Err(Failure::invalid_request("request", "cannot be read")),
            }
        });
        if let Err(failure) = result {
            shared.wrong.get_or_insert(failure);
        }
    }

    /// Notes that the request has a field of this name that is of the wrong type or unknown.
    pub fn wrong_field(&self, name: &str, problem: &str) {
        self.shared.borrow_mut().wrong.get_or_insert_with(|| Failure::invalid_request(name, problem));
    }

    /// Makes the described call, which may wait until `deadline` at the latest, in milliseconds since the epoch.
    pub fn begin(&self, deadline: f64) -> Next {
        let shared = &mut *self.shared.borrow_mut();
        if let Some(failure) = shared.wrong.take() {
            return shared.fail(failure);
        }
        let (call, turn) = Call::begin(&mut shared.exchanger, &shared.request, now());
        shared.call = Call { deadline: call.deadline.min(timestamp(deadline)), ..call };
        shared.take(turn)
    }

    /// Goes on with the described call after a wait, from the numbers that it was handed out as.
    pub fn wake(&self, wake: u8, deadline: f64, generation: f64, due: f64, takeovers: u32, leads: bool) -> Next {
        let shared = &mut *self.shared.borrow_mut();
        let wake = match wake {
            0 => Wake::Rang,
            1 => Wake::TimedOut,
            2 => Wake::Orphaned,
            _ => Wake::Aborted,
        };
        shared.call = Call {
            deadline: timestamp(deadline),
            generation: Generation(timestamp(generation).as_millis()),
            due: timestamp(due),
            takeovers,
            leads,
        };
        let turn = shared.call.wake(&mut shared.exchanger, &shared.request, now(), wake);
        shared.take(turn)
    }

    /// Milliseconds to wait now. The call's numbers are read after it.
    pub fn wait_ms(&self) -> f64 {
        let shared = &mut *self.shared.borrow_mut();
        shared.call.wait_ms(&shared.exchanger, now()) as f64
    }

    /// One of the numbers.
    pub fn number(&self, which: Number) -> f64 {
        let shared = &*self.shared.borrow();
        let call = &shared.call;
        let number = match which {
            Number::Deadline => call.deadline.as_millis(),
            Number::Generation => call.generation.0,
            Number::Due => call.due.as_millis(),
            Number::Takeovers => call.takeovers.into(),
            Number::Leads => call.leads.into(),
            Number::OldestGeneration => shared.exchanger.oldest_generation().0,
            Number::ExpiresAt => shared.answer.as_ref().map_or(0, |(entry, _)| entry.token.expires_at.as_millis()),
        };
        number as f64
    }

    /// Starts the flight that the call is to lead. The promise is a bell: it resolves with nothing, when the
    /// outcome stands in the table. `anchor` keeps the request alive for the promise that it is given.
    pub fn fly(&self, anchor: &Function) -> Promise {
        let generation = self.shared.borrow().call.generation;
        drive::fly(&self.shared, &self.host, generation, anchor)
    }

    /// One of the answer's texts.
    pub fn text(&self, which: Text) -> Option<String> {
        let shared = &*self.shared.borrow();
        let (entry, source) = shared.answer.as_ref()?;
        let token = &entry.token;
        let text = match which {
            Text::AccessToken => token.access_token.reveal(),
            Text::TokenType => &token.token_type,
            Text::Scope => &token.scope,
            Text::IssuedTokenType => token.issued_token_type.as_deref()?,
            Text::Source => source.as_str(),
        };
        Some(text.to_owned())
    }

    /// The failure, as an object with the fields of the contract; taken once.
    pub fn failure(&self) -> JsValue {
        let failure = self.shared.borrow_mut().failure.take();
        failure.map_or(JsValue::UNDEFINED, |failure| to_js(&failure))
    }

    /// The answer, sealed for another isolate, with where it came from.
    pub fn sealed_answer(&self) -> Option<String> {
        let shared = &mut *self.shared.borrow_mut();
        let (entry, source) = shared.answer.as_ref()?;
        shared.exchanger.sealed_answer(&shared.request, entry, *source, host::random(), now())
    }

    /// Whether the coordinator's object of this `name` is the one for the described request.
    ///
    /// # Errors
    /// A failure as `failure` gives it.
    pub fn is_named(&self, name: &str) -> Result<bool, JsValue> {
        let shared = &mut *self.shared.borrow_mut();
        let named = match shared.wrong.take() {
            Some(failure) => Err(failure),
            None => shared.exchanger.is_named(&shared.request, name),
        };
        named.map_err(|failure| to_js(&failure))
    }

    /// Forgets the token of the described request, because it was `refused` or because the caller asks.
    ///
    /// # Errors
    /// A failure as `failure` gives it; the promise rejects with one, too.
    pub fn evict(&self, refused: bool) -> Result<Promise, JsValue> {
        let cause = if refused { EvictionCause::Refused } else { EvictionCause::Asked };
        let names = {
            let shared = &mut *self.shared.borrow_mut();
            match shared.wrong.take() {
                Some(failure) => Err(failure),
                None => shared.exchanger.evict(&shared.request, cause, now()),
            }
        };
        let names = names.map_err(|failure| to_js(&failure))?.unwrap_or_default();
        Ok(drive::evict(&self.shared, &self.host, names, cause))
    }

    /// The counters.
    pub fn stats(&self) -> JsValue {
        to_js(&self.shared.borrow_mut().exchanger.stats(now()))
    }

    /// Hands the events that wait to the listener.
    pub fn report(&self) {
        drive::report(&self.shared, &self.host);
    }
}

fn now() -> Timestamp {
    timestamp(Date::now())
}

/// Whole milliseconds; the cast saturates.
fn timestamp(milliseconds: f64) -> Timestamp {
    Timestamp::from_millis(milliseconds as u64)
}

/// As JavaScript has it; `undefined` where it cannot be.
fn to_js(value: &impl Serialize) -> JsValue {
    const SERIALIZER: serde_wasm_bindgen::Serializer =
        serde_wasm_bindgen::Serializer::new().serialize_maps_as_objects(true);
    value.serialize(&SERIALIZER).unwrap_or(JsValue::UNDEFINED)
}
