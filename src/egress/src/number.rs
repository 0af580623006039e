//! Numbers as users write them.

use serde::Deserialize;

/// A number with an optional decimal unit: `5000`, `20K`, `20M`, `1G`.
pub(crate) fn decimal(text: &str) -> Option<u64> {
    let (number, unit) = match text.as_bytes().last()? {
        b'K' => (text.strip_suffix('K')?, 1_000),
        b'M' => (text.strip_suffix('M')?, 1_000_000),
        b'G' => (text.strip_suffix('G')?, 1_000_000_000),
        _ => (text, 1),
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

/// A number or a string.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a number or a string")]
pub(crate) enum Word {
    Number(u64),
    Text(String),
}

impl Word {
    pub(crate) fn text(self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_may_have_a_suffix() {
        assert_eq!(["7", "20K", "1G"].map(decimal), [7, 20_000, 1_000_000_000].map(Some));
        for text in ["", "M", "1.5M", "20 M", "20MB", "-1", "18446744073709551615K"] {
            assert_eq!(decimal(text), None, "{text}");
        }
    }
}
