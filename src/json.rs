//! Reading JSON that others wrote, and writing a little. A whole serializer costs kilobytes of wasm.

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

/// A JSON string (RFC 8259 section 7).
pub(crate) fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len().saturating_add(2));
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\u{0}'..='\u{1f}' => quoted.push_str(&format!("\\u{:04x}", u32::from(character))),
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_quoted_reads_back_as_it_was(text in "\\PC{0,5}[\"\\\\\u{0}-\u{1f}]{0,3}\\PC{0,5}") {
            prop_assert_eq!(serde_json::from_str::<String>(&super::quote(&text)).unwrap(), text);
        }
    }
}
