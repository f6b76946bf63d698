//! Points in time, passed in by the host: the core never reads a clock.

/// Milliseconds since the Unix epoch, by the host's clock.
///
/// All arithmetic saturates: a clock that jumps never makes it panic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The point `milliseconds` after the Unix epoch.
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(milliseconds)
    }

    /// The point `seconds` after the Unix epoch, as JWT's NumericDate has it (RFC 7519 section 2).
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// This point, `milliseconds` later.
    #[must_use]
    pub const fn plus(self, milliseconds: u64) -> Self {
        Self(self.0.saturating_add(milliseconds))
    }

    /// This point, `milliseconds` earlier.
    #[must_use]
    pub const fn minus(self, milliseconds: u64) -> Self {
        Self(self.0.saturating_sub(milliseconds))
    }

    /// Milliseconds from `now` until this point; 0 where it has passed.
    pub const fn after(self, now: Self) -> u64 {
        self.0.saturating_sub(now.0)
    }
}
