//! obo-edge exchanges a signed-in user's access token for one that a downstream MCP server accepts (OAuth 2.0
//! On-Behalf-Of), at the edge.
//!
//! The core does no I/O: time, random bytes, responses and what a store holds come in as events; requests,
//! store reads and writes and sleeps go out as actions. A face (JavaScript's, WASI's) is a loop around it that
//! decides nothing. The map, in reading order:
//!
//! - [`exchanger`]: what outlives one call: configuration, memory cache, flights, remembered failures, counters;
//! - [`call`]: one caller's machine: hit (and maybe renew), lead, join or fail; woken, timed out, orphaned, aborted;
//! - [`exchange`]: one flight's machine: read the store, ask the coordinator, attempt each leg, sleep, done. The whole
//!   flow reads top to bottom; [`attempt`]: find the token endpoint, authenticate the client, post; `coordinator`: what
//!   the one place in the world answers where exchanges of a key are made; `throttle`: who is held back;
//! - [`action`]: what the host is asked, and reports; [`flight`]: the single-flight table; [`common`]: what one flight
//!   learns and the next one uses;
//! - [`request`], [`config`] (read with [`fields`]), [`authorization_server`], [`url`]: what comes in, checked once;
//! - [`grant`]: each grant's parameters, what its response must have, what its errors mean; [`assertion`]: what the
//!   user's token says of itself;
//! - [`client`]: client authentication, with [`certificate`]; [`metadata`]: an issuer's own;
//! - [`token`]: the token endpoint's answer; [`error_response`] and [`failure`]: why there is none; [`retry`]: whether to try again;
//! - [`cache`]: keys, entries, the memory cache, sealing for the store, notes that end; [`source`]: where a token came from;
//! - [`gateway`]: what an MCP gateway decides: route, verified claims, headers, challenge, answer;
//! - [`journal`]: counters and events, told by `record`; [`digest`], [`secret`], [`time`]: what all of them speak in.
//!
//! Ten lines drive an exchange, on any clock:
//!
//! ```
//! use std::ops::ControlFlow;
//! use obo_edge::{call::{Call, Turn, Wake}, action::{Action, Event, Response}, exchanger::Exchanger, time::Timestamp};
//! # use obo_edge::{config::{Config, HostObjects}, request::{Request, RequestField}, url::UrlComponents};
//! # let options = serde_json::json!({"tokenEndpoint": "https://login.example/token", "clientId": "gateway",
//! #     "clientAuthentication": {"method": "client_secret_post", "clientSecret": "secret"}});
//! # fn parse(text: &str) -> Option<UrlComponents> { Some(UrlComponents { scheme: "https".into(), has_userinfo: false,
//! #     host: "login.example".into(), origin: "https://login.example".into(), path: "/token".into(), has_query: false, serialisation: text.into() }) }
//! # let mut request = Request::new();
//! # request.set(RequestField::Assertion, "user.token")?;
//! # request.set(RequestField::Scopes, "api://files/read")?;
//! let mut exchanger = Exchanger::new(Config::read(options, HostObjects::default(), parse)?);
//! let now = Timestamp::from_secs(1_700_000_000);
//! let (mut call, turn) = Call::begin(&mut exchanger, &request, now);
//! let Turn::Lead(flight) = turn else { panic!("nobody asked before") };
//! let mut event = Event::Begun([7; 32]);
//! while let ControlFlow::Continue(action) = exchanger.step(flight, now, event) {
//!     event = match action {
//!         Action::Post(_) => Event::Responded(Response { status: 200, retry_after: None,
//!             body: br#"{"access_token":"t","token_type":"Bearer","expires_in":3600}"#.to_vec() }),
//!         Action::ReadStore { .. } => Event::StoreRead(None),
//!         Action::Sleep { .. } => Event::Slept,
//!         _ => unreachable!(),
//!     };
//! }
//! assert!(matches!(call.wake(&mut exchanger, &request, now, Wake::Rang), Turn::Answer(..)));
//! # Ok::<(), obo_edge::failure::Failure>(())
//! ```

// The faces' bindings generate unsafe code; the core, which is all that a native build has, can hold none.
#![cfg_attr(not(target_family = "wasm"), forbid(unsafe_code))]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects, clippy::cast_possible_truncation))]

pub mod action;
pub mod assertion;
pub mod attempt;
pub mod authorization_server;
pub mod cache;
pub mod call;
pub mod certificate;
pub mod client;
pub mod common;
pub mod config;
mod coordinator;
pub mod digest;
pub mod error_response;
pub mod exchange;
pub mod exchanger;
pub mod failure;
pub mod fields;
pub mod flight;
pub mod gateway;
pub mod grant;
pub mod journal;
mod json;
pub mod metadata;
mod pem;
mod record;
pub mod request;
pub mod retry;
pub mod secret;
pub mod source;
mod throttle;
pub mod time;
pub mod token;
pub mod url;

#[cfg(all(feature = "js", target_family = "wasm"))]
mod js;
