//! How a run ended: what the runner reports to the platform, in `outcome.json` in the run's folder.

use guest_common::{Draft, RunFolder};
use mask::Masker;
use serde::Serialize;

use crate::Result;

/// The file's name in the run's folder.
const OUTCOME: &str = "outcome.json";

/// The longest error text.
const LONGEST_ERROR: usize = 4096;

/// More room than any outcome takes: each of an error's letters may become six.
const ROOM: u64 = 32 << 10;

/// How a run ended.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// What this process exits with, too.
    pub exit_code: u8,
    /// Why it failed, if it did, free of secrets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The highest number such that this event and all before it are acknowledged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_event_sequence: Option<u64>,
    /// The CLI's session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// The checkpoint that was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_id: Option<String>,
    /// The partial one, of a run that did not succeed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partial_checkpoint_id: Option<String>,
    /// How many warnings there are about what was not kept.
    #[serde(skip_serializing_if = "is_zero")]
    pub warnings: usize,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// Makes the file of an outcome to be, with room for it: the CLI may fill the disk.
pub(crate) fn draft(folder: &RunFolder) -> Result<Draft<'_>> {
    Ok(folder.draft(OUTCOME, ROOM)?)
}

impl Outcome {
    /// Makes all of it fit to leave.
    pub(crate) fn masked(mut self, masker: &Masker) -> Self {
        let mask = |text: String| {
            let mut text = masker.mask(&text).into_owned();
            shorten(&mut text, LONGEST_ERROR);
            text
        };
        self.error = self.error.map(mask);
        self.session_id = self.session_id.map(|text| masker.mask(&text).into_owned());
        self
    }

    /// Writes it, whole or not at all.
    pub(crate) fn write(&self, draft: Draft<'_>) -> Result<()> {
        let json = serde_json::to_vec(self).unwrap_or_default();
        Ok(draft.finish(&json)?)
    }
}

/// Cuts a text behind its last whole character within so many bytes.
pub(crate) fn shorten(text: &mut String, most: usize) {
    let end = (0..=most.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    text.truncate(end.unwrap_or(0));
}
