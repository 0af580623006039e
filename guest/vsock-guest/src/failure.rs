//! Failures of requests, as sentences for the host.

use std::path::Path;

use nix::errno::Errno;
use vsock_proto::Failure;

/// "cannot `operation` `path`: why"
pub(crate) fn failed<'a>(
    operation: &'a str,
    path: &'a Path,
) -> impl FnOnce(Errno) -> Failure + use<'a> {
    move |errno| Failure {
        errno: errno as i32,
        message: format!("cannot {operation} {}: {}", path.display(), text(errno)),
    }
}

/// A failure that needs no explanation beyond its own text.
pub(crate) fn refused(errno: Errno, message: impl Into<String>) -> Failure {
    Failure { errno: errno as i32, message: message.into() }
}

/// The failure of what the host cancelled.
pub(crate) fn cancelled() -> Failure {
    refused(Errno::ECANCELED, "the request was cancelled")
}

/// What `errno` means, as a phrase.
pub(crate) fn text(errno: Errno) -> String {
    let mut text = errno.desc().to_owned();
    // "I/O error" begins with no word.
    let begins_with_word = text.as_bytes().get(1).is_some_and(u8::is_ascii_lowercase);
    if let Some(first) = text.get_mut(..1).filter(|_| begins_with_word) {
        first.make_ascii_lowercase();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_on_what_and_why() {
        let failure = failed("open", Path::new("/nowhere"))(Errno::ENOENT);
        assert_eq!(failure.errno, 2);
        assert_eq!(failure.message, "cannot open /nowhere: no such file or directory");
    }

    #[test]
    fn an_abbreviation_keeps_its_capitals() {
        assert_eq!(text(Errno::EIO), "I/O error");
    }
}
