//! Bytes of sandboxes as text.

/// The text of bytes that may begin or end in the middle of a character: the parts of such characters are
/// dropped, other wrong bytes are replaced.
pub(crate) fn lossy(bytes: &[u8]) -> String {
    let is_continuation = |byte: &u8| byte & 0xc0 == 0x80;
    let begin = bytes.iter().take(3).take_while(|byte| is_continuation(byte)).count();
    let bytes = bytes.get(begin..).unwrap_or_default();
    let trailing = bytes.iter().rev().take(3).take_while(|byte| is_continuation(byte)).count();
    let last = bytes.len().checked_sub(trailing + 1);
    let first_byte = last.and_then(|last| bytes.get(last)).copied().unwrap_or(0);
    let expected = match first_byte {
        0xc0..=0xdf => 1,
        0xe0..=0xef => 2,
        0xf0..=0xf7 => 3,
        _ => trailing,
    };
    let end = if trailing < expected { last.unwrap_or(0) } else { bytes.len() };
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

/// Whether bytes are not text.
pub(crate) fn is_binary(bytes: &[u8]) -> bool {
    bytes.contains(&0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_that_was_cut_is_dropped() {
        let text = "aé€😀".as_bytes();
        assert_eq!(lossy(text), "aé€😀");
        assert_eq!(lossy(&text[..text.len() - 1]), "aé€");
        assert_eq!(lossy(&text[2..]), "€😀");
        assert_eq!(lossy(&text[..5]), "aé");
        assert_eq!(lossy(b"a\xff"), "a\u{fffd}");
        assert_eq!(lossy(b""), "");
        assert_eq!(lossy(b"\x80\x80"), "");
    }
}
