//! Parses a prompt: a script for bash, or one of the special prompts.

use crate::error::{Error, Result};

/// A parsed prompt.
pub(crate) enum Prompt<'a> {
    /// Run this with bash.
    Script(&'a str),
    /// Fail with this message.
    Fail(&'a str),
    /// Call a tool that never returns.
    StuckTool,
    /// Never exit after the result.
    HangAfterResult,
    /// Leave a process that holds stdout.
    OrphanPipe,
    /// Print these lines only.
    Echo(&'a str),
    /// Ignore SIGTERM, and never exit after the result.
    Deaf,
    /// Print this number of assistant events.
    Flood(u64),
}

impl<'a> Prompt<'a> {
    pub(crate) fn parse(text: &'a str) -> Result<Prompt<'a>> {
        if let Some(message) = text.strip_prefix("@fail:") {
            return Ok(Prompt::Fail(message));
        }
        if let Some(lines) = text.strip_prefix("@echo:") {
            return Ok(Prompt::Echo(lines));
        }
        if let Some(count) = text.strip_prefix("@flood:") {
            let parsed = count.trim().parse();
            return parsed.map(Prompt::Flood).map_err(|_| Error::Flood { value: count.to_owned() });
        }
        Ok(match text.trim_end() {
            "@stuck-tool" => Prompt::StuckTool,
            "@hang-after-result" => Prompt::HangAfterResult,
            "@orphan-pipe" => Prompt::OrphanPipe,
            "@deaf" => Prompt::Deaf,
            _ => Prompt::Script(text),
        })
    }
}
