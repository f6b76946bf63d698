//! What an MCP gateway decides, as pure functions: it holds no connection and verifies no signature.
//!
//! In the order of a request: [`route`], then the bearer token's form and its verified claims ([`token`]), the
//! exchange (elsewhere), [`headers`] that pass, and the [`refusal`] of whatever failed: an [`answer`], with its
//! [`challenge`] where the client can do something about it.

pub mod answer;
pub mod challenge;
pub mod config;
pub mod headers;
pub mod metadata;
pub mod refusal;
pub mod route;
pub mod token;
