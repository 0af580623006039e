//! Masks a text that comes in pieces.

use crate::Masker;
use crate::search::{Search, replace};

/// A text of which only a part is known yet.
#[derive(Debug)]
pub struct Stream<'m> {
    search: Option<&'m Search>,
    /// What came and is not released yet.
    held: Vec<u8>,
    /// How many of the held bytes belong to a match whose mask is released.
    masked: usize,
}

impl<'m> Stream<'m> {
    /// A stream that nothing came of yet.
    pub fn new(masker: &'m Masker) -> Self {
        Self { search: masker.search.as_ref(), held: Vec::new(), masked: 0 }
    }

    /// Takes a piece; appends to `out` what can be released.
    pub fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        let Some(search) = self.search else {
            out.extend_from_slice(piece);
            return;
        };
        self.held.extend_from_slice(piece);
        let found = search.find_so_far(&self.held);
        let begun = found.matches.partition_point(|(from, _)| *from < found.open);
        let matches = &found.matches[..begun];
        let end = matches.last().map_or(self.masked, |(_, to)| self.masked.max(*to));
        replace(&self.held[..found.open], self.masked, matches, out);
        self.held.drain(..found.open);
        self.masked = end.saturating_sub(found.open);
    }

    /// The end: appends what was still held.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        if let Some(search) = self.search {
            replace(&self.held, self.masked, &search.find(&self.held), out);
        }
        self.held.clear();
        self.masked = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_holds_back_at_most_one_match() {
        let masker = Masker::new(["aaaaaaaaab"]).unwrap();
        let (mut stream, mut out) = (Stream::new(&masker), Vec::new());
        for _ in 0..1000 {
            stream.push(b"aaaaaaa", &mut out);
            assert!(stream.held.len() <= 20);
        }
        for _ in 0..1000 {
            stream.push(b"\\\\\\%25%5C", &mut out);
            assert!(stream.held.len() <= 400);
        }
    }

    #[test]
    fn a_line_that_has_no_secret_is_released_at_once() {
        let masker = Masker::new(["hunter2-and-more"]).unwrap();
        let (mut stream, mut out) = (Stream::new(&masker), Vec::new());
        stream.push(b"100% done: \"a+b\"\n", &mut out);
        assert_eq!(out, b"100% done: \"a+b\"\n");
    }
}
