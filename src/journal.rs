//! What happened: counters for the operator, and events for whoever listens.

use std::collections::VecDeque;

use serde::ser::{Serialize, Serializer};

use crate::failure::{Failure, FailureReason};
use crate::record::{self, Value};

/// How many events wait to be collected; beyond that the oldest are dropped.
const MAX_WAITING_EVENTS: usize = 256;

/// Counters since the exchanger was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "each counts the events of the kind with the same name")]
pub struct Stats {
    pub memory_hits: u64,
    pub store_hits: u64,
    pub joins: u64,
    pub token_requests: u64,
    pub retries: u64,
    pub takeovers: u64,
    pub tokens: u64,
    pub failures: u64,
    pub last_resorts: u64,
    pub store_failures: u64,
    pub seal_failures: u64,
    pub evictions: u64,
    pub metadata_requests: u64,
    pub metadata_failures: u64,
    pub coordinator_hits: u64,
    pub coordinator_failures: u64,
    pub renewals: u64,
    pub throttles: u64,
    pub remembered_failures: u64,
    /// Flights under way now.
    pub flights: u64,
    /// Entries in memory now.
    pub memory_entries: u64,
    /// Bytes that they take, about.
    pub memory_bytes: u64,
}

/// As the contract's fields.
impl Serialize for Stats {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let members = [
            ("memoryHits", self.memory_hits),
            ("storeHits", self.store_hits),
            ("joins", self.joins),
            ("tokenRequests", self.token_requests),
            ("retries", self.retries),
            ("takeovers", self.takeovers),
            ("tokens", self.tokens),
            ("failures", self.failures),
            ("lastResorts", self.last_resorts),
            ("storeFailures", self.store_failures),
            ("sealFailures", self.seal_failures),
            ("evictions", self.evictions),
            ("metadataRequests", self.metadata_requests),
            ("metadataFailures", self.metadata_failures),
            ("coordinatorHits", self.coordinator_hits),
            ("coordinatorFailures", self.coordinator_failures),
            ("renewals", self.renewals),
            ("throttles", self.throttles),
            ("rememberedFailures", self.remembered_failures),
            ("flights", self.flights),
            ("memoryEntries", self.memory_entries),
            ("memoryBytes", self.memory_bytes),
        ];
        record::serialize(serializer, members.map(|(name, count)| (name, Some(Value::Number(count)))))
    }
}

/// The kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventKind {
    /// A token came from memory.
    MemoryHit,
    /// A token came from the store.
    StoreHit,
    /// A caller joined the exchange that another had begun.
    Join,
    /// A token request leaves.
    TokenRequest,
    /// Another attempt will be made, after `wait_ms`.
    Retry,
    /// An exchange whose request had ended was begun anew by one who waited for it.
    Takeover,
    /// The token endpoint gave a token.
    Token,
    /// An exchange ended without a token.
    Failure,
    /// A renewal failed, and a token in its last minutes was served.
    LastResort,
    /// The store threw, did not answer in time, or refused a write.
    StoreFailure,
    /// What was in the store did not open.
    SealFailure,
    /// A token was evicted.
    Eviction,
    /// A request for an issuer's metadata leaves.
    MetadataRequest,
    /// An issuer's metadata could not be had. What was read before may have done.
    MetadataFailure,
    /// A token came from the coordinator.
    CoordinatorHit,
    /// The coordinator is not there, refused, threw, did not answer in time, or what it answered did not open; the
    /// exchange went on without it.
    CoordinatorFailure,
    /// A renewal in the background begins.
    Renewal,
    /// A token request did not leave, because the identity provider throttles.
    Throttle,
    /// A call failed as the same one did a moment ago, without a token request.
    RememberedFailure,
}

impl EventKind {
    /// The name in the contract.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MemoryHit => "memory_hit",
            Self::StoreHit => "store_hit",
            Self::Join => "join",
            Self::TokenRequest => "token_request",
            Self::Retry => "retry",
            Self::Takeover => "takeover",
            Self::Token => "token",
            Self::Failure => "failure",
            Self::LastResort => "last_resort",
            Self::StoreFailure => "store_failure",
            Self::SealFailure => "seal_failure",
            Self::Eviction => "eviction",
            Self::MetadataRequest => "metadata_request",
            Self::MetadataFailure => "metadata_failure",
            Self::CoordinatorHit => "coordinator_hit",
            Self::CoordinatorFailure => "coordinator_failure",
            Self::Renewal => "renewal",
            Self::Throttle => "throttle",
            Self::RememberedFailure => "remembered_failure",
        }
    }
}

/// Something that happened. Holds nothing secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExchangeEvent {
    /// What.
    pub kind: EventKind,
    /// Which token request of the exchange, from 1.
    pub attempt: Option<u64>,
    /// How long until the next, in milliseconds.
    pub wait_ms: Option<u64>,
    /// Why.
    pub reason: Option<FailureReason>,
    /// The HTTP status of the token endpoint.
    pub status: Option<u16>,
    /// The identity provider's own name for the request that failed.
    pub correlation_id: Option<String>,
}

/// As the contract's fields.
impl Serialize for ExchangeEvent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let members = [
            ("type", Some(Value::Text(self.kind.as_str()))),
            ("attempt", self.attempt.map(Value::Number)),
            ("waitMs", self.wait_ms.map(Value::Number)),
            ("reason", self.reason.map(|reason| Value::Text(reason.as_str()))),
            ("status", self.status.map(|status| Value::Number(status.into()))),
            ("correlationId", Value::text(self.correlation_id.as_ref())),
        ];
        record::serialize(serializer, members)
    }
}

impl ExchangeEvent {
    /// An event of this kind without particulars.
    pub(crate) fn of(kind: EventKind) -> Self {
        Self { kind, attempt: None, wait_ms: None, reason: None, status: None, correlation_id: None }
    }

    /// An event about a failure.
    pub(crate) fn of_failure(kind: EventKind, failure: &Failure) -> Self {
        Self {
            reason: Some(failure.reason),
            status: failure.status,
            correlation_id: failure.correlation_id.clone(),
            ..Self::of(kind)
        }
    }
}

/// The counters, and the events not collected yet.
#[derive(Default)]
pub struct Journal {
    stats: Stats,
    events: VecDeque<ExchangeEvent>,
    listening: bool,
}

impl Journal {
    /// Keeps events from now on, for somebody collects them.
    pub fn listen(&mut self) {
        self.listening = true;
    }

    /// Counts an event, and keeps it where somebody listens.
    pub(crate) fn record(&mut self, event: ExchangeEvent) {
        let stats = &mut self.stats;
        let counter = match event.kind {
            EventKind::MemoryHit => &mut stats.memory_hits,
            EventKind::StoreHit => &mut stats.store_hits,
            EventKind::Join => &mut stats.joins,
            EventKind::TokenRequest => &mut stats.token_requests,
            EventKind::Retry => &mut stats.retries,
            EventKind::Takeover => &mut stats.takeovers,
            EventKind::Token => &mut stats.tokens,
            EventKind::Failure => &mut stats.failures,
            EventKind::LastResort => &mut stats.last_resorts,
            EventKind::StoreFailure => &mut stats.store_failures,
            EventKind::SealFailure => &mut stats.seal_failures,
            EventKind::Eviction => &mut stats.evictions,
            EventKind::MetadataRequest => &mut stats.metadata_requests,
            EventKind::MetadataFailure => &mut stats.metadata_failures,
            EventKind::CoordinatorHit => &mut stats.coordinator_hits,
            EventKind::CoordinatorFailure => &mut stats.coordinator_failures,
            EventKind::Renewal => &mut stats.renewals,
            EventKind::Throttle => &mut stats.throttles,
            EventKind::RememberedFailure => &mut stats.remembered_failures,
        };
        *counter = counter.saturating_add(1);
        if self.listening {
            if self.events.len() >= MAX_WAITING_EVENTS {
                self.events.pop_front();
            }
            self.events.push_back(event);
        }
    }

    /// Counts an event without particulars.
    pub(crate) fn count(&mut self, kind: EventKind) {
        self.record(ExchangeEvent::of(kind));
    }

    /// The oldest event not collected yet.
    pub fn next_event(&mut self) -> Option<ExchangeEvent> {
        self.events.pop_front()
    }

    /// The counters of events.
    pub(crate) fn stats(&self) -> Stats {
        self.stats
    }
}
