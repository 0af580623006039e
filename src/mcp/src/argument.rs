//! The arguments of a tool, each checked. One that the tool does not know is an error, so that nothing a
//! model asks for is silently left out.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::failure::Failure;
use crate::message::shorten;

/// The longest path, name of a user, or id.
const LONGEST_NAME: usize = 4096;

/// What a tool was called with. `null` is the same as absent.
pub(crate) struct Arguments(Map<String, Value>);

type Result<T> = std::result::Result<T, Failure>;

impl Arguments {
    pub(crate) fn new(mut arguments: Map<String, Value>) -> Self {
        arguments.retain(|_, value| !value.is_null());
        Self(arguments)
    }

    /// Refuses what was not taken.
    pub(crate) fn finish(self) -> Result<()> {
        match self.0.keys().next() {
            Some(name) => {
                Err(Failure::new(format!("the tool has no argument `{}`", shorten(name))))
            }
            None => Ok(()),
        }
    }

    /// A text of any length.
    pub(crate) fn text(&mut self, name: &str) -> Result<Option<String>> {
        match self.0.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(wrong(name, "a string")),
        }
    }

    /// A path, a name, an id: not empty, without zero bytes.
    pub(crate) fn name(&mut self, name: &str) -> Result<Option<String>> {
        let text = self.text(name)?;
        let is_name =
            |text: &String| !text.is_empty() && text.len() <= LONGEST_NAME && !text.contains('\0');
        if text.as_ref().is_some_and(|text| !is_name(text)) {
            return Err(wrong(name, "a string of 1 to 4096 bytes without zero bytes"));
        }
        Ok(text)
    }

    pub(crate) fn flag(&mut self, name: &str) -> Result<bool> {
        match self.0.remove(name) {
            None => Ok(false),
            Some(Value::Bool(value)) => Ok(value),
            Some(_) => Err(wrong(name, "true or false")),
        }
    }

    pub(crate) fn number(&mut self, name: &str, range: RangeInclusive<u64>) -> Result<Option<u64>> {
        let Some(value) = self.0.remove(name) else { return Ok(None) };
        let number = value.as_u64().filter(|number| range.contains(number));
        let expected = || format!("a whole number from {} to {}", range.start(), range.end());
        number.map(Some).ok_or_else(|| wrong(name, &expected()))
    }

    /// Seconds, above zero; fractions are allowed.
    pub(crate) fn seconds(&mut self, name: &str, most: Duration) -> Result<Option<Duration>> {
        let Some(value) = self.0.remove(name) else { return Ok(None) };
        let seconds = value.as_f64().filter(|seconds| *seconds > 0.0);
        let duration = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let duration = duration.filter(|duration| !duration.is_zero() && *duration <= most);
        let expected = || format!("a number of seconds above 0 and up to {}", most.as_secs());
        duration.map(Some).ok_or_else(|| wrong(name, &expected()))
    }

    /// Environment variables.
    pub(crate) fn env(&mut self, name: &str) -> Result<BTreeMap<String, String>> {
        let fields = match self.0.remove(name) {
            None => return Ok(BTreeMap::new()),
            Some(Value::Object(fields)) => fields,
            Some(_) => return Err(wrong(name, "an object of strings")),
        };
        let pair = |(variable, value): (String, Value)| match value {
            Value::String(value) if is_variable(&variable) && !value.contains('\0') => {
                Ok((variable, value))
            }
            _ => Err(wrong(
                name,
                "an object of names without `=` and of strings, without zero bytes",
            )),
        };
        fields.into_iter().map(pair).collect()
    }

    pub(crate) fn sandbox(&mut self) -> Result<Option<String>> {
        self.name("sandbox_id")
    }
}

/// An argument that the tool needs.
pub(crate) fn needed<T>(name: &str, value: Option<T>) -> Result<T> {
    value.ok_or_else(|| Failure::new(format!("the argument `{name}` is missing")))
}

fn is_variable(name: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0'])
}

fn wrong(name: &str, expected: &str) -> Failure {
    Failure::new(format!("the argument `{name}` has to be {expected}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn arguments(value: &Value) -> Arguments {
        Arguments::new(value.as_object().unwrap().clone())
    }

    fn text(failure: Failure) -> String {
        match failure {
            Failure::Error(text) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn arguments_have_their_types() {
        let mut given = arguments(&json!({
            "a": 1, "b": "yes", "c": [], "d": {"x": 1}, "e": "", "f": -1, "g": 1e300, "h": null,
        }));
        assert_eq!(text(given.text("a").unwrap_err()), "the argument `a` has to be a string");
        assert!(given.flag("b").is_err());
        assert!(given.env("c").is_err() && given.env("d").is_err());
        assert!(given.name("e").is_err());
        assert!(given.number("f", 1..=9).is_err());
        assert!(given.seconds("g", Duration::MAX).is_err());
        assert_eq!(given.text("h").unwrap(), None);
        given.finish().unwrap();
    }

    #[test]
    fn an_unknown_argument_is_refused() {
        let mut given = arguments(&json!({"path": "/a", "pathh": "/b"}));
        assert_eq!(given.name("path").unwrap().as_deref(), Some("/a"));
        assert_eq!(text(given.finish().unwrap_err()), "the tool has no argument `pathh`");
    }

    #[test]
    fn seconds_are_within_their_limit() {
        let mut given = arguments(&json!({"a": 0.5, "b": 0, "c": 61, "d": "5"}));
        let minute = Duration::from_secs(60);
        assert_eq!(given.seconds("a", minute).unwrap(), Some(Duration::from_millis(500)));
        for name in ["b", "c", "d"] {
            assert!(given.seconds(name, minute).is_err(), "{name}");
        }
    }
}
