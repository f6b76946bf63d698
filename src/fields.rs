//! Reading an options object field by field, so that every error names the place and none quotes a value.

use serde_json::{Map, Value};

use crate::failure::Failure;

/// The fields of one object of the options. Each is taken once; [`Fields::finish`] refuses what is left.
pub struct Fields {
    path: String,
    map: Map<String, Value>,
}

impl Fields {
    /// The fields of `value`, which stands at `path` (empty for the options themselves).
    ///
    /// # Errors
    /// `misconfigured` where it is no object.
    pub fn new(path: &str, value: Value) -> Result<Self, Failure> {
        match value {
            Value::Object(map) => Ok(Self { path: path.to_owned(), map }),
            _ if path.is_empty() => Err(Failure::misconfigured("options", "must be an object")),
            _ => Err(Failure::misconfigured(path, "must be an object")),
        }
    }

    /// The path of the field `name`, for example `clientAuthentication.method`.
    pub fn path(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// An error about the field `name`; `problem` ends the sentence.
    pub fn problem(&self, name: &str, problem: &str) -> Failure {
        Failure::misconfigured(&self.path(name), problem)
    }

    /// Takes a field of any type; `null` counts as absent.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.map.get_mut(name).map(Value::take).filter(|value| !value.is_null())
    }

    /// Takes a non-empty string.
    ///
    /// # Errors
    /// `misconfigured` where it is something else.
    pub fn text(&mut self, name: &str) -> Result<Option<String>, Failure> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) if !text.trim_ascii().is_empty() => Ok(Some(text)),
            Some(_) => Err(self.problem(name, "must be a non-empty string")),
        }
    }

    /// Takes an object.
    ///
    /// # Errors
    /// `misconfigured` where it is something else.
    pub fn object(&mut self, name: &str) -> Result<Option<Self>, Failure> {
        let path = self.path(name);
        self.take(name).map(|value| Self::new(&path, value)).transpose()
    }

    /// Takes `true` or `false`.
    ///
    /// # Errors
    /// `misconfigured` where it is something else.
    pub fn boolean(&mut self, name: &str) -> Result<Option<bool>, Failure> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(_) => Err(self.problem(name, "must be a boolean")),
        }
    }

    /// Takes a non-empty string that must be there.
    ///
    /// # Errors
    /// `misconfigured` where it is absent or something else.
    pub fn required_text(&mut self, name: &str) -> Result<String, Failure> {
        self.text(name)?.ok_or_else(|| self.problem(name, "is required"))
    }

    /// Takes one string or a list of strings, none of them empty. Absent is an empty list.
    ///
    /// # Errors
    /// `misconfigured` where it is something else.
    pub fn texts(&mut self, name: &str) -> Result<Vec<String>, Failure> {
        let values = match self.take(name) {
            None => return Ok(Vec::new()),
            Some(Value::Array(values)) => values,
            Some(value) => vec![value],
        };
        values
            .into_iter()
            .map(|value| match value {
                Value::String(text) if !text.trim_ascii().is_empty() => Ok(text),
                _ => Err(self.problem(name, "must be a non-empty string or a list of them")),
            })
            .collect()
    }

    /// Takes a whole number between `least` and `most`.
    ///
    /// # Errors
    /// `misconfigured` where it is something else.
    pub fn whole_number(&mut self, name: &str, least: u64, most: u64) -> Result<Option<u64>, Failure> {
        let Some(value) = self.take(name) else { return Ok(None) };
        // JavaScript's numbers arrive as floats.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be whole and in range")]
        let number = value.as_u64().or_else(|| {
            value
                .as_f64()
                .filter(|number| number.fract() == 0.0 && (0.0..1e15).contains(number))
                .map(|number| number as u64)
        });
        match number.filter(|number| (least..=most).contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(self.problem(name, &format!("must be a whole number from {least} to {most}"))),
        }
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// `misconfigured` with the first field that nobody asked for.
    pub fn finish(self) -> Result<(), Failure> {
        let unknown = self.map.iter().find(|(_, value)| !value.is_null());
        match unknown {
            Some((name, _)) => Err(self.problem(name, "is not a known option")),
            None => Ok(()),
        }
    }
}

/// The end of a sentence that lists what a field may be.
pub(crate) fn one_of<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let mut text = "must be ".to_owned();
    for (place, name) in names.into_iter().enumerate() {
        let before = if place == 0 { "\"" } else { " or \"" };
        text.extend([before, name, "\""]);
    }
    text
}
