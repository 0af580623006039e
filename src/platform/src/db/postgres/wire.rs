//! Values in PostgreSQL's binary format.
//!
//! Its text has no NUL characters: they are replaced by U+FFFD, as a guest's text must not make a
//! statement fail.

use super::error::PgError;
use super::sys::{Answer, Oid};
use crate::db::failure::{BadResult, Outcome};
use crate::db::tx::{Columns, Parameters};
use crate::db::value::Value;

const BOOL: Oid = 16;
const BYTEA: Oid = 17;
const INT8: Oid = 20;
const INT2: Oid = 21;
const INT4: Oid = 23;
const FLOAT8: Oid = 701;

/// The type of each parameter, 0 for one that the server infers, and its bytes.
pub(super) fn parameters(parameters: Parameters<'_>) -> (Vec<Oid>, Vec<Option<Vec<u8>>>) {
    let wire = |value: Value<'_>| match value {
        Value::Null => (0, None),
        // Never inferred: a statement may first compare it with a constant of a smaller type.
        Value::Integer(number) => (INT8, Some(number.to_be_bytes().to_vec())),
        Value::Real(number) => (FLOAT8, Some(number.to_be_bytes().to_vec())),
        Value::Text(text) if text.contains('\0') => {
            (0, Some(text.replace('\0', "\u{fffd}").into_bytes()))
        }
        Value::Text(text) => (0, Some(text.into_owned().into_bytes())),
        Value::Blob(bytes) => (BYTEA, Some(bytes.into_owned())),
    };
    parameters.iter().map(|parameter| wire(parameter.to_value())).unzip()
}

/// A row of an answer.
pub(super) struct AnswerRow<'a> {
    pub(super) answer: &'a Answer,
    pub(super) row: usize,
}

impl Columns for AnswerRow<'_> {
    fn value(&self, column: usize) -> Outcome<Value<'_>> {
        let bad = || BadResult::Column { column };
        let (kind, bytes) = self.answer.field(self.row, column).ok_or_else(bad)?;
        let Some(bytes) = bytes else { return Ok(Value::Null) };
        value(kind, bytes).ok_or_else(|| bad().into())
    }
}

fn value(kind: Oid, bytes: &[u8]) -> Option<Value<'_>> {
    Some(match kind {
        BOOL => Value::Integer((bytes != [0]).into()),
        INT2 => Value::Integer(i16::from_be_bytes(bytes.try_into().ok()?).into()),
        INT4 => Value::Integer(i32::from_be_bytes(bytes.try_into().ok()?).into()),
        INT8 => Value::Integer(i64::from_be_bytes(bytes.try_into().ok()?)),
        FLOAT8 => Value::Real(f64::from_be_bytes(bytes.try_into().ok()?)),
        BYTEA => Value::Blob(bytes.into()),
        _ => Value::Text(std::str::from_utf8(bytes).ok()?.into()),
    })
}

/// A number in the text format, which statements without parameters are answered in.
pub(super) fn number(answer: &Answer, what: &'static str) -> Result<i64, PgError> {
    let text = answer.field(0, 0).and_then(|(_, bytes)| std::str::from_utf8(bytes?).ok());
    text.and_then(|text| text.parse().ok()).ok_or(PgError::BadReply { what })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nul_character_is_replaced_in_text_only() {
        let (types, values) = parameters(&[&"a\0b", &[0_u8; 32], &7_i64, &None::<&str>]);

        assert_eq!(types, [0, BYTEA, INT8, 0]);
        assert_eq!(values[0].as_deref(), Some("a\u{fffd}b".as_bytes()));
        assert_eq!(values[1].as_deref(), Some(&[0; 32][..]));
        assert_eq!(values[2].as_deref(), Some(&[0, 0, 0, 0, 0, 0, 0, 7][..]));
        assert_eq!(values[3], None);
    }

    #[test]
    fn a_number_of_the_wrong_length_is_not_a_value() {
        assert_eq!(value(INT8, &[1]), None);
        assert_eq!(value(INT4, &[0, 0, 1, 0]), Some(Value::Integer(256)));
        assert_eq!(value(25, &[0xff]), None);
    }
}
