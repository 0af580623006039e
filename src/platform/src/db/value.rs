//! Values of statements: parameters and columns, the same for both stores.

use std::borrow::Cow;

use serde_json::Value as Json;
use uuid::Uuid;

use crate::RunId;

/// A parameter of a statement, or a column of a row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value<'a> {
    Null,
    /// Also a flag: 0 or 1.
    Integer(i64),
    Real(f64),
    Text(Cow<'a, str>),
    Blob(Cow<'a, [u8]>),
}

/// A type that can be a parameter.
pub(crate) trait ToValue {
    fn to_value(&self) -> Value<'_>;
}

/// A type that a column can have.
pub(crate) trait FromValue: Sized {
    /// `None` if the value has another type or is out of range.
    fn from_value(value: Value<'_>) -> Option<Self>;
}

impl<T: ToValue + ?Sized> ToValue for &T {
    fn to_value(&self) -> Value<'_> {
        (**self).to_value()
    }
}

impl<T: ToValue> ToValue for Option<T> {
    fn to_value(&self) -> Value<'_> {
        self.as_ref().map_or(Value::Null, ToValue::to_value)
    }
}

impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: Value<'_>) -> Option<Self> {
        match value {
            Value::Null => Some(None),
            value => T::from_value(value).map(Some),
        }
    }
}

impl ToValue for i64 {
    fn to_value(&self) -> Value<'_> {
        Value::Integer(*self)
    }
}

impl FromValue for i64 {
    fn from_value(value: Value<'_>) -> Option<Self> {
        match value {
            Value::Integer(number) => Some(number),
            _ => None,
        }
    }
}

impl ToValue for u8 {
    fn to_value(&self) -> Value<'_> {
        Value::Integer((*self).into())
    }
}

impl ToValue for u32 {
    fn to_value(&self) -> Value<'_> {
        Value::Integer((*self).into())
    }
}

impl FromValue for u32 {
    fn from_value(value: Value<'_>) -> Option<Self> {
        i64::from_value(value)?.try_into().ok()
    }
}

/// Sizes beyond the range of a column are as large as it can have; limits reject them.
impl ToValue for u64 {
    fn to_value(&self) -> Value<'_> {
        Value::Integer(i64::try_from(*self).unwrap_or(i64::MAX))
    }
}

impl FromValue for u64 {
    fn from_value(value: Value<'_>) -> Option<Self> {
        i64::from_value(value)?.try_into().ok()
    }
}

impl ToValue for usize {
    fn to_value(&self) -> Value<'_> {
        Value::Integer(i64::try_from(*self).unwrap_or(i64::MAX))
    }
}

impl ToValue for bool {
    fn to_value(&self) -> Value<'_> {
        Value::Integer((*self).into())
    }
}

impl FromValue for bool {
    fn from_value(value: Value<'_>) -> Option<Self> {
        Some(i64::from_value(value)? != 0)
    }
}

impl ToValue for str {
    fn to_value(&self) -> Value<'_> {
        Value::Text(self.into())
    }
}

impl ToValue for String {
    fn to_value(&self) -> Value<'_> {
        self.as_str().to_value()
    }
}

impl FromValue for String {
    fn from_value(value: Value<'_>) -> Option<Self> {
        match value {
            Value::Text(text) => Some(text.into_owned()),
            _ => None,
        }
    }
}

impl ToValue for [u8; 32] {
    fn to_value(&self) -> Value<'_> {
        Value::Blob(self.as_slice().into())
    }
}

impl FromValue for [u8; 32] {
    fn from_value(value: Value<'_>) -> Option<Self> {
        match value {
            Value::Blob(bytes) => bytes.as_ref().try_into().ok(),
            _ => None,
        }
    }
}

impl ToValue for Vec<u8> {
    fn to_value(&self) -> Value<'_> {
        Value::Blob(self.as_slice().into())
    }
}

impl FromValue for Vec<u8> {
    fn from_value(value: Value<'_>) -> Option<Self> {
        match value {
            Value::Blob(bytes) => Some(bytes.into_owned()),
            _ => None,
        }
    }
}

impl ToValue for RunId {
    fn to_value(&self) -> Value<'_> {
        Value::Text(self.to_string().into())
    }
}

impl FromValue for RunId {
    fn from_value(value: Value<'_>) -> Option<Self> {
        String::from_value(value)?.parse().ok()
    }
}

impl ToValue for Uuid {
    fn to_value(&self) -> Value<'_> {
        Value::Text(self.to_string().into())
    }
}

impl FromValue for Uuid {
    fn from_value(value: Value<'_>) -> Option<Self> {
        String::from_value(value)?.parse().ok()
    }
}

/// A list as one parameter: see [`Tx::items`](super::Tx::items).
#[derive(Debug, Clone)]
pub(crate) struct List(String);

impl List {
    pub(crate) fn of<T: ToString>(items: &[T]) -> Self {
        let texts = items.iter().map(|item| Json::from(item.to_string()));
        Self(Json::from_iter(texts).to_string())
    }
}

impl ToValue for List {
    fn to_value(&self) -> Value<'_> {
        self.0.to_value()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: FromValue>(written: impl ToValue) -> Option<T> {
        T::from_value(written.to_value())
    }

    #[test]
    fn what_is_written_is_read() {
        let run = RunId::random();

        assert_eq!(read::<RunId>(run), Some(run));
        assert_eq!(read::<[u8; 32]>([7; 32]), Some([7; 32]));
        assert_eq!(read::<bool>(true), Some(true));
        assert_eq!(read::<Option<String>>(None::<&str>), Some(None));
        assert_eq!(read::<Option<String>>(Some("x")), Some(Some("x".to_owned())));
    }

    #[test]
    fn a_value_of_another_type_or_out_of_range_is_not_read() {
        assert_eq!(read::<String>(1u32), None);
        assert_eq!(read::<u32>(-1i64), None);
        assert_eq!(read::<i64>(None::<i64>), None);
        assert_eq!(read::<RunId>("x"), None);
    }
}
