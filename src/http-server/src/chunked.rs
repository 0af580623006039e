//! The chunked transfer coding (RFC 9112, section 7.1), decoded strictly: what another program could
//! read in another way is an error.

use crate::refusal::Refusal;

/// The longest line of a chunk's size with its extensions, and of a trailer field.
const LONGEST_LINE: usize = 1024;

/// The most bytes of all extensions and trailer fields of a body.
const MOST_EXTRA: usize = 8 * 1024;

/// A chunk's size has at most so many hexadecimal digits.
const MOST_DIGITS: usize = 15;

/// Decodes one body. It keeps at most one line of input.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    state: State,
    /// The line that has begun, without its CRLF.
    line: Vec<u8>,
    /// Bytes of extensions and trailer fields so far.
    extra: usize,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In the line with a chunk's size.
    #[default]
    Size,
    /// In a chunk, with so many bytes left.
    Data(u64),
    /// In the CRLF after a chunk.
    DataEnd,
    /// In a trailer field, or in the empty line after the last.
    Trailer,
    Done,
}

impl Decoder {
    /// Whether the body has ended.
    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Decodes from `input` into `output` until either is used up or the body ends. Returns how many
    /// bytes it took and how many it wrote.
    pub(crate) fn decode(
        &mut self,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<(usize, usize), Refusal> {
        let (mut taken, mut written) = (0, 0);
        while taken < input.len() && written < output.len() && !self.is_done() {
            let rest = input.get(taken..).unwrap_or_default();
            if let State::Data(left) = self.state {
                let room = output.get_mut(written..).unwrap_or_default();
                let left_here = usize::try_from(left).unwrap_or(usize::MAX);
                let count = rest.len().min(room.len()).min(left_here);
                for (to, from) in room.iter_mut().zip(rest.iter().take(count)) {
                    *to = *from;
                }
                taken += count;
                written += count;
                let left = left - count as u64;
                self.state = if left == 0 { State::DataEnd } else { State::Data(left) };
            } else {
                taken += self.take_line(rest)?;
            }
        }
        Ok((taken, written))
    }

    /// Takes the bytes of a line, up to its end.
    fn take_line(&mut self, input: &[u8]) -> Result<usize, Refusal> {
        let end = input.iter().position(|&byte| byte == b'\n');
        let part = input.get(..end.unwrap_or(input.len())).unwrap_or_default();
        if self.line.len() + part.len() > LONGEST_LINE {
            return Err(Refusal::bad("a line of a chunked body is too long"));
        }
        self.line.extend_from_slice(part);
        if end.is_none() {
            return Ok(part.len());
        }
        let mut line = std::mem::take(&mut self.line);
        if line.pop() != Some(b'\r') {
            return Err(Refusal::bad("a line of a chunked body ends without CR"));
        }
        if line.iter().any(|&byte| byte.is_ascii_control() && byte != b'\t') {
            return Err(Refusal::bad("a line of a chunked body has control characters"));
        }
        self.end_line(&line)?;
        Ok(part.len() + 1)
    }

    fn end_line(&mut self, line: &[u8]) -> Result<(), Refusal> {
        self.state = match self.state {
            State::Size => {
                let end = line.iter().position(|&byte| byte == b';').unwrap_or(line.len());
                let (digits, extensions) = line.split_at(end);
                self.count(extensions.len())?;
                match size(digits)? {
                    0 => State::Trailer,
                    size => State::Data(size),
                }
            }
            State::DataEnd if line.is_empty() => State::Size,
            State::DataEnd => return Err(Refusal::bad("a chunk is longer than its size")),
            State::Trailer if line.is_empty() => State::Done,
            State::Trailer => {
                self.count(line.len())?;
                if !is_field(line) {
                    return Err(Refusal::bad("a trailer is not a field"));
                }
                State::Trailer
            }
            other => other,
        };
        Ok(())
    }

    fn count(&mut self, extra: usize) -> Result<(), Refusal> {
        self.extra += extra;
        if self.extra > MOST_EXTRA {
            return Err(Refusal::bad("a chunked body has too many extensions or trailers"));
        }
        Ok(())
    }
}

/// The body at the beginning of `input`, which is decoded in pieces of at most `size` bytes, and whether
/// it has ended.
#[cfg(feature = "fuzz")]
pub(crate) fn decode_in_pieces(mut input: &[u8], size: usize) -> Result<(Vec<u8>, bool), Refusal> {
    let mut decoder = Decoder::default();
    let mut body = Vec::new();
    let mut output = [0; 16];
    while !input.is_empty() && !decoder.is_done() {
        let piece = input.get(..size.min(input.len())).unwrap_or_default();
        let (taken, written) = decoder.decode(piece, &mut output)?;
        body.extend_from_slice(output.get(..written).unwrap_or_default());
        input = input.get(taken..).unwrap_or_default();
    }
    Ok((body, decoder.is_done()))
}

/// A chunk's size: hexadecimal digits and nothing else.
fn size(digits: &[u8]) -> Result<u64, Refusal> {
    let malformed = || Refusal::bad("a chunk's size is not a hexadecimal number");
    let is_number = digits.iter().all(u8::is_ascii_hexdigit) && digits.len() <= MOST_DIGITS;
    let text = std::str::from_utf8(digits).ok().filter(|text| !text.is_empty() && is_number);
    u64::from_str_radix(text.ok_or_else(malformed)?, 16).map_err(|_| malformed())
}

/// Whether a line is a field: a name, which has only characters of a token, a colon, and a value.
fn is_field(line: &[u8]) -> bool {
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    match line.iter().position(|&byte| byte == b':') {
        None | Some(0) => false,
        Some(end) => line.iter().take(end).all(is_token),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Decodes pieces of `input` that end at `cuts`, with room for `room` bytes at a time. Returns the
    /// body and what comes after it; `None` for the latter if the body has not ended.
    fn decode(
        input: &[u8],
        cuts: &[usize],
        room: usize,
    ) -> Result<(Vec<u8>, Option<Vec<u8>>), Refusal> {
        let mut decoder = Decoder::default();
        let mut body = Vec::new();
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (input.len() + 1)).collect();
        ends.sort_unstable();
        ends.push(input.len());
        let mut start = 0;
        for end in ends {
            while start < end && !decoder.is_done() {
                let mut output = vec![0; room];
                let (taken, written) = decoder.decode(&input[start..end], &mut output)?;
                assert!(taken > 0, "it makes progress");
                body.extend_from_slice(&output[..written]);
                start += taken;
            }
        }
        Ok((body, decoder.is_done().then(|| input[start..].to_vec())))
    }

    fn whole(input: &[u8]) -> Result<(Vec<u8>, Option<Vec<u8>>), Refusal> {
        decode(input, &[], 4096)
    }

    #[test]
    fn a_body_ends_after_its_trailers() {
        let input = b"3\r\nabc\r\n0A;x=\"y\"\r\n0123456789\r\n0\r\nX-Sum: 1\r\nY:\r\n\r\nGET /";

        let (body, rest) = whole(input).unwrap();

        assert_eq!(body, b"abc0123456789");
        assert_eq!(rest.unwrap(), b"GET /");
    }

    #[test]
    fn a_body_without_its_last_chunk_has_not_ended() {
        assert_eq!(whole(b"1\r\na\r\n").unwrap(), (b"a".to_vec(), None));
        assert_eq!(whole(b"0\r\n").unwrap(), (Vec::new(), None));
    }

    #[test]
    fn sizes_that_programs_read_differently_are_refused() {
        let sizes = [
            "",
            " 1",
            "1 ",
            "+1",
            "-1",
            "0x1",
            "1_0",
            "g",
            "\t1",
            "1\t",
            "1\x0b",
            ",1",
            "1,1",
            "ffffffffffffffff",
            "00000000000000001",
            "10000000000000000",
        ];

        for size in sizes {
            assert!(whole(format!("{size}\r\na\r\n0\r\n\r\n").as_bytes()).is_err(), "{size:?}");
        }
    }

    #[test]
    fn line_ends_other_than_crlf_are_refused() {
        let bodies: [&[u8]; 8] = [
            b"1\na\r\n0\r\n\r\n",
            b"1\r\na\n0\r\n\r\n",
            b"1\r\nab\r\n0\r\n\r\n",
            b"1\r\na0\r\n\r\n",
            b"1;a\nb\r\na\r\n0\r\n\r\n",
            b"1;a\rb\r\na\r\n0\r\n\r\n",
            b"0\r\nX: y\n\r\n",
            b"0\r\nX: y\r\n\n",
        ];

        for body in bodies {
            assert!(whole(body).is_err(), "{}", body.escape_ascii());
        }
    }

    #[test]
    fn trailers_that_are_no_fields_are_refused() {
        for trailer in ["x", ": y", "a b: c", " x: y", "x\0: y"] {
            assert!(whole(format!("0\r\n{trailer}\r\n\r\n").as_bytes()).is_err(), "{trailer:?}");
        }
    }

    #[test]
    fn lines_extensions_and_trailers_are_bounded() {
        let long = format!("1;{}", "x".repeat(2000));
        let extensions = format!("1;{}\r\na\r\n", "x".repeat(1000)).repeat(10);
        let trailers = format!("0\r\n{}", format!("X: {}\r\n", "y".repeat(1000)).repeat(10));

        for body in [long, extensions, trailers] {
            assert!(whole(body.as_bytes()).is_err());
        }
    }

    proptest! {
        #[test]
        fn a_body_decodes_the_same_in_any_pieces(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
            cuts in prop::collection::vec(any::<usize>(), 0..8),
            room in 1usize..64,
        ) {
            let mut input = Vec::new();
            for chunk in &chunks {
                input.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                input.extend_from_slice(chunk);
                input.extend_from_slice(b"\r\n");
            }
            input.extend_from_slice(b"0\r\nA: b\r\n\r\nnext");

            let (body, rest) = decode(&input, &cuts, room).unwrap();

            prop_assert_eq!(body, chunks.concat());
            prop_assert_eq!(rest.unwrap(), b"next");
        }

        #[test]
        fn arbitrary_bytes_decode_or_fail_the_same_in_pieces(
            input in "[0-9a-f;x:\r\n ]{0,60}",
            cuts in prop::collection::vec(any::<usize>(), 0..8),
            room in 1usize..64,
        ) {
            prop_assert_eq!(decode(input.as_bytes(), &cuts, room).ok(), whole(input.as_bytes()).ok());
        }
    }
}
