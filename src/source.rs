//! Where a token came from, as its caller is told.

/// Where a token came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// This isolate's memory.
    Memory,
    /// The store, or what a coordinator had kept.
    Store,
    /// An exchange that another caller led.
    Flight,
    /// The token endpoint.
    Issuer,
}

impl Source {
    /// The name in the contract.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Store => "store",
            Self::Flight => "flight",
            Self::Issuer => "issuer",
        }
    }

    /// The source of this name.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        [Self::Memory, Self::Store, Self::Flight, Self::Issuer].into_iter().find(|source| source.as_str() == name)
    }
}
