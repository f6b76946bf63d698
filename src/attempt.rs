//! One attempt at one leg: find the token endpoint, authenticate the client, send the token request.

use core::ops::ControlFlow;

use crate::action::{Action, Event, MAX_RESPONSE_BYTES, Response, TokenRequest};
use crate::authorization_server::AuthorizationServer;
use crate::client::{ClientAuthentication, Form, KeptClientAssertion, SigningKey, is_client_assertion};
use crate::common::Common;
use crate::config::Config;
use crate::failure::{Failure, FailureReason, TransportFailure};
use crate::journal::{EventKind, ExchangeEvent};
use crate::metadata::{MAX_METADATA_BYTES, Metadata, NAMES_ANOTHER, metadata_urls};
use crate::secret::Secret;
use crate::time::Timestamp;

/// What an attempt comes to: the response, and when its request was sent; or what to do next.
pub(crate) type Progress = Result<ControlFlow<(Response, Timestamp), Action>, Failure>;

/// The attempt.
pub(crate) struct Attempt {
    /// Which of the configured servers.
    server: usize,
    /// Which token request of the exchange, from 1.
    number: u64,
    /// The grant's parameters.
    form: Form,
    jti: [u8; 16],
    until: Timestamp,
    /// What the first metadata that cannot be used was refused for.
    refusal: Option<Failure>,
    endpoint: String,
    /// With whether it was kept from before.
    client_assertion: Option<(Secret, bool)>,
    state: State,
}

enum State {
    /// The metadata at this place is read.
    Discovering { place: usize },
    /// The client assertion is made.
    Authenticating { asked_at: Timestamp },
    /// The token request is under way.
    Posting { sent_at: Timestamp },
}

impl Attempt {
    /// An attempt that may take until `until`; `jti` are random bytes for its client assertion.
    pub(crate) fn new(server: usize, number: u64, form: Form, jti: [u8; 16], until: Timestamp) -> Self {
        let state = State::Discovering { place: 0 };
        let (refusal, endpoint, client_assertion) = (None, String::new(), None);
        Self { server, number, form, jti, until, refusal, endpoint, client_assertion, state }
    }

    /// The first thing to do.
    pub(crate) fn begin(&mut self, config: &Config, now: Timestamp, common: &mut Common) -> Progress {
        let server = self.server(config)?;
        if let Some(endpoint) = &server.token_endpoint {
            endpoint.as_str().clone_into(&mut self.endpoint);
            return self.authenticate(config, now, common);
        }
        match common.metadata.get(self.server).and_then(|cache| cache.usable(now)).cloned() {
            Some(metadata) => self.discovered(&metadata, config, now, common),
            None => self.discover(0, config, now, common),
        }
    }

    /// Takes what the host reports.
    pub(crate) fn step(&mut self, event: Event, config: &Config, now: Timestamp, common: &mut Common) -> Progress {
        let state = core::mem::replace(&mut self.state, State::Posting { sent_at: now });
        match (state, event) {
            (State::Discovering { place }, Event::Responded(response)) => {
                self.read_metadata(place, &response, config, now, common)
            }
            (State::Discovering { place }, Event::TransportFailed(transport)) => {
                let problem = match transport {
                    TransportFailure::Network => "publishes metadata that could not be reached",
                    TransportFailure::TimedOut => "publishes metadata that did not arrive in time",
                    TransportFailure::TooLarge => {
                        return self.refuse(place, TOO_LARGE, None, config, now, common);
                    }
                    TransportFailure::Redirected => {
                        return self.refuse(place, REDIRECT, None, config, now, common);
                    }
                };
                // The same host has the other place.
                let failure = about_issuer(self.server(config)?, FailureReason::Unavailable, problem);
                self.undiscovered(failure, config, now, common)
            }
            (State::Authenticating { asked_at }, Event::ClientAssertion(text)) => {
                self.authenticated(text, asked_at, config, now, common)
            }
            (State::Authenticating { .. }, Event::ClientAssertionFailed) => Err(self.unauthenticated(config)?),
            (State::Posting { sent_at }, Event::Responded(response)) => Ok(ControlFlow::Break((response, sent_at))),
            (State::Posting { .. }, Event::TransportFailed(TransportFailure::Redirected)) => {
                Err(redirected(self.server(config)?))
            }
            (State::Posting { .. }, Event::TransportFailed(transport)) => Err(transport.into()),
            (_, _) => Err(Failure::unasked()),
        }
    }

    /// The client assertion that went out, if it was kept from an earlier request or made by the operator: a fresh
    /// one may do better.
    pub(crate) fn may_be_outdated(&self) -> bool {
        self.client_assertion.as_ref().is_some_and(|(_, was_kept)| *was_kept)
    }

    /// Forgets the client assertion that went out, unless another has taken its place already.
    pub(crate) fn drop_client_assertion(&self, common: &mut Common) {
        let kept = common.client_assertion.as_ref().map(|kept| &kept.text);
        if kept.is_some() && kept == self.client_assertion.as_ref().map(|(text, _)| text) {
            common.client_assertion = None;
        }
    }

    fn server<'a>(&self, config: &'a Config) -> Result<&'a AuthorizationServer, Failure> {
        config.servers.get(self.server).ok_or_else(Failure::unasked)
    }

    fn left_ms(&self, now: Timestamp) -> u64 {
        self.until.after(now).max(1)
    }

    // ---------------------------------------------------------------- the token endpoint

    fn discover(&mut self, place: usize, config: &Config, now: Timestamp, common: &mut Common) -> Progress {
        let server = self.server(config)?;
        let urls = server.issuer.as_ref().map(|(_, url)| metadata_urls(url));
        let Some(url) = urls.and_then(|urls| urls.into_iter().nth(place)) else {
            let problem = "publishes no metadata (RFC 8414, OpenID Connect Discovery)";
            let failure =
                self.refusal.take().unwrap_or_else(|| about_issuer(server, FailureReason::Misconfigured, problem));
            return self.undiscovered(failure, config, now, common);
        };
        self.state = State::Discovering { place };
        common.journal.count(EventKind::MetadataRequest);
        let timeout_ms = (self.left_ms(now) / 2).max(1);
        Ok(ControlFlow::Continue(Action::Get { url, timeout_ms, max_response_bytes: MAX_METADATA_BYTES }))
    }

    fn read_metadata(
        &mut self,
        place: usize,
        response: &Response,
        config: &Config,
        now: Timestamp,
        common: &mut Common,
    ) -> Progress {
        let server = self.server(config)?;
        match response.status {
            200 if response.body.len() > MAX_METADATA_BYTES => self.refuse(place, TOO_LARGE, None, config, now, common),
            200 => match Metadata::read(server.issuer_name().unwrap_or_default(), &response.body, config.parse_url) {
                Ok(metadata) => {
                    // Not kept before it is known to serve: it may be mended.
                    if let Some((name, problem)) = server.client_authentication.refused_by(&metadata) {
                        return Err(server.problem(name, problem));
                    }
                    if let Some(cache) = common.metadata.get_mut(self.server) {
                        cache.keep(metadata.clone(), now);
                    }
                    self.discovered(&metadata, config, now, common)
                }
                Err(problem) => self.refuse(place, problem, None, config, now, common),
            },
            300..=399 => self.refuse(place, REDIRECT, None, config, now, common),
            408 | 429 | 500..=599 => self.refuse(place, AWAY, Some(response.status), config, now, common),
            // Not here: maybe at the next place.
            _ => self.discover(place.saturating_add(1), config, now, common),
        }
    }

    /// The document at this place cannot be used; the next one may.
    fn refuse(
        &mut self,
        place: usize,
        problem: &'static str,
        status: Option<u16>,
        config: &Config,
        now: Timestamp,
        common: &mut Common,
    ) -> Progress {
        let reason = match problem {
            NAMES_ANOTHER => FailureReason::Misconfigured,
            AWAY => FailureReason::Unavailable,
            _ => FailureReason::InvalidResponse,
        };
        let mut failure = about_issuer(self.server(config)?, reason, problem);
        failure.status = status;
        self.refusal.get_or_insert(failure);
        self.discover(place.saturating_add(1), config, now, common)
    }

    /// No metadata: what is known from before has to do, where it is not too old.
    fn undiscovered(&mut self, failure: Failure, config: &Config, now: Timestamp, common: &mut Common) -> Progress {
        common.journal.record(ExchangeEvent::of_failure(EventKind::MetadataFailure, &failure));
        match common.metadata.get_mut(self.server).and_then(|cache| cache.failed(now)).cloned() {
            Some(metadata) => self.discovered(&metadata, config, now, common),
            None => Err(failure),
        }
    }

    fn discovered(&mut self, metadata: &Metadata, config: &Config, now: Timestamp, common: &mut Common) -> Progress {
        let server = self.server(config)?;
        let endpoint = match &metadata.mtls_token_endpoint {
            Some(alias) if server.client_authentication == ClientAuthentication::TlsClientAuth => alias,
            _ => &metadata.token_endpoint,
        };
        endpoint.as_str().clone_into(&mut self.endpoint);
        self.authenticate(config, now, common)
    }

    // ---------------------------------------------------------------- the client

    fn authenticate(&mut self, config: &Config, now: Timestamp, common: &mut Common) -> Progress {
        let server = self.server(config)?;
        let timeout_ms = (self.left_ms(now) / 2).max(1);
        let key = match &server.client_authentication {
            ClientAuthentication::PrivateKeyJwt(key) => key,
            ClientAuthentication::ClientAssertion => {
                self.state = State::Authenticating { asked_at: now };
                return Ok(ControlFlow::Continue(Action::ObtainClientAssertion { server: self.server, timeout_ms }));
            }
            _ => return self.post(config, now, common),
        };
        if let Some(problem) = key.certificate.as_ref().and_then(|certificate| certificate.untimely(now)) {
            return Err(server.problem("clientAuthentication.certificate", problem));
        }
        let audience = self.audience(server, config);
        if let Some(kept) = common.client_assertion.as_ref().filter(|kept| kept.is_good_for(audience, now)) {
            self.client_assertion = Some((kept.text.clone(), true));
            return self.post(config, now, common);
        }
        let jwt =
            key.client_assertion(&server.client_id, audience, self.jti, config.grant.reuses_client_assertions(), now);
        self.state = State::Authenticating { asked_at: now };
        Ok(ControlFlow::Continue(Action::Sign { server: self.server, jwt, timeout_ms }))
    }

    fn authenticated(
        &mut self,
        text: Secret,
        asked_at: Timestamp,
        config: &Config,
        now: Timestamp,
        common: &mut Common,
    ) -> Progress {
        let server = self.server(config)?;
        if !is_client_assertion(text.reveal()) {
            return Err(match &server.client_authentication {
                ClientAuthentication::PrivateKeyJwt(key) => cannot_sign(server, key),
                _ => server.problem("clientAuthentication.clientAssertion", "must give a JWT"),
            });
        }
        let is_own = matches!(server.client_authentication, ClientAuthentication::PrivateKeyJwt(_));
        if is_own && config.grant.reuses_client_assertions() {
            let audience = self.audience(server, config).to_owned();
            common.client_assertion = Some(KeptClientAssertion::new(audience, text.clone(), asked_at));
        }
        // The operator may have kept the one that the callback gave.
        self.client_assertion = Some((text, !is_own));
        self.post(config, now, common)
    }

    fn unauthenticated(&self, config: &Config) -> Result<Failure, Failure> {
        let server = self.server(config)?;
        Ok(match &server.client_authentication {
            ClientAuthentication::PrivateKeyJwt(key) => cannot_sign(server, key),
            _ => {
                let field = server.path("clientAuthentication.clientAssertion");
                Failure::of_field(FailureReason::Unavailable, &field, "threw, or gave nothing in time")
            }
        })
    }

    /// Who a client assertion is made for: RFC 7523 section 3 leaves the choice, servers do not.
    fn audience<'a>(&'a self, server: &'a AuthorizationServer, config: &Config) -> &'a str {
        let issuer = server.issuer_name().filter(|_| !config.grant.reuses_client_assertions());
        issuer.unwrap_or(&self.endpoint)
    }

    // ---------------------------------------------------------------- the token request

    fn post(&mut self, config: &Config, now: Timestamp, common: &mut Common) -> Progress {
        let server = self.server(config)?;
        let mut form = core::mem::take(&mut self.form);
        let client_assertion = self.client_assertion.as_ref().map(|(text, _)| text);
        let authorization = server.client_authentication.apply(&server.client_id, client_assertion, &mut form);
        self.state = State::Posting { sent_at: now };
        let attempt = Some(self.number);
        common.journal.record(ExchangeEvent { attempt, ..ExchangeEvent::of(EventKind::TokenRequest) });
        Ok(ControlFlow::Continue(Action::Post(TokenRequest {
            url: self.endpoint.clone(),
            authorization,
            body: form.into_body(),
            timeout_ms: self.left_ms(now),
            max_response_bytes: MAX_RESPONSE_BYTES,
        })))
    }
}

const TOO_LARGE: &str = "publishes metadata that is larger than 1 MiB";
const AWAY: &str = "publishes metadata that its server cannot give at the moment";
const REDIRECT: &str = "publishes metadata that is a redirect";

/// A token endpoint that sends elsewhere: whoever is there would get the user's token.
pub(crate) fn redirected(server: &AuthorizationServer) -> Failure {
    let field = server.path("tokenEndpoint");
    Failure::of_field(FailureReason::InvalidResponse, &field, "answered with a redirect, which is never followed")
}

fn about_issuer(server: &AuthorizationServer, reason: FailureReason, problem: &str) -> Failure {
    Failure::of_field(reason, &server.path("issuer"), problem)
}

fn cannot_sign(server: &AuthorizationServer, key: &SigningKey) -> Failure {
    let algorithm = key.algorithm.as_str();
    let problem = ["cannot sign ", algorithm, ": it is damaged, of another kind, too short, or not allowed to sign"];
    server.problem("clientAuthentication.key", &problem.concat())
}
