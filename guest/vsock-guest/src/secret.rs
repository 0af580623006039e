//! The secret that proves to the host that the peer is the service, and not another process of
//! the guest. It comes with the host's welcome.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use vsock_proto::LinkSecret;

/// The secret, and the file that keeps it for the next service.
#[derive(Debug)]
pub(crate) struct Secret {
    current: Option<LinkSecret>,
    file: Option<Arc<File>>,
}

impl Secret {
    /// Reads the secret that the previous service left in `file`, if any.
    pub(crate) fn kept_in(file: Option<Arc<File>>) -> Self {
        let mut bytes = [0; 32];
        let read = file.as_ref().map(|file| file.read_exact_at(&mut bytes, 0));
        Self { current: matches!(read, Some(Ok(()))).then_some(LinkSecret(bytes)), file }
    }

    pub(crate) fn get(&self) -> Option<LinkSecret> {
        self.current
    }

    /// Stores the secret of a welcome.
    pub(crate) fn keep(&mut self, secret: LinkSecret) {
        self.current = Some(secret);
        if let Some(file) = &self.file
            && let Err(error) = file.write_all_at(&secret.0, 0)
        {
            log::error!("the host will refuse the service after this one; error={error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_service_knows_what_this_one_was_told_last() {
        let file = Some(Arc::new(tempfile::tempfile().unwrap()));
        let mut first = Secret::kept_in(file.clone());
        assert_eq!(first.get(), None);
        first.keep(LinkSecret([1; 32]));
        first.keep(LinkSecret([2; 32]));
        assert_eq!(Secret::kept_in(file).get(), Some(LinkSecret([2; 32])));
    }

    #[test]
    fn a_place_that_holds_nothing_is_no_secret() {
        let null = Arc::new(File::options().read(true).write(true).open("/dev/null").unwrap());
        assert_eq!(Secret::kept_in(Some(null)).get(), None);
    }
}
