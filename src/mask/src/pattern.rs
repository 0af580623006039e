//! The patterns to search for: variants of the secrets.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

use crate::unescape::Unescaped;

/// The shortest secret, and the shortest pattern.
const SHORTEST: usize = 5;

/// The shortest line of a secret that is masked by itself.
const SHORTEST_LINE: usize = 8;

/// How many characters of base64 a window has.
pub(crate) const WINDOW: usize = 8;

/// Some characters of a secret's base64.
pub(crate) type Window = [u8; WINDOW];

/// The variants of all secrets.
#[derive(Debug, Default)]
pub(crate) struct Patterns {
    /// Patterns that match as a whole.
    pub(crate) whole: BTreeSet<Vec<u8>>,
    /// Wherever base64 is wrapped, lines have a multiple of four characters. So windows that begin
    /// at each fourth character, and one at each end, cover what a line has of a secret.
    pub(crate) windows: BTreeSet<Window>,
}

impl Patterns {
    pub(crate) fn of<S: AsRef<[u8]>>(secrets: impl IntoIterator<Item = S>) -> Self {
        let mut patterns = Self::default();
        for secret in secrets {
            patterns.add_secret(secret.as_ref());
        }
        patterns
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.whole.is_empty() && self.windows.is_empty()
    }

    /// Files end with a newline that is often removed where they are used, and programs print
    /// single lines of them.
    fn add_secret(&mut self, secret: &[u8]) {
        if secret.len() < SHORTEST {
            return;
        }
        let lines = secret.split(|byte| matches!(byte, b'\n' | b'\r')).map(<[u8]>::trim_ascii);
        let lines = lines.filter(|line| line.len() >= SHORTEST_LINE);
        for variant in [secret, secret.trim_ascii()].into_iter().chain(lines) {
            self.add_escaped(variant);
            (0..3).for_each(|before| self.add_base64(variant, before));
        }
    }

    /// The variant as it is; decoded, as the text is that it is looked for in, with spaces or the
    /// pluses of a form; and decoded after a backslash, which changes the meaning of a first `n` or `u`.
    fn add_escaped(&mut self, variant: &[u8]) {
        if variant.len() < SHORTEST {
            return;
        }
        self.whole.insert(variant.to_vec());
        let decoded = Unescaped::of(variant).bytes;
        let after_backslash = Unescaped::of(&[b"\\", variant].concat()).bytes;
        let form = decoded.iter().map(|byte| if *byte == b' ' { b'+' } else { *byte }).collect();
        for decoded in [decoded, form, after_backslash] {
            if decoded.len() >= SHORTEST {
                self.whole.insert(decoded);
            }
        }
    }

    /// Base64 where the secret begins after `before` other bytes, or a multiple of three more.
    fn add_base64(&mut self, variant: &[u8], before: usize) {
        if variant.len() < SHORTEST {
            return;
        }
        let shifted = [&[0; 2][..before], variant].concat();
        let (text, padded) = (STANDARD_NO_PAD.encode(&shifted), STANDARD.encode(&shifted));
        // So many characters hold bits of what comes before; and so many are the secret's alone.
        let (first, whole) = ((before * 8).div_ceil(6), shifted.len() * 8 / 6);
        let text = &text.as_bytes()[first..];
        let (own, padded) = (&text[..whole - first], &padded.as_bytes()[first..]);
        if own.len() < WINDOW {
            for form in [own, text, padded].into_iter().filter(|form| form.len() >= SHORTEST) {
                self.whole.extend(spellings(form));
            }
            return;
        }
        let aligned = own.windows(WINDOW).skip((4 - first) % 4).step_by(4);
        let ends = [own, text, padded].map(|form| &form[form.len() - WINDOW..]);
        for window in aligned.chain([&own[..WINDOW]]).chain(ends) {
            let windows = spellings(window).filter_map(|window| Window::try_from(window).ok());
            self.windows.extend(windows);
        }
    }
}

/// Base64 as it is, and URL-safe.
fn spellings(form: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let with = |plus: u8, slash: u8| {
        let spell = move |byte: &u8| match byte {
            b'+' => plus,
            b'/' => slash,
            other => *other,
        };
        form.iter().map(spell).collect()
    };
    [with(b'+', b'/'), with(b'-', b'_')].into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn very_short_patterns_are_not_used() {
        for secret in
            ["abcde", "12345", "=====", "\n\n\n\n\n", "äöü", "+++++", "%41%42%43", "\\\\\\\\a"]
        {
            let patterns = Patterns::of([secret]);
            assert!(patterns.whole.iter().all(|pattern| pattern.len() >= SHORTEST), "{secret}");
        }
        assert!(Patterns::of(["abcd", ""]).is_empty());
    }

    #[test]
    fn the_number_of_patterns_depends_on_the_secrets_length_only() {
        let secret: String = (0..3000_u32).map(|n| char::from(b' ' + (n * n % 94) as u8)).collect();
        let patterns = Patterns::of([secret]);
        assert!(patterns.whole.len() <= 4 && patterns.windows.len() <= 3 * 3000);
    }
}
