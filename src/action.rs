//! The border to the host: what it is asked to do, and what it reports.

use core::fmt;

use crate::client::UnsignedJwt;
use crate::digest::Digest;
use crate::failure::TransportFailure;
use crate::request::Request;
use crate::secret::Secret;
use crate::time::Timestamp;

/// The longest body that is read from a token endpoint, in bytes.
pub const MAX_RESPONSE_BYTES: usize = 1024 * 1024;

/// What the host reports.
#[derive(Debug)]
pub enum Event {
    /// The exchange begins, with 32 fresh random bytes.
    Begun([u8; 32]),
    /// The store answered; `None` where it has no such entry.
    StoreRead(Option<String>),
    /// The store threw, or did not answer in time.
    StoreFailed,
    /// The coordinator answered.
    Coordinated(Secret),
    /// The coordinator is not there, refused, threw, or did not answer in time.
    CoordinatorFailed,
    /// The server answered.
    Responded(Response),
    /// The server did not answer.
    TransportFailed(TransportFailure),
    /// The client assertion is made, a JWT in compact serialisation; empty where what came is no text.
    ClientAssertion(Secret),
    /// There is no client assertion: the key cannot sign, or the callback threw or gave nothing in time.
    ClientAssertionFailed,
    /// The sleep is over.
    Slept,
}

/// What the host is asked to do.
#[derive(Debug)]
pub enum Action {
    /// Read the entry of this name from the store.
    ReadStore {
        /// The name.
        name: String,
        /// Milliseconds after which it counts as failed.
        timeout_ms: u64,
    },
    /// Ask the coordinator's object of this name for the token of this request.
    Coordinate {
        /// The object's name.
        name: String,
        /// What is asked for. Of a subject it is told only that there is one: it verifies for itself who.
        request: Box<Request>,
        /// Milliseconds after which it counts as failed.
        timeout_ms: u64,
    },
    /// GET an issuer's metadata. Redirects are not followed.
    Get {
        /// Where from.
        url: String,
        /// Milliseconds until the whole response must be there.
        timeout_ms: u64,
        /// The longest body to read, in bytes.
        max_response_bytes: usize,
    },
    /// Sign a JWT with the client's key at this server: a client assertion.
    Sign {
        /// Which of the configured servers.
        server: usize,
        /// What is signed.
        jwt: UnsignedJwt,
        /// Milliseconds after which it counts as failed.
        timeout_ms: u64,
    },
    /// Ask the operator's callback for a client assertion at this server.
    ObtainClientAssertion {
        /// Which of the configured servers.
        server: usize,
        /// Milliseconds after which it counts as failed.
        timeout_ms: u64,
    },
    /// POST a token request. Redirects are not followed.
    Post(TokenRequest),
    /// Wait.
    Sleep {
        /// Milliseconds.
        wait_ms: u64,
    },
}

impl Action {
    /// Within how many milliseconds the host reports.
    pub fn timeout_ms(&self) -> u64 {
        match self {
            Self::ReadStore { timeout_ms, .. }
            | Self::Coordinate { timeout_ms, .. }
            | Self::Get { timeout_ms, .. }
            | Self::Sign { timeout_ms, .. }
            | Self::ObtainClientAssertion { timeout_ms, .. } => *timeout_ms,
            Self::Post(request) => request.timeout_ms,
            Self::Sleep { wait_ms } => *wait_ms,
        }
    }
}

/// A token request: a POST of a form (RFC 6749 section 3.2).
#[derive(Debug)]
pub struct TokenRequest {
    /// Where to.
    pub url: String,
    /// The value of the `Authorization` header, if there is one.
    pub authorization: Option<Secret>,
    /// The body, `application/x-www-form-urlencoded`.
    pub body: Secret,
    /// Milliseconds until the whole response must be there.
    pub timeout_ms: u64,
    /// The longest body to read, in bytes.
    pub max_response_bytes: usize,
}

/// A server's response. Its `Debug` is without the body, which may be a token.
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// The `Retry-After` header.
    pub retry_after: Option<String>,
    /// The body.
    pub body: Vec<u8>,
}

impl fmt::Debug for Response {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Response").field("status", &self.status).finish_non_exhaustive()
    }
}

/// A write into the store. The entry's own end is sealed within; the store's is only there to forget it.
#[derive(Debug)]
pub struct StoreWrite {
    /// The name.
    pub name: String,
    /// The sealed entry.
    pub value: String,
    /// Seconds after which the store may forget it, at least 60.
    pub expires_in_seconds: u64,
    /// Milliseconds after which the write counts as failed.
    pub timeout_ms: u64,
    /// The key of the exchange.
    pub(crate) digest: Digest,
    /// When the token was made.
    pub(crate) minted_at: Timestamp,
}
