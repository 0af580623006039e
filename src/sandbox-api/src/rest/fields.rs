//! The fields of a request's body. A field that the route does not read is refused, so that nothing a client asks
//! for is accepted and then ignored.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::refused::Refused;

/// The fields of a JSON object. `null` is the same as absent.
pub(super) struct Fields {
    fields: Map<String, Value>,
    /// What stands before the names of the fields in messages: `network.`.
    prefix: &'static str,
}

impl Fields {
    /// Those of a body, which may be empty.
    pub(super) fn of_body(body: &[u8]) -> Result<Self, Refused> {
        if body.trim_ascii().is_empty() {
            return Ok(Self { fields: Map::new(), prefix: "" });
        }
        let value = serde_json::from_slice(body)
            .map_err(|error| Refused::bad(format!("the body is not JSON: {error}")))?;
        Self::of(value, "", "the body")
    }

    fn of(value: Value, prefix: &'static str, what: &str) -> Result<Self, Refused> {
        match value {
            Value::Object(mut fields) => {
                fields.retain(|_, value| !value.is_null());
                Ok(Self { fields, prefix })
            }
            _ => Err(Refused::bad(format!("{what} is not a JSON object"))),
        }
    }

    /// Refuses what was not taken.
    pub(super) fn finish(self) -> Result<(), Refused> {
        match self.fields.keys().next() {
            Some(name) => {
                let name = format!("{}{name}", self.prefix);
                Err(Refused::bad(format!("`{name}` is not supported by this server")))
            }
            None => Ok(()),
        }
    }

    pub(super) fn string(&mut self, name: &str) -> Result<Option<String>, Refused> {
        match self.fields.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(name, "a string")),
        }
    }

    pub(super) fn bool(&mut self, name: &str) -> Result<Option<bool>, Refused> {
        match self.fields.remove(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(_) => Err(self.wrong(name, "true or false")),
        }
    }

    pub(super) fn integer(&mut self, name: &str) -> Result<Option<i64>, Refused> {
        match self.fields.remove(name) {
            None => Ok(None),
            Some(value) => value.as_i64().map(Some).ok_or_else(|| self.wrong(name, "a number")),
        }
    }

    /// An object whose values are strings.
    pub(super) fn strings(&mut self, name: &str) -> Result<BTreeMap<String, String>, Refused> {
        let wrong = |fields: &Self| fields.wrong(name, "an object of strings");
        match self.fields.remove(name) {
            None => Ok(BTreeMap::new()),
            Some(Value::Object(map)) => {
                let pairs = map.into_iter().map(|(name, value)| match value {
                    Value::String(value) => Ok((name, value)),
                    _ => Err(wrong(self)),
                });
                pairs.collect()
            }
            Some(_) => Err(wrong(self)),
        }
    }

    /// An array of strings.
    pub(super) fn list(&mut self, name: &str) -> Result<Vec<String>, Refused> {
        let wrong = |fields: &Self| fields.wrong(name, "an array of strings");
        match self.fields.remove(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(values)) => {
                let texts = values.into_iter().map(|value| match value {
                    Value::String(text) => Ok(text),
                    _ => Err(wrong(self)),
                });
                texts.collect()
            }
            Some(_) => Err(wrong(self)),
        }
    }

    /// An object in this one.
    pub(super) fn object(
        &mut self,
        name: &str,
        prefix: &'static str,
    ) -> Result<Option<Self>, Refused> {
        let value = self.fields.remove(name);
        value.map(|value| Self::of(value, prefix, &format!("`{name}`"))).transpose()
    }

    /// Takes a field that the server has nothing to do for.
    pub(super) fn ignore(&mut self, name: &str) {
        self.fields.remove(name);
    }

    /// Refuses a field unless it asks for nothing.
    pub(super) fn refuse(&mut self, name: &str) -> Result<(), Refused> {
        let asks_nothing = match self.fields.get(name) {
            Some(Value::Array(values)) => values.is_empty(),
            Some(Value::Object(fields)) => fields.is_empty(),
            Some(_) => false,
            None => true,
        };
        if asks_nothing {
            self.fields.remove(name);
            return Ok(());
        }
        let name = format!("{}{name}", self.prefix);
        Err(Refused::bad(format!("`{name}` is not supported by this server")))
    }

    fn wrong(&self, name: &str, expected: &str) -> Refused {
        Refused::bad(format!("`{}{name}` is not {expected}", self.prefix))
    }
}
