//! Bytes as hexadecimal digits.

use std::fmt::Write as _;

/// Two lower-case digits a byte.
pub fn encode(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The `N` bytes that `text` stands for, in lower-case digits; `None` if it is anything else.
pub fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decode_accepts_the_output_of_encode_only() {
        let bytes = [0x00, 0x7f, 0xff];
        assert_eq!(encode(&bytes), "007fff");
        assert_eq!(decode("007fff"), Some(bytes));
        assert_eq!(decode::<3>("007FFF"), None);
        assert_eq!(decode::<3>("007ff"), None);
        assert_eq!(decode::<3>("+17fff"), None);
        assert_eq!(decode::<3>("00é7f"), None);
    }
}
