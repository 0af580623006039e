//! A buffer pool that a transfer's thread and the loop share.
//!
//! Fresh memory for each chunk costs more than the chunk: the kernel hands it out page by page.

use std::sync::{Mutex, PoisonError};

/// The limit of pooled buffers; further ones are freed.
const KEPT: usize = 8;

#[derive(Debug, Default)]
pub(crate) struct Buffers(Mutex<Vec<Vec<u8>>>);

impl Buffers {
    /// A buffer of `length` bytes with arbitrary content.
    pub(crate) fn take(&self, length: usize) -> Vec<u8> {
        let mut buffer = self.kept().pop().unwrap_or_default();
        buffer.resize(length, 0);
        buffer
    }

    /// A copy of `bytes`.
    pub(crate) fn copy_of(&self, bytes: &[u8]) -> Vec<u8> {
        let mut buffer = self.kept().pop().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(bytes);
        buffer
    }

    /// Returns an unused buffer to the pool.
    pub(crate) fn give(&self, buffer: Vec<u8>) {
        let mut kept = self.kept();
        if kept.len() < KEPT {
            kept.push(buffer);
        }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
