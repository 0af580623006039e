//! A text with its escapes decoded, so that a secret is one sequence of bytes however it is escaped.
//!
//! Two decoders run one after the other. Both are the same for any number of layers, since the
//! secret itself is decoded, too, before it becomes a pattern:
//!
//! 1. `%` and two hexadecimal digits are a byte; `%25` before such a pair is one more layer.
//! 2. Backslashes are dropped with what they introduce: `\u` and four digits are a UTF-16 unit (two
//!    surrogates a character), `\x` and two digits a byte, `\b \f \n \r \t` their control characters,
//!    anything else is itself. The number of backslashes is the number of layers, and is ignored.

/// The most layers of percent-encoding.
const LAYERS: usize = 4;

/// The most backslashes that are one escape: five layers have 31.
const BACKSLASHES: usize = 32;

/// What no character stands for: half a surrogate pair.
const LONE: char = char::REPLACEMENT_CHARACTER;

/// A text without escapes, and where each of its bytes comes from.
#[derive(Debug, Default)]
pub(crate) struct Unescaped {
    pub(crate) bytes: Vec<u8>,
    /// In their order; the bytes between them are the text's own.
    escapes: Vec<Escape>,
    /// Where an escape begins that may go on after the end of the text; else the text's length.
    pub(crate) open: usize,
    /// How many bytes there are before that escape.
    decided: usize,
}

/// An escape: the bytes `at..at + count` stand for `from..to` of the text.
#[derive(Debug)]
struct Escape {
    at: usize,
    count: usize,
    from: usize,
    to: usize,
}

/// Whether a text may change by being decoded.
pub(crate) fn has_escapes(text: &[u8]) -> bool {
    text.iter().any(is_special)
}

fn is_special(byte: &u8) -> bool {
    matches!(byte, b'\\' | b'%')
}

impl Unescaped {
    pub(crate) fn of(text: &[u8]) -> Self {
        let mut decoded = Self { bytes: Vec::with_capacity(text.len()), ..Self::default() };
        let mut reader = Reader { text, at: 0, met_end: false };
        let mut open = None;
        while reader.at < text.len() {
            let rest = &text[reader.at..];
            let plain = rest.iter().position(is_special).unwrap_or(rest.len());
            decoded.bytes.extend_from_slice(&rest[..plain]);
            reader.at += plain;
            if plain == rest.len() {
                break;
            }
            let (at, from) = (decoded.bytes.len(), reader.at);
            reader.escape(&mut decoded.bytes);
            let count = decoded.bytes.len() - at;
            decoded.escapes.push(Escape { at, count, from, to: reader.at });
            if std::mem::take(&mut reader.met_end) {
                open.get_or_insert((from, at));
            }
        }
        (decoded.open, decoded.decided) = open.unwrap_or((text.len(), decoded.bytes.len()));
        decoded
    }

    /// The bytes that stay the same whatever follows the text.
    pub(crate) fn decided(&self) -> &[u8] {
        &self.bytes[..self.decided]
    }

    /// Where a byte begins in the text; of the first one after the end, where the text ends.
    pub(crate) fn start(&self, byte: usize) -> usize {
        match self.before(byte) {
            Some(escape) if byte < escape.at + escape.count => escape.from,
            Some(escape) => escape.to + (byte - escape.at - escape.count),
            None => byte,
        }
    }

    /// Where a byte ends in the text.
    fn end(&self, byte: usize) -> usize {
        match self.before(byte) {
            Some(escape) if byte < escape.at + escape.count => escape.to,
            _ => self.start(byte) + 1,
        }
    }

    /// What a range of bytes is in the text; it is not empty.
    pub(crate) fn range(&self, from: usize, to: usize) -> (usize, usize) {
        (self.start(from), self.end(to - 1))
    }

    /// The last escape that begins at a byte or before it, and stands for any.
    fn before(&self, byte: usize) -> Option<&Escape> {
        let after = self.escapes.partition_point(|escape| escape.at <= byte);
        self.escapes[..after].last()
    }
}

/// Reads a text from its beginning to its end.
struct Reader<'t> {
    text: &'t [u8],
    at: usize,
    /// Whether the end was looked beyond.
    met_end: bool,
}

impl Reader<'_> {
    /// Decodes what begins with a special byte.
    fn escape(&mut self, out: &mut Vec<u8>) {
        let mut byte = self.byte();
        for _ in 1..BACKSLASHES {
            if byte != b'\\' {
                break;
            }
            let Some(escaped) = self.escaped() else { return };
            let code = match escaped {
                b'b' => Some(0x08),
                b'f' => Some(0x0c),
                b'n' => Some(0x0a),
                b'r' => Some(0x0d),
                b't' => Some(0x09),
                b'x' => self.hex(2),
                b'u' => match self.hex(4) {
                    Some(unit) if unit >= 0x80 => return self.unit(unit, out),
                    unit => unit,
                },
                _ => None,
            };
            // An escaped backslash is one of those that are dropped.
            byte = code.map_or(escaped, |code| code as u8);
            if code.is_none() {
                break;
            }
        }
        out.push(byte);
    }

    /// The next byte of the text, percent-decoded. There is one.
    fn byte(&mut self) -> u8 {
        let byte = self.text[self.at];
        self.at += 1;
        if byte != b'%' {
            return byte;
        }
        let mut decoded = (byte, self.at);
        for layer in 0..LAYERS {
            let Some(value) = self.hex_at(self.at + 2 * layer, 2) else { break };
            decoded = (value as u8, self.at + 2 * layer + 2);
            if value != u32::from(b'%') {
                break;
            }
        }
        self.at = decoded.1;
        decoded.0
    }

    /// The byte after a run of backslashes, one of which was read; none if the text ends.
    fn escaped(&mut self) -> Option<u8> {
        for _ in 1..BACKSLASHES {
            if self.at == self.text.len() {
                self.met_end = true;
                return None;
            }
            let byte = self.byte();
            if byte != b'\\' {
                return Some(byte);
            }
        }
        Some(b'\\')
    }

    /// A UTF-16 unit, with the other half of its pair if it is one.
    fn unit(&mut self, unit: u32, out: &mut Vec<u8>) {
        let mut code = unit;
        if (0xd800..0xdc00).contains(&unit) {
            let after = self.at;
            match self.low_surrogate() {
                Some(low) => code = 0x1_0000 + ((unit - 0xd800) << 10) + (low - 0xdc00),
                None => self.at = after,
            }
        }
        let character = char::from_u32(code).unwrap_or(LONE);
        out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
    }

    fn low_surrogate(&mut self) -> Option<u32> {
        if self.at == self.text.len() {
            self.met_end = true;
            return None;
        }
        if self.byte() != b'\\' || self.escaped()? != b'u' {
            return None;
        }
        self.hex(4).filter(|low| (0xdc00..0xe000).contains(low))
    }

    /// The number that so many hexadecimal digits are, if they follow; they are read then.
    fn hex(&mut self, digits: usize) -> Option<u32> {
        let value = self.hex_at(self.at, digits)?;
        self.at += digits;
        Some(value)
    }

    fn hex_at(&mut self, at: usize, digits: usize) -> Option<u32> {
        let mut value = 0;
        for at in at..at + digits {
            let Some(byte) = self.text.get(at) else {
                self.met_end = true;
                return None;
            };
            value = value * 16 + char::from(*byte).to_digit(16)?;
        }
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(text: &str) -> String {
        String::from_utf8(Unescaped::of(text.as_bytes()).bytes).unwrap()
    }

    #[test]
    fn any_number_of_layers_is_decoded() {
        for text in [r#"a"\é😀<"#, r#"a\"\\\u00e9\uD83D\uDE00\u003C"#, r#"a\\\"\\\\\\u00E9😀<"#]
        {
            assert_eq!(decoded(text), "a\"é😀<");
        }
        for text in ["%41%2fb c", "%2541%252Fb%2520c", "%252541/b c", "A\\/b\\u0020c"] {
            assert_eq!(decoded(text), "A/b c", "{text}");
        }
        assert_eq!(decoded(r"%5C%22 %5Cu00e9 \n\\t \x41 \x4 \u12"), "\" é \n\t A x4 u12");
    }

    #[test]
    fn a_decoded_range_maps_to_whole_escapes() {
        let text = br#"x\\\"y\u00e9%41z"#;
        let decoded = Unescaped::of(text);
        assert_eq!(decoded.bytes, "x\"yéAz".as_bytes());
        assert_eq!(decoded.range(0, 1), (0, 1));
        assert_eq!(decoded.range(1, 2), (1, 5));
        // Half of a character is all of its escape.
        assert_eq!(decoded.range(2, 4), (5, 12));
        assert_eq!(decoded.range(4, 7), (6, 16));
        assert_eq!(decoded.start(7), 16);
    }

    #[test]
    fn an_incomplete_escape_waits_for_more_input() {
        let open = |text: &str| Unescaped::of(text.as_bytes()).open;
        for text in
            ["ab\\", "ab\\\\", "ab\\u00e", "ab%", "ab%2", "ab%25", "ab\\ud83d", "ab\\ud83d\\u"]
        {
            assert_eq!(open(text), 2, "{text}");
        }
        for text in ["ab\\n", "ab\\u00e9", "ab%20", "ab%2520"] {
            assert_eq!(open(text), text.len(), "{text}");
        }
    }
}
