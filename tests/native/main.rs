//! Scenarios of the core on virtual time: no network, no clock, no waiting.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic
)]

mod bad_input;
mod caching;
mod client_authentication;
mod clock;
mod discovery;
mod failures;
mod grants;
mod machine;
mod single_flight;
mod token_request;
mod world;
