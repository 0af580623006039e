//! The answers to a request that its caller has not taken yet.
//!
//! INVARIANT: each stream's bytes are within its window, and there are at most [`CHUNKS`] pieces
//! of output, or as many entries as the window pays for: so a message of one byte costs no more
//! memory than a large one's share.

use std::collections::VecDeque;

use vsock_proto::{CHUNK, Entry, Exit, ReceiveWindow, Stream};

/// Beyond so many pieces, bytes go to the newest piece of their stream, though something of the
/// other stream came between.
const CHUNKS: usize = 256;

#[derive(Debug)]
pub(crate) enum Item {
    Output(Stream, Vec<u8>),
    Entry(Entry),
    /// The command's own end.
    Ended(Exit),
}

#[derive(Debug, Default)]
pub(crate) struct Queue {
    items: VecDeque<Item>,
    stdout: ReceiveWindow,
    stderr: ReceiveWindow,
}

/// Credit for the guest to send this many bytes more.
pub(crate) type Grant = (Stream, u64);

impl Queue {
    /// Takes in bytes that must be covered by credit.
    pub(crate) fn push_output(&mut self, stream: Stream, bytes: &[u8]) -> vsock_proto::Result<()> {
        self.window(stream).received(bytes.len() as u64)?;
        if bytes.is_empty() {
            return Ok(());
        }
        match self.mergeable(stream, bytes.len()) {
            Some(chunk) => chunk.extend_from_slice(bytes),
            None => self.items.push_back(Item::Output(stream, bytes.to_vec())),
        }
        Ok(())
    }

    /// Takes in an entry, which must be covered by credit, too.
    pub(crate) fn push_entry(&mut self, entry: Entry) -> vsock_proto::Result<()> {
        self.stdout.received(entry.cost())?;
        self.items.push_back(Item::Entry(entry));
        Ok(())
    }

    /// Takes in the command's own end, which comes once.
    pub(crate) fn push_end(&mut self, exit: Exit) {
        self.items.push_back(Item::Ended(exit));
    }

    /// The oldest item, and the credit to grant for it and those before.
    pub(crate) fn pop(&mut self) -> Option<(Item, Option<Grant>)> {
        let item = self.items.pop_front()?;
        let (stream, cost) = match &item {
            Item::Output(stream, bytes) => (*stream, bytes.len() as u64),
            Item::Entry(entry) => (Stream::Stdout, entry.cost()),
            Item::Ended(_) => return Some((item, None)),
        };
        if self.items.is_empty() {
            self.items = VecDeque::new();
        }
        let grant = self.window(stream).consumed(cost);
        Some((item, grant.map(|count| (stream, count))))
    }

    /// A piece that `count` bytes of `stream` may be appended to.
    fn mergeable(&mut self, stream: Stream, count: usize) -> Option<&mut Vec<u8>> {
        let is_full = self.items.len() >= CHUNKS;
        for item in self.items.iter_mut().rev() {
            match item {
                Item::Output(other, bytes) if *other == stream => {
                    return (is_full || bytes.len() + count <= CHUNK).then_some(bytes);
                }
                Item::Output(..) if is_full => {}
                // Never past the entry of the next file, nor past the end of the command.
                Item::Output(..) | Item::Entry(_) | Item::Ended(_) => return None,
            }
        }
        None
    }

    fn window(&mut self, stream: Stream) -> &mut ReceiveWindow {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_bytes::ByteBuf;
    use vsock_proto::{EntryKind, Error, WINDOW};

    use super::*;

    fn entry(path: &str) -> Entry {
        let path = ByteBuf::from(path);
        let kind = EntryKind::File { size: 1 };
        Entry { path, kind, mode: 0o644, owner: None, modified: None }
    }

    fn drain(queue: &mut Queue) -> Vec<(Stream, usize)> {
        let items = std::iter::from_fn(|| queue.pop());
        items
            .filter_map(|(item, _)| match item {
                Item::Output(stream, bytes) => Some((stream, bytes.len())),
                Item::Entry(_) | Item::Ended(_) => None,
            })
            .collect()
    }

    #[test]
    fn single_bytes_of_one_stream_become_one_piece() {
        let mut queue = Queue::default();
        (0..CHUNK).try_for_each(|_| queue.push_output(Stream::Stdout, b"x")).unwrap();
        assert_eq!(drain(&mut queue), [(Stream::Stdout, CHUNK)]);
    }

    #[test]
    fn alternating_bytes_become_a_bounded_number_of_pieces() {
        let mut queue = Queue::default();
        for _ in 0..WINDOW {
            queue.push_output(Stream::Stdout, b"o").unwrap();
            queue.push_output(Stream::Stderr, b"e").unwrap();
        }
        assert_eq!(queue.items.len(), CHUNKS);
        let total: usize = drain(&mut queue).iter().map(|(_, count)| count).sum();
        assert_eq!(total as u64, 2 * WINDOW);
    }

    #[test]
    fn order_is_kept_while_there_is_room() {
        let mut queue = Queue::default();
        queue.push_output(Stream::Stdout, b"one").unwrap();
        queue.push_output(Stream::Stderr, b"two").unwrap();
        queue.push_output(Stream::Stdout, b"three").unwrap();
        let expected = [(Stream::Stdout, 3), (Stream::Stderr, 3), (Stream::Stdout, 5)];
        assert_eq!(drain(&mut queue), expected);
    }

    #[test]
    fn bytes_of_one_file_never_join_those_of_another() {
        let mut queue = Queue::default();
        for _ in 0..CHUNKS {
            queue.push_entry(entry("a")).unwrap();
            queue.push_output(Stream::Stdout, b"x").unwrap();
        }
        assert_eq!(drain(&mut queue).len(), CHUNKS);
    }

    #[test]
    fn entries_without_credit_are_an_overrun() {
        let mut queue = Queue::default();
        let path = "x".repeat(WINDOW as usize);
        assert!(matches!(queue.push_entry(entry(&path)), Err(Error::Overrun { .. })));
    }

    #[test]
    fn what_is_taken_comes_back_as_credit() {
        let mut queue = Queue::default();
        queue.push_output(Stream::Stderr, &[0; CHUNK]).unwrap();
        let (_, grant) = queue.pop().unwrap();
        assert_eq!(grant, Some((Stream::Stderr, CHUNK as u64)));
    }
}
