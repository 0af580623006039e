//! Groups: a runner is in one, and takes only jobs of it.

/// Whether a text is the name of a group: `scope/name` of lower-case letters, digits and `-`.
#[must_use]
pub fn is_group(text: &str) -> bool {
    let is_plain = |part: &str| {
        let is_known = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        !part.is_empty() && part.bytes().all(is_known)
    };
    text.len() <= LONGEST
        && text.split_once('/').is_some_and(|(scope, name)| is_plain(scope) && is_plain(name))
}

/// The most bytes of a name.
const LONGEST: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_a_scope_and_a_name() {
        assert!(is_group("local/default") && is_group("a-1/2"));
        for text in ["", "a", "a/", "/b", "a/b/c", "A/b", "a b/c", "a/b\n"] {
            assert!(!is_group(text), "{text:?}");
        }
        assert!(!is_group(&format!("a/{}", "b".repeat(LONGEST))));
    }
}
