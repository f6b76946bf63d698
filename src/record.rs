//! Names and values in a row, for whoever is told of something. One serializer for all of them: what is derived for
//! each type costs kilobytes of wasm.

use serde::ser::{Serialize, SerializeMap, Serializer};

/// A value.
pub(crate) enum Value<'a> {
    /// A text.
    Text(&'a str),
    /// A whole number.
    Number(u64),
    /// Yes or no.
    Flag(bool),
    /// Whole numbers.
    Numbers(&'a [u32]),
    /// Texts.
    #[cfg_attr(not(feature = "js"), allow(dead_code, reason = "a gateway's servers are told to JavaScript only"))]
    Texts(Vec<&'a str>),
    /// Names and values in a row.
    #[cfg_attr(not(feature = "js"), allow(dead_code, reason = "a gateway's answers are told to JavaScript only"))]
    Record(Vec<(&'a str, Self)>),
}

impl<'a> Value<'a> {
    /// A text that may not be there.
    pub(crate) fn text(text: Option<&'a String>) -> Option<Self> {
        text.map(|text| Self::Text(text))
    }
}

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            Self::Number(number) => serializer.serialize_u64(*number),
            Self::Flag(flag) => serializer.serialize_bool(*flag),
            Self::Numbers(numbers) => serializer.collect_seq(*numbers),
            Self::Texts(texts) => serializer.collect_seq(texts),
            Self::Record(members) => {
                let mut map = serializer.serialize_map(None)?;
                for (name, value) in members {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
        }
    }
}

/// Serializes the members that are there.
pub(crate) fn serialize<'a, S: Serializer>(
    serializer: S,
    members: impl IntoIterator<Item = (&'static str, Option<Value<'a>>)>,
) -> Result<S::Ok, S::Error> {
    let members = members.into_iter().filter_map(|(name, value)| Some((name, value?)));
    Value::Record(members.collect()).serialize(serializer)
}
