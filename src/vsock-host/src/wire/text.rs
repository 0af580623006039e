//! Texts of a guest, made safe to show.

/// A guest's texts are kept up to this many bytes.
pub(crate) const TEXT: usize = 4 << 10;

/// A guest's text as it may be shown: at most `limit` bytes of it, cut between characters, and with
/// its control characters escaped, but for ends of lines and tabs.
pub(crate) fn printable(text: String, limit: usize) -> String {
    let mut text = truncated(text, limit);
    if text.chars().any(is_escaped) {
        let shown =
            |c: char| if is_escaped(c) { c.escape_default().collect() } else { c.to_string() };
        text = truncated(text.chars().map(shown).collect(), limit);
    }
    text
}

fn is_escaped(c: char) -> bool {
    c.is_control() && c != '\n' && c != '\t'
}

fn truncated(mut text: String, limit: usize) -> String {
    let mut end = limit.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text.shrink_to_fit();
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(truncated("aéb".into(), 2), "a");
        assert_eq!(truncated("aéb".into(), 3), "aé");
        assert_eq!(truncated("aéb".into(), 9), "aéb");
    }

    #[test]
    fn a_text_is_shown_without_its_escapes() {
        assert_eq!(printable("a\x1b[2J\tb\n".into(), 99), "a\\u{1b}[2J\tb\n");
        assert_eq!(printable("\x1b".repeat(9), 7), "\\u{1b}\\");
    }
}
