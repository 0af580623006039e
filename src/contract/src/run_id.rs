//! The ID of a run.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A run's ID. It is part of file names, so it is always a UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(Uuid);

/// A text that is no run's ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidRunId;

impl RunId {
    /// A new ID: a UUID of version 4.
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// The UUID's bytes.
    pub fn bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// Its first eight digits, for names of threads and VMs.
    pub fn short(self) -> String {
        self.to_string().chars().take(8).collect()
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl FromStr for RunId {
    type Err = InvalidRunId;

    fn from_str(text: &str) -> Result<Self, InvalidRunId> {
        text.parse().map(Self).map_err(|_| InvalidRunId)
    }
}

impl fmt::Display for InvalidRunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a run id is a UUID")
    }
}

impl std::error::Error for InvalidRunId {}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "01234567-89ab-4def-8123-456789abcdef";

    #[test]
    fn a_run_id_is_a_hyphenated_uuid_on_the_wire() {
        let run: RunId = serde_json::from_str(&format!("\"{TEXT}\"")).unwrap();
        assert_eq!(serde_json::to_string(&run).unwrap(), format!("\"{TEXT}\""));
        assert_eq!((run.to_string().as_str(), run.short().as_str()), (TEXT, "01234567"));
    }

    #[test]
    fn a_run_id_is_never_a_path() {
        for text in ["", "..", "../../etc/passwd", "01234567"] {
            assert_eq!(text.parse::<RunId>(), Err(InvalidRunId), "{text}");
            assert!(serde_json::from_value::<RunId>(text.into()).is_err(), "{text}");
        }
    }
}
