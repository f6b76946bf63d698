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
mod clock;
mod failures;
mod machine;
mod single_flight;
mod token_request;
mod world;
