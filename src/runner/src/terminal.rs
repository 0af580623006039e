//! The terminal of this process: size, raw mode, and escaping of untrusted text.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::termios::{self, SetArg, Termios};
use sandbox::PtySize;
use terminal_size::{Height, Width, terminal_size_of};

use crate::error::{Error, Result};

/// The terminal's size, if there is a terminal.
pub(crate) fn size() -> Option<PtySize> {
    let (Width(columns), Height(rows)) = terminal_size_of(io::stdin())
        .or_else(|| terminal_size_of(io::stdout()))
        .or_else(|| terminal_size_of(io::stderr()))?;
    Some(PtySize { rows, columns })
}

/// Escapes control characters except line feeds and tabs, and characters that change the direction of
/// text. Untrusted text then cannot move the cursor, set the title or reorder a line.
pub(crate) fn harmless(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.replace("\r\n", "\n").chars() {
        match c {
            '\n' | '\t' => clean.push(c),
            c if c.is_ascii_control() => {
                // Writing to a string cannot fail.
                let _ = write!(clean, "\\x{:02x}", u32::from(c));
            }
            c if c.is_control() || reorders_text(c) => clean.extend(c.escape_unicode()),
            c => clean.push(c),
        }
    }
    clean
}

/// Whether a character changes the direction of text, or is an invisible line break.
fn reorders_text(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The terminal of standard input in raw mode, in which Ctrl-C is sent to the command. Dropping it
/// restores the previous mode.
pub(crate) struct Raw {
    terminal: OwnedFd,
    before: Termios,
}

impl Raw {
    /// `None` if standard input is no terminal.
    pub(crate) fn enter() -> Result<Option<Self>> {
        let failed = |errno: Errno| Error::Terminal { source: errno.into() };
        if !io::stdin().is_terminal() {
            return Ok(None);
        }
        let terminal = io::stdin()
            .as_fd()
            .try_clone_to_owned()
            .map_err(|source| Error::Terminal { source })?;
        let before = termios::tcgetattr(&terminal).map_err(failed)?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(&terminal, SetArg::TCSANOW, &raw).map_err(failed)?;
        Ok(Some(Self { terminal, before }))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Err(errno) = termios::tcsetattr(&self.terminal, SetArg::TCSANOW, &self.before) {
            log::error!("the terminal stays in raw mode: type `reset`; error={errno}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(harmless("\x1b]0;title\x07\x08\x7f"), "\\x1b]0;title\\x07\\x08\\x7f");
        assert_eq!(harmless("\u{9b}2J\u{202e}txt.exe"), "\\u{9b}2J\\u{202e}txt.exe");
    }

    #[test]
    fn line_feeds_and_letters_are_not_escaped() {
        assert_eq!(harmless("größe:\t1\r\n日本\n"), "größe:\t1\n日本\n");
        assert_eq!(harmless("over\rwritten"), "over\\x0dwritten");
    }
}
