//! Credit-based flow control of a stream.
//!
//! ```text
//!   sender                                   receiver
//!   SendWindow  ── Data (n) ──────────────▶  ReceiveWindow
//!     available -= n                           allowed -= n, error if it had not that much
//!                                              … the reader takes the bytes …
//!     available += m  ◀────── Credit (m) ──    consumed reaches a quarter: m = consumed
//! ```
//!
//! INVARIANT: sender's `available` + bytes and grants under way + receiver's
//! unread bytes = [`WINDOW`].

use crate::{Error, Result};

/// The credit that each stream of a request starts with, and never exceeds, in bytes.
pub const WINDOW: u64 = 256 << 10;

/// The sender's end of a stream's credit.
#[derive(Debug)]
pub struct SendWindow {
    available: u64,
}

impl Default for SendWindow {
    fn default() -> Self {
        Self { available: WINDOW }
    }
}

impl SendWindow {
    /// How many bytes may be sent now.
    pub fn available(&self) -> u64 {
        self.available
    }

    /// Records that `count` bytes were sent. Bytes without credit must not be sent; a message that costs more
    /// than the window takes all of it.
    pub fn sent(&mut self, count: u64) {
        self.available = self.available.saturating_sub(count);
    }

    /// Records a grant.
    pub fn granted(&mut self, count: u64) -> Result<()> {
        match self.available.checked_add(count) {
            Some(sum) if sum <= WINDOW => {
                self.available = sum;
                Ok(())
            }
            _ => Err(Error::Overgrant { granted: count, available: self.available }),
        }
    }
}

/// The receiver's end of a stream's credit.
#[derive(Debug)]
pub struct ReceiveWindow {
    allowed: u64,
    consumed: u64,
}

impl Default for ReceiveWindow {
    fn default() -> Self {
        Self { allowed: WINDOW, consumed: 0 }
    }
}

impl ReceiveWindow {
    /// Records that `count` bytes were received; an error if the sender had no credit for them.
    pub fn received(&mut self, count: u64) -> Result<()> {
        match self.allowed.checked_sub(count) {
            Some(rest) => {
                self.allowed = rest;
                Ok(())
            }
            None => Err(Error::Overrun { sent: count, allowed: self.allowed }),
        }
    }

    /// Records that the reader consumed `count` bytes; returns the credit to grant, once it is a quarter of
    /// the window.
    pub fn consumed(&mut self, count: u64) -> Option<u64> {
        self.consumed += count;
        if self.consumed < WINDOW / 4 {
            return None;
        }
        self.allowed += self.consumed;
        Some(std::mem::take(&mut self.consumed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_that_stays_within_its_credit_is_never_refused() {
        let (mut sender, mut receiver) = (SendWindow::default(), ReceiveWindow::default());
        let mut total = 0;
        while total < 10 * WINDOW {
            let count = sender.available().min(10_000);
            sender.sent(count);
            receiver.received(count).unwrap();
            if let Some(grant) = receiver.consumed(count) {
                sender.granted(grant).unwrap();
            }
            total += count;
        }
    }

    #[test]
    fn a_byte_without_credit_is_an_overrun() {
        let mut receiver = ReceiveWindow::default();
        receiver.received(WINDOW).unwrap();
        assert!(matches!(receiver.received(1), Err(Error::Overrun { sent: 1, allowed: 0 })));
    }

    #[test]
    fn a_grant_beyond_the_window_is_an_overgrant() {
        assert!(matches!(SendWindow::default().granted(1), Err(Error::Overgrant { .. })));
        assert!(matches!(SendWindow::default().granted(u64::MAX), Err(Error::Overgrant { .. })));
    }
}
