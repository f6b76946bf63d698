//! Reading JSON that others wrote.

use serde_json::{Map, Value};

/// The members of a JSON object (RFC 8259 section 4). Read as values of any type: what a member must be is
/// for whoever asks for it to say, and serde's own errors, which quote values, are never made.
pub(crate) fn object(text: &[u8]) -> Option<Map<String, Value>> {
    match serde_json::from_slice(text) {
        Ok(Value::Object(map)) => Some(map),
        _ => None,
    }
}

/// The member of this name, where it is a string.
pub(crate) fn text<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    object.get(name)?.as_str()
}
