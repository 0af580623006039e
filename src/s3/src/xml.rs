//! The least of XML that S3's replies need: the texts of elements, by their names. Replies have no attributes
//! on the elements that are read here, and only the root has a namespace.

/// The contents of all elements of this name, in order. Those of a malformed text may be missing.
pub(crate) fn elements<'a>(text: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let mut rest = text;
    std::iter::from_fn(move || {
        let (_, after) = rest.split_once(open.as_str())?;
        let (content, after) = after.split_once(close.as_str())?;
        rest = after;
        Some(content)
    })
}

/// The text of the first element of this name, with its entities replaced.
pub(crate) fn text(xml: &str, name: &str) -> Option<String> {
    let content = elements(xml, name).next()?;
    let plain = content.replace("&quot;", "\"").replace("&#34;", "\"").replace("&apos;", "'");
    let plain = plain.replace("&#39;", "'").replace("&lt;", "<").replace("&gt;", ">");
    Some(plain.replace("&amp;", "&"))
}

/// The code of an error, if it is one: letters only.
pub(crate) fn code(xml: &str) -> String {
    let error = xml.split_once("<Error>").map_or("", |(_, error)| error);
    let code = text(error, "Code").unwrap_or_default();
    code.chars().take_while(|c| c.is_ascii_alphanumeric()).take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_found_by_name_in_order() {
        let xml = r#"<?xml version="1.0"?><R xmlns="x"><C><Key>a</Key></C><C><Key>b&amp;lt;</Key></C></R>"#;
        let keys: Vec<_> = elements(xml, "C").filter_map(|one| text(one, "Key")).collect();
        assert_eq!(keys, ["a", "b&lt;"]);
        assert_eq!(text(xml, "None"), None);
        assert_eq!(elements("<C><Key>cut", "C").count(), 0);
    }

    #[test]
    fn the_code_of_an_error_is_letters_only() {
        assert_eq!(code("<Error><Code>SlowDown</Code><Message>m</Message></Error>"), "SlowDown");
        assert_eq!(code("<Error><Code>http://x?Signature=1</Code></Error>"), "http");
        assert_eq!(code("<html>"), "");
    }
}
