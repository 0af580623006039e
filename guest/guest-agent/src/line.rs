//! Splits a byte stream into lines.

/// Splits chunks of any size into lines. Discards a line that is too long, so that memory is bounded.
pub(crate) struct Lines {
    max_length: usize,
    line: Vec<u8>,
    /// The current line is too long; its rest is skipped.
    skips: bool,
}

/// A line without its line feed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line<'a> {
    Whole(&'a [u8]),
    TooLong,
}

impl Lines {
    pub(crate) fn new(max_length: usize) -> Self {
        Self { max_length, line: Vec::new(), skips: false }
    }

    /// Takes a chunk and passes each line that it completes to `take`.
    pub(crate) fn push(&mut self, piece: &[u8], mut take: impl FnMut(Line<'_>)) {
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            let (part, ends) = match part.strip_suffix(b"\n") {
                Some(part) => (part, true),
                None => (part, false),
            };
            if ends && self.line.is_empty() && !self.skips && part.len() <= self.max_length {
                take(Line::Whole(part));
                continue;
            }
            self.add(part);
            if ends {
                self.finish(&mut take);
            }
        }
    }

    /// Passes the rest as a last line.
    pub(crate) fn finish(&mut self, mut take: impl FnMut(Line<'_>)) {
        if self.skips {
            take(Line::TooLong);
        } else if !self.line.is_empty() {
            take(Line::Whole(&self.line));
        }
        self.skips = false;
        self.line.clear();
        // Free the memory of an unusually long line.
        self.line.shrink_to(64 << 10);
    }

    fn add(&mut self, part: &[u8]) {
        if self.skips || self.line.len() + part.len() > self.max_length {
            self.skips = true;
            self.line = Vec::new();
        } else {
            self.line.extend_from_slice(part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&str]) -> Vec<String> {
        let (mut lines, mut found) = (Lines::new(8), Vec::new());
        let mut take = |line: Line<'_>| {
            found.push(match line {
                Line::Whole(line) => String::from_utf8(line.to_vec()).unwrap(),
                Line::TooLong => "(too long)".to_owned(),
            });
        };
        pieces.iter().for_each(|piece| lines.push(piece.as_bytes(), &mut take));
        lines.finish(&mut take);
        found
    }

    #[test]
    fn lines_are_split_wherever_the_chunks_end() {
        assert_eq!(lines(&["a\nb", "c\n", "d"]), ["a", "bc", "d"]);
        assert_eq!(lines(&["", "a", "", "\n"]), ["a"]);
    }

    #[test]
    fn a_line_that_is_too_long_is_discarded_and_the_next_one_is_not() {
        assert_eq!(lines(&["12345678\n123456789\nok\n"]), ["12345678", "(too long)", "ok"]);
        assert_eq!(lines(&["12345", "678", "9", "0\nok"]), ["(too long)", "ok"]);
        assert_eq!(lines(&["1234567890"]), ["(too long)"]);
    }
}
