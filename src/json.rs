//! Reading JSON that others wrote.

use serde::Deserialize;

/// The members of a JSON object (RFC 8259 section 4). An array is none, though serde reads one as a struct.
pub(crate) fn object<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Option<T> {
    if text.trim_ascii_start().first() != Some(&b'{') {
        return None;
    }
    serde_json::from_slice(text).ok()
}
