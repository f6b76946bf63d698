//! Reading an options object field by field, so that every error names the place and none quotes a value.
//!
//! What is wrong is noted as it is met, and the reading goes on; the first note is the error. A branch at each field
//! would cost kilobytes of wasm.

use serde_json::{Map, Value};

use crate::failure::Failure;
use crate::url::{ParseUrl, Url};

/// The fields of one object of the options. Each is taken once; what is left at the end is unknown.
pub struct Fields {
    path: String,
    map: Map<String, Value>,
    problem: Option<Failure>,
}

impl Fields {
    /// Reads `value`, which stands at `path` (empty for the options themselves), by `read`, which gives `None` only
    /// where it has noted what is wrong.
    ///
    /// # Errors
    /// `misconfigured` with the first field that is missing, wrong or unknown.
    pub fn read<T>(path: &str, value: Value, read: impl FnOnce(&mut Self) -> Option<T>) -> Result<T, Failure> {
        let mut fields = Self::open(path.to_owned(), value);
        let result = read(&mut fields);
        match (fields.close(), result) {
            (None, Some(result)) => Ok(result),
            (problem, _) => Err(problem.unwrap_or_else(Failure::unasked)),
        }
    }

    /// The fields of `value`; none, and a note, where it is no object.
    #[inline(never)]
    fn open(path: String, value: Value) -> Self {
        match value {
            Value::Object(map) => Self { path, map, problem: None },
            _ => {
                let place = if path.is_empty() { "options" } else { &path };
                let problem = Some(Failure::misconfigured(place, "must be an object"));
                Self { path, map: Map::new(), problem }
            }
        }
    }

    /// The first note, which may be of a field that nobody asked for.
    #[inline(never)]
    fn close(mut self) -> Option<Failure> {
        let unknown = self.map.iter().find(|(_, value)| !value.is_null()).map(|(name, _)| name.clone());
        if let Some(name) = unknown {
            self.wrong(&name, "is not a known option");
        }
        self.problem
    }

    /// The path of the field `name`, for example `clientAuthentication.method`.
    #[inline(never)]
    pub fn path(&self, name: &str) -> String {
        let dot = if self.path.is_empty() { "" } else { "." };
        [&self.path, dot, name].concat()
    }

    /// Notes what is wrong with the field `name`; `problem` ends the sentence.
    #[inline(never)]
    pub fn wrong(&mut self, name: &str, problem: &str) {
        let failure = Failure::misconfigured(&self.path(name), problem);
        self.problem.get_or_insert(failure);
    }

    /// Notes that the field `name` is required where it is absent.
    pub fn required<T>(&mut self, name: &str, value: Option<T>) -> Option<T> {
        if value.is_none() {
            self.wrong(name, "is required");
        }
        value
    }

    /// Takes a field of any type; `null` counts as absent.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.map.get_mut(name).map(Value::take).filter(|value| !value.is_null())
    }

    /// Takes a non-empty string.
    #[inline(never)]
    pub fn text(&mut self, name: &str) -> Option<String> {
        match self.take(name)? {
            Value::String(text) if !text.trim_ascii().is_empty() => return Some(text),
            _ => self.wrong(name, "must be a non-empty string"),
        }
        None
    }

    /// Takes a non-empty string that must be there; an empty one stands for what is wrong.
    #[inline(never)]
    pub fn required_text(&mut self, name: &str) -> String {
        let text = self.text(name);
        self.required(name, text).unwrap_or_default()
    }

    /// Takes a URL.
    #[inline(never)]
    pub fn url(&mut self, name: &str, parse_url: ParseUrl) -> Option<Url> {
        match Url::new(&self.text(name)?, parse_url) {
            Ok(url) => return Some(url),
            Err(problem) => self.wrong(name, problem),
        }
        None
    }

    /// Takes an object, and reads it as [`Fields::read`] does.
    pub fn object<T>(&mut self, name: &str, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        let value = self.take(name)?;
        self.nested(name, value, read)
    }

    /// Reads an object that was taken already, and belongs at `name`.
    pub fn nested<T>(&mut self, name: &str, value: Value, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        let mut fields = Self::open(self.path(name), value);
        let result = read(&mut fields);
        match fields.close() {
            None => return result,
            Some(problem) => self.problem.get_or_insert(problem),
        };
        None
    }

    /// Takes `true` or `false`.
    pub fn boolean(&mut self, name: &str) -> Option<bool> {
        match self.take(name)? {
            Value::Bool(value) => return Some(value),
            _ => self.wrong(name, "must be a boolean"),
        }
        None
    }

    /// Takes one string or a list of strings, none of them empty. Absent is an empty list.
    #[inline(never)]
    pub fn texts(&mut self, name: &str) -> Vec<String> {
        let values = match self.take(name) {
            None => return Vec::new(),
            Some(Value::Array(values)) => values,
            Some(value) => vec![value],
        };
        let mut texts = Vec::with_capacity(values.len());
        for value in values {
            match value {
                Value::String(text) if !text.trim_ascii().is_empty() => texts.push(text),
                _ => self.wrong(name, "must be a non-empty string or a list of them"),
            }
        }
        texts
    }

    /// Takes a whole number between `least` and `most`.
    #[inline(never)]
    pub fn whole_number(&mut self, name: &str, least: u64, most: u64) -> Option<u64> {
        let value = self.take(name)?;
        // JavaScript's numbers arrive as floats.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be whole and in range")]
        let number = value.as_u64().or_else(|| {
            value
                .as_f64()
                .filter(|number| number.fract() == 0.0 && (0.0..1e15).contains(number))
                .map(|number| number as u64)
        });
        let number = number.filter(|number| (least..=most).contains(number));
        if number.is_none() {
            self.wrong(name, &format!("must be a whole number from {least} to {most}"));
        }
        number
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
