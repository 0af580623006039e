//! `outcome.json` in the run's folder: how the run ended. The runner reports it to the platform.

use guest_common::{Draft, RunFolder};
use mask::Masker;
use serde::Serialize;

use crate::Result;

/// The file's name in the run's folder.
const OUTCOME: &str = "outcome.json";

const MAX_ERROR_LENGTH: usize = 4096;

/// An upper bound of the file's size: JSON escapes a character of the error with up to six bytes.
const ROOM: u64 = 32 << 10;

/// How a run ended.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// The CLI's exit code or that of a failure; this process exits with it.
    pub exit_code: u8,
    /// Why the run failed, masked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The last acknowledged event before which none is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_event_sequence: Option<u64>,
    /// The CLI's session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// The checkpoint of a run that succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_id: Option<String>,
    /// The partial checkpoint of a run that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partial_checkpoint_id: Option<String>,
    /// The number of warnings about data that was not saved.
    #[serde(skip_serializing_if = "is_zero")]
    pub warnings: usize,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// Creates the file and reserves its disk space, since the CLI may fill the disk.
pub(crate) fn draft(folder: &RunFolder) -> Result<Draft<'_>> {
    Ok(folder.draft(OUTCOME, ROOM)?)
}

impl Outcome {
    /// Masks the texts and limits the error's length.
    pub(crate) fn masked(mut self, masker: &Masker) -> Self {
        let mask = |text: String| {
            let mut text = masker.mask(&text).into_owned();
            shorten(&mut text, MAX_ERROR_LENGTH);
            text
        };
        self.error = self.error.map(mask);
        self.session_id = self.session_id.map(|text| masker.mask(&text).into_owned());
        self
    }

    /// Writes the file atomically.
    pub(crate) fn write(&self, draft: Draft<'_>) -> Result<()> {
        let json = serde_json::to_vec(self).unwrap_or_default();
        Ok(draft.finish(&json)?)
    }
}

/// Truncates a text to at most `max` bytes, at a character boundary.
pub(crate) fn shorten(text: &mut String, max: usize) {
    let end = (0..=max.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    text.truncate(end.unwrap_or(0));
}
