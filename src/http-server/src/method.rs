//! Request methods.

/// What a request wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "they are RFC 9110's")]
pub enum Method {
    Get,
    Head,
    Put,
    Post,
    Patch,
    Delete,
    Options,
    /// Any other method. Its name is in the head as it came ([`Upgraded::head`](crate::Upgraded)).
    Other,
}

impl Method {
    /// Methods are case-sensitive.
    pub(crate) fn parse(name: &str) -> Self {
        let known = [
            Self::Get,
            Self::Head,
            Self::Put,
            Self::Post,
            Self::Patch,
            Self::Delete,
            Self::Options,
        ];
        known.into_iter().find(|method| method.name() == name).unwrap_or(Self::Other)
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Put => "PUT",
            Self::Post => "POST",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
            Self::Other => "other",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_case_sensitive() {
        assert_eq!(Method::parse("DELETE"), Method::Delete);
        assert_eq!(Method::parse("delete"), Method::Other);
        assert_eq!(Method::parse("other"), Method::Other);
    }
}
