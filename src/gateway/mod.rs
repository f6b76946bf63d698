//! What an MCP gateway decides, as pure functions: it holds no connection and verifies no signature.
//!
//! In the order of a request: [`route`], then the bearer token's form and its verified claims ([`token`]), the
//! exchange (elsewhere), [`headers`] that pass, and the [`answer`] to whatever failed, with its [`challenge`].

pub mod answer;
pub mod challenge;
pub mod config;
pub mod headers;
pub mod metadata;
pub mod route;
pub mod token;
