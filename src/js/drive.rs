//! The driver loop: does what the core asks, and reports what came of it.

use core::cell::RefCell;
use core::ops::ControlFlow;
use std::rc::Rc;

use js_sys::{Array, Function, Object, Promise, Reflect, Uint8Array};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::{JsFuture, future_to_promise};
use web_sys::{AbortController, Headers, RequestInit, RequestRedirect};

use super::host::{Host, Store, get_reader, random, settled, sleep, within};
use super::{Shared, now, to_js};
use crate::action::{Action, Event, Response, StoreWrite, TokenRequest};
use crate::exchanger::EvictionCause;
use crate::failure::{Failure, FailureReason, TransportFailure};
use crate::flight::Generation;
use crate::request::Request;
use crate::secret::Secret;

/// How long a removal from the store or the coordinator may take, in milliseconds.
const EVICT_MS: u64 = 1500;

/// Flies a flight to its end.
pub(super) fn fly(shared: &Rc<RefCell<Shared>>, host: &Rc<Host>, generation: Generation, anchor: &Function) -> Promise {
    let (shared, host, anchor) = (shared.clone(), host.clone(), anchor.clone());
    // The first step is taken at once, so that whoever joins knows when the next one is due.
    let mut flow = step(&shared, generation, Event::Begun(random()));
    future_to_promise(async move {
        loop {
            // Here and not within a step: whoever called `fly` has not read its call yet, and a listener may call.
            report(&shared, &host);
            match flow {
                ControlFlow::Continue(action) => {
                    let event = perform(&host, action).await;
                    flow = step(&shared, generation, event);
                }
                ControlFlow::Break(write) => {
                    // Nobody waits for the write; it only keeps the request alive.
                    if let Some(write) = write {
                        let writing = future_to_promise(store(shared, host, write));
                        let _ = anchor.call1(&JsValue::UNDEFINED, &writing);
                    }
                    return Ok(JsValue::UNDEFINED);
                }
            }
        }
    })
}

fn step(shared: &RefCell<Shared>, generation: Generation, event: Event) -> ControlFlow<Option<StoreWrite>, Action> {
    shared.borrow_mut().exchanger.step(generation, now(), event)
}

/// Hands the events that wait to the listener, one by one: it may call back.
pub(super) fn report(shared: &RefCell<Shared>, host: &Host) {
    let Some(listener) = host.on_event() else { return };
    loop {
        let event = shared.borrow_mut().exchanger.journal().next_event();
        let Some(event) = event else { return };
        // What a listener throws is its own affair.
        let _ = listener.call1(&JsValue::UNDEFINED, &to_js(&event));
    }
}

async fn perform(host: &Host, action: Action) -> Event {
    match action {
        Action::ReadStore { name, timeout_ms } => {
            let store: Store = host.store().unchecked_into();
            match within(timeout_ms, settled(store.get(&name))).await {
                Some(Ok(value)) if value.is_null() || value.is_undefined() => Event::StoreRead(None),
                // What is no text was never written by us, and opens no better than an empty one.
                Some(Ok(value)) => Event::StoreRead(Some(value.as_string().unwrap_or_default())),
                Some(Err(_)) | None => Event::StoreFailed,
            }
        }
        Action::Coordinate { name, request, timeout_ms } => {
            let asked = host.coordinate(&name, &fields(&request), request.from_cache, request.subject.is_some());
            match within(timeout_ms, settled(asked)).await {
                Some(Ok(answer)) => Event::Coordinated(Secret::new(answer.as_string().unwrap_or_default())),
                Some(Err(_)) | None => Event::CoordinatorFailed,
            }
        }
        Action::Get { url, timeout_ms, max_response_bytes } => {
            sent(host, "GET", &url, None, None, timeout_ms, max_response_bytes).await
        }
        Action::Post(TokenRequest { url, authorization, body, timeout_ms, max_response_bytes }) => {
            sent(host, "POST", &url, authorization, Some(body), timeout_ms, max_response_bytes).await
        }
        Action::Sign { server, jwt, timeout_ms } => {
            client_assertion(timeout_ms, host.sign(server, &jwt.header, &jwt.claims)).await
        }
        Action::ObtainClientAssertion { server, timeout_ms } => {
            client_assertion(timeout_ms, host.client_assertion(server)).await
        }
        Action::Sleep { wait_ms } => {
            sleep(wait_ms).await;
            Event::Slept
        }
    }
}

/// The fields of a request as an array, each name before its value.
fn fields(request: &Request) -> Array {
    request.fields().flat_map(|(field, value)| [JsValue::from_str(field.name()), JsValue::from_str(value)]).collect()
}

/// What the operator's key or callback gives.
async fn client_assertion(timeout_ms: u64, given: Result<JsValue, JsValue>) -> Event {
    match within(timeout_ms, settled(given)).await {
        Some(Ok(text)) => Event::ClientAssertion(Secret::new(text.as_string().unwrap_or_default())),
        Some(Err(_)) | None => Event::ClientAssertionFailed,
    }
}

/// Sends a request, and reads the response within its time.
async fn sent(
    host: &Host,
    method: &str,
    url: &str,
    authorization: Option<Secret>,
    body: Option<Secret>,
    timeout_ms: u64,
    max_response_bytes: usize,
) -> Event {
    let response = match AbortController::new() {
        Ok(controller) => {
            let init = init(method, authorization, body, &controller);
            let response = within(timeout_ms, exchange(host, url, init, max_response_bytes)).await;
            if !matches!(response, Some(Ok(_))) {
                // Nobody reads on: neither a response that came too late nor the rest of one that is too long.
                controller.abort();
            }
            response.unwrap_or(Err(TransportFailure::TimedOut))
        }
        Err(error) => Err(network(error)),
    };
    response.map_or_else(Event::TransportFailed, Event::Responded)
}

/// A form goes out, JSON comes back, and no redirect is followed.
fn init(
    method: &str,
    authorization: Option<Secret>,
    body: Option<Secret>,
    controller: &AbortController,
) -> Result<RequestInit, JsValue> {
    let headers = Headers::new()?;
    headers.set("accept", "application/json")?;
    if let Some(authorization) = authorization {
        headers.set("authorization", authorization.reveal())?;
    }
    let init = RequestInit::new();
    if let Some(body) = body {
        headers.set("content-type", "application/x-www-form-urlencoded")?;
        init.set_body(&JsValue::from_str(body.reveal()));
    }
    init.set_method(method);
    init.set_headers(&headers);
    init.set_redirect(RequestRedirect::Manual);
    init.set_signal(Some(&controller.signal()));
    Ok(init)
}

async fn exchange(
    host: &Host,
    url: &str,
    init: Result<RequestInit, JsValue>,
    max_response_bytes: usize,
) -> Result<Response, TransportFailure> {
    let init = init.map_err(network)?;
    let response = settled(host.fetch(url, &init)).await.map_err(network)?;
    if !response.is_object() || !Reflect::get(&response, &"headers".into()).map_err(network)?.is_object() {
        return Err(TransportFailure::Network);
    }
    // By its shape: a `fetch` of another library's has a Response of its own.
    let response: web_sys::Response = response.unchecked_into();
    if response.type_() == web_sys::ResponseType::Opaqueredirect {
        return Err(TransportFailure::Redirected);
    }
    Ok(Response {
        status: response.status(),
        retry_after: response.headers().get("retry-after").ok().flatten(),
        body: read_body(&response, max_response_bytes).await?,
    })
}

/// Reads a body chunk by chunk, and stops where it is too long.
async fn read_body(response: &web_sys::Response, max_bytes: usize) -> Result<Vec<u8>, TransportFailure> {
    let Some(stream) = response.body() else { return Ok(Vec::new()) };
    let reader = get_reader(stream.unchecked_ref()).map_err(network)?;
    let mut body = Vec::new();
    loop {
        let chunk = JsFuture::from(reader.read()).await.map_err(network)?;
        if Reflect::get(&chunk, &"done".into()).map_err(network)?.is_truthy() {
            return Ok(body);
        }
        let bytes: Uint8Array = Reflect::get(&chunk, &"value".into()).map_err(network)?.dyn_into().map_err(network)?;
        if body.len().saturating_add(bytes.length() as usize) > max_bytes {
            // The rest is not wanted; whether the server hears of it does not matter.
            let _ = reader.cancel();
            return Err(TransportFailure::TooLarge);
        }
        body.extend_from_slice(&bytes.to_vec());
    }
}

async fn store(shared: Rc<RefCell<Shared>>, host: Rc<Host>, write: StoreWrite) -> Result<JsValue, JsValue> {
    let store: Store = host.store().unchecked_into();
    let options = Object::new();
    Reflect::set(&options, &"expirationTtl".into(), &(write.expires_in_seconds as f64).into())?;
    let putting = settled(store.put(&write.name, &write.value, &options));
    let written = matches!(within(write.timeout_ms, putting).await, Some(Ok(_)));
    let evicted = shared.borrow_mut().exchanger.is_evicted(&write, now());
    // The removal may have come before it.
    if !written || (evicted && !is_done(store.delete(&write.name)).await) {
        shared.borrow_mut().exchanger.store_failed();
        report(&shared, &host);
    }
    Ok(JsValue::UNDEFINED)
}

/// Removes an evicted token from the store under each of its `names`, and has the coordinator forget it.
pub(super) fn evict(
    shared: &Rc<RefCell<Shared>>,
    host: &Rc<Host>,
    names: Vec<String>,
    cause: EvictionCause,
) -> Promise {
    let (shared, host) = (shared.clone(), host.clone());
    let fields = fields(&shared.borrow().request);
    let is_shared = shared.borrow().request.subject.is_some();
    future_to_promise(async move {
        report(&shared, &host);
        let store = Some(host.store()).filter(|store| !store.is_undefined());
        let mut removed = true;
        for name in &names {
            if let Some(store) = &store
                && !is_done(store.unchecked_ref::<Store>().delete(name)).await
            {
                removed = false;
                shared.borrow_mut().exchanger.store_failed();
            }
            if host.has_coordinator()
                && !is_done(host.evict_coordinated(name, &fields, cause == EvictionCause::Refused, is_shared)).await
            {
                removed = false;
                shared.borrow_mut().exchanger.coordinator_failed();
            }
            report(&shared, &host);
        }
        if removed {
            return Ok(JsValue::UNDEFINED);
        }
        let problem = "the store or the coordinator did not remove the evicted token";
        Err(to_js(&Failure::new(FailureReason::Unavailable, problem)))
    })
}

/// Whether JavaScript has done what it promised, in time.
async fn is_done(promised: Result<JsValue, JsValue>) -> bool {
    matches!(within(EVICT_MS, settled(promised)).await, Some(Ok(_)))
}

fn network<E>(_: E) -> TransportFailure {
    TransportFailure::Network
}
