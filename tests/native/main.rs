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
mod coordinator;
mod discovery;
mod eviction;
mod failures;
mod grants;
mod machine;
mod remembered_failures;
mod renewal;
mod single_flight;
mod throttling;
mod token_request;
mod world;
