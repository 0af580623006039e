//! `outcome.json` in the run's folder: how the run ended. The runner reports it to the platform.

use contract::AgentOutcome;
use contract::guest::OUTCOME;
use guest_common::{Draft, RunFolder};
use mask::Masker;

use crate::Result;

const MAX_ERROR_LENGTH: usize = 4096;

/// An upper bound of the file's size: JSON escapes a character of the error with up to six bytes.
const ROOM: u64 = 32 << 10;

/// Creates the file and reserves its disk space, since the CLI may fill the disk.
pub(crate) fn draft(folder: &RunFolder) -> Result<Draft<'_>> {
    Ok(folder.draft(OUTCOME, ROOM)?)
}

/// Masks the texts and limits the error's length.
pub(crate) fn masked(mut outcome: AgentOutcome, masker: &Masker) -> AgentOutcome {
    let mask = |text: String| {
        let mut text = masker.mask(&text).into_owned();
        shorten(&mut text, MAX_ERROR_LENGTH);
        text
    };
    outcome.error = outcome.error.map(mask);
    outcome.session_id = outcome.session_id.map(|text| masker.mask(&text).into_owned());
    outcome
}

/// Writes the file atomically.
pub(crate) fn write(outcome: &AgentOutcome, draft: Draft<'_>) -> Result<()> {
    let json = serde_json::to_vec(outcome).unwrap_or_default();
    Ok(draft.finish(&json)?)
}

/// Truncates a text to at most `max` bytes, at a character boundary.
pub(crate) fn shorten(text: &mut String, max: usize) {
    let end = (0..=max.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    text.truncate(end.unwrap_or(0));
}
