//! Lines out of pieces, each in bounded memory.

/// The longest line, in bytes.
pub(super) const LONGEST: usize = 8 << 20;

/// A line without its end.
pub(super) enum Line<'a> {
    Whole(&'a [u8]),
    /// It was dropped.
    TooLong,
}

#[derive(Default)]
pub(super) struct Lines {
    /// The beginning of a line whose end did not come yet.
    begun: Vec<u8>,
    is_too_long: bool,
}

impl Lines {
    /// Takes bytes; `each` gets the lines that end in them. Empty lines are left out.
    pub(super) fn push(&mut self, mut bytes: &[u8], mut each: impl FnMut(Line<'_>)) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = bytes.split_at(end);
            self.extend(line);
            if self.is_too_long {
                each(Line::TooLong);
            } else if !self.begun.trim_ascii().is_empty() {
                each(Line::Whole(&self.begun));
            }
            *self = Self::default();
            bytes = rest.get(1..).unwrap_or_default();
        }
        self.extend(bytes);
    }

    fn extend(&mut self, bytes: &[u8]) {
        if self.begun.len() + bytes.len() > LONGEST {
            *self = Self { begun: Vec::new(), is_too_long: true };
        }
        if !self.is_too_long {
            self.begun.extend_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&[u8]]) -> Vec<Option<String>> {
        let (mut lines, mut found) = (Lines::default(), Vec::new());
        for piece in pieces {
            lines.push(piece, |line| {
                found.push(match line {
                    Line::Whole(bytes) => Some(String::from_utf8(bytes.to_vec()).unwrap()),
                    Line::TooLong => None,
                });
            });
        }
        found
    }

    #[test]
    fn lines_come_out_of_pieces() {
        let found = lines(&[b"a", b"b\n\r\n", b"c\nd\r\ne"]);
        assert_eq!(found, ["ab", "c", "d\r"].map(|line| Some(line.to_owned())));
    }

    #[test]
    fn a_line_that_is_too_long_is_dropped_and_the_next_one_is_whole() {
        let long = vec![b'x'; LONGEST];
        assert_eq!(lines(&[&long, b"x", b"y\nz\n"]), [None, Some("z".to_owned())]);
    }
}
