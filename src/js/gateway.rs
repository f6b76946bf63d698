//! The gateway's decisions, for `pkg/gateway.js`.

use wasm_bindgen::prelude::*;

use super::{read, to_js};
use crate::failure::{Failure, FailureReason};
use crate::gateway::answer::Answer;
use crate::gateway::config::GatewayConfig;
use crate::gateway::route::{self, Route};
use crate::gateway::{headers, refusal, token};
use crate::json::object;
use crate::metadata;
use crate::record::Value;
use crate::url::Url;

/// A configured gateway.
#[wasm_bindgen]
pub struct GatewayCore(GatewayConfig);

#[wasm_bindgen]
impl GatewayCore {
    /// A gateway with this configuration, JSON, and an exchanger of this grant.
    ///
    /// # Errors
    /// A failure that names what is missing, wrong or unknown.
    #[wasm_bindgen(constructor)]
    pub fn new(config: &str, grant: Option<String>) -> Result<GatewayCore, JsValue> {
        let config = serde_json::from_slice(config.as_bytes()).unwrap_or_default();
        GatewayConfig::read(config, grant.as_deref(), read::parse_url)
            .map(Self)
            .map_err(|failure: Failure| to_js(&failure))
    }

    /// What `pkg/gateway.js` has to know of the servers to carry out what is decided here, by their names.
    pub fn servers(&self) -> JsValue {
        let servers = self.0.servers().map(|(name, server)| {
            let mut members = vec![
                ("name", Value::Text(name)),
                ("url", Value::Text(server.url.as_str())),
                ("issuer", Value::Text(&server.inbound.issuer)),
                ("audience", texts(&server.inbound.audience)),
                ("algorithms", Value::Texts(token::ALGORITHMS.to_vec())),
                ("scopes", texts(&server.obo.scopes)),
                ("resource", texts(&server.obo.resource)),
                ("exchangeAudience", texts(&server.obo.audience)),
            ];
            members.extend(server.inbound.jwks_uri.as_ref().map(|url| ("jwksUri", Value::Text(url.as_str()))));
            (name, Value::Record(members))
        });
        to_js(&Value::Record(servers.collect()))
    }

    /// The name of the server that a request is for, or an answer.
    pub fn route(&self, method: &str, path: &str, query: &str) -> JsValue {
        match route::route(&self.0, method, path, query) {
            Route::Server(name) => name.into(),
            Route::Answer(answer) => to_js_answer(&answer),
        }
    }

    /// The token of an `Authorization` header, or an answer.
    pub fn bearer(&self, name: &str, authorization: Option<String>) -> JsValue {
        match token::bearer(&self.0, name, authorization.as_deref()) {
            Ok(token) => token.into(),
            Err(answer) => to_js_answer(&answer),
        }
    }

    /// An answer where a verified token, its header and claims as JSON, is none that the server takes.
    pub fn judge(&self, name: &str, header: &str, claims: &str) -> JsValue {
        let (Some(header), Some(claims)) = (object(header.as_bytes()), object(claims.as_bytes())) else {
            return self.invalid_token(name);
        };
        let verdict = token::judge(&self.0, name, &header, &claims);
        verdict.err().map_or(JsValue::UNDEFINED, |answer| to_js_answer(&answer))
    }

    /// The answer to a token that does not verify.
    pub fn invalid_token(&self, name: &str) -> JsValue {
        self.failed(name, FailureReason::AssertionRejected.as_str(), None, None, None, None)
    }

    /// The answer where keys cannot be fetched.
    pub fn keys_unavailable(&self) -> JsValue {
        to_js_answer(&Answer::keys_unavailable())
    }

    /// The answer to a failed exchange, from the fields of its error.
    pub fn failed(
        &self,
        name: &str,
        reason: &str,
        claims: Option<String>,
        acr_values: Option<String>,
        max_age: Option<f64>,
        retry_after: Option<f64>,
    ) -> JsValue {
        let reason = FailureReason::from_name(reason).unwrap_or(FailureReason::Misconfigured);
        to_js_answer(&refusal::failed_exchange(
            &self.0,
            name,
            reason,
            claims.as_deref(),
            acr_values.as_deref(),
            max_age.map(|seconds| seconds as u64),
            retry_after.map(|seconds| seconds as u64),
        ))
    }

    /// Whether a request header goes to the server.
    pub fn passes_upstream(&self, name: &str) -> bool {
        headers::passes_upstream(name)
    }

    /// Whether a response header goes to the client.
    pub fn passes_downstream(&self, name: &str) -> bool {
        headers::passes_downstream(name)
    }

    /// An answer in the place of a server's whose status does not pass.
    pub fn refused_upstream(&self, status: u16) -> JsValue {
        refusal::refused_upstream(status).map_or(JsValue::UNDEFINED, |answer| to_js_answer(&answer))
    }

    /// Whether a server's refusal of a token from this source is worth a fresh one.
    pub fn is_worth_a_fresh_token(&self, status: u16, source: &str) -> bool {
        refusal::is_worth_a_fresh_token(status, source)
    }

    /// The answer where the server could not be reached.
    pub fn upstream_unreachable(&self) -> JsValue {
        to_js_answer(&Answer::upstream_unreachable())
    }

    /// Where an issuer's metadata may be.
    pub fn issuer_metadata_urls(&self, issuer: &str) -> Vec<String> {
        Url::new(issuer, read::parse_url).map_or_else(|_| Vec::new(), |issuer| metadata::metadata_urls(&issuer).into())
    }

    /// The `jwks_uri` of an issuer's metadata that names it.
    pub fn jwks_uri(&self, issuer: &str, document: &str) -> Option<String> {
        metadata::jwks_uri(issuer, document, read::parse_url)
    }
}

fn texts(list: &[String]) -> Value<'_> {
    Value::Texts(list.iter().map(String::as_str).collect())
}

fn to_js_answer(answer: &Answer) -> JsValue {
    let headers = answer.headers.iter().map(|(name, value)| (*name, Value::Text(value)));
    to_js(&Value::Record(vec![
        ("status", Value::Number(answer.status.into())),
        ("headers", Value::Record(headers.collect())),
        ("body", Value::Text(&answer.body)),
    ]))
}
