//! Errors with their causes.

use std::error::Error;
use std::fmt::Write as _;

/// An error and all its causes on one line, joined by `: `.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing to a string cannot fail.
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot mount /dev/vdb")]
    struct Mount(#[source] io::Error);

    #[test]
    fn a_chain_names_every_cause_in_order() {
        assert_eq!(
            chain(&Mount(io::Error::other("no medium"))),
            "cannot mount /dev/vdb: no medium"
        );
    }
}
