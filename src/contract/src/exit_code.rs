//! Exit codes. A run's exit code is a byte, as that of a process; the wire format has a number.

use serde::{Deserialize, Deserializer};

/// A number that is no byte is a failure.
pub(crate) fn of_number<'de, D: Deserializer<'de>>(from: D) -> Result<u8, D::Error> {
    Ok(u8::try_from(i64::deserialize(from)?).unwrap_or(u8::MAX))
}

/// The exit code of a job that may have none. A number that is no byte is none.
pub fn if_any<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u8>, D::Error> {
    Ok(Option::<i64>::deserialize(from)?.and_then(|code| u8::try_from(code).ok()))
}
