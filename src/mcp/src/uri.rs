//! The URI of a file: `sandbox://ID/PATH`.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

const SCHEME: &str = "sandbox://";

/// What stands for itself in a path of a URI.
const PLAIN: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'/').remove(b'.').remove(b'-').remove(b'_').remove(b'~');

/// The URI of a file.
pub(crate) fn format(sandbox: &str, path: &str) -> String {
    format!("{SCHEME}{sandbox}{}", utf8_percent_encode(path, PLAIN))
}

/// The sandbox and the absolute path of a URI.
pub(crate) fn parse(uri: &str) -> Option<(String, String)> {
    let rest = uri.strip_prefix(SCHEME)?;
    let (id, path) = rest.split_at(rest.find('/')?);
    let path = percent_decode_str(path).decode_utf8().ok()?;
    let is_valid = !id.is_empty() && !path.contains('\0');
    is_valid.then(|| (id.to_owned(), path.into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_names_a_sandbox_and_a_path() {
        let uri = format("abc", "/tmp/a b?é.bin");
        assert_eq!(uri, "sandbox://abc/tmp/a%20b%3F%C3%A9.bin");
        assert_eq!(parse(&uri), Some(("abc".to_owned(), "/tmp/a b?é.bin".to_owned())));
        for wrong in [
            "file:///etc/passwd",
            "sandbox:///x",
            "sandbox://abc",
            "sandbox://a/%ff",
            "sandbox://a/%00",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
