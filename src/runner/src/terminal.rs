//! The terminal in front of this process.

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

/// No control characters of a guest's reach the terminal.
pub(crate) fn harmless(text: &str) -> String {
    let clean = |c: char| if c.is_control() && c != '\n' && c != '\t' { ' ' } else { c };
    text.chars().map(clean).collect()
}

/// Standard input's terminal in raw mode: each key goes to the command, also Ctrl-C. Dropping it
/// restores what was, whatever the reason.
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
