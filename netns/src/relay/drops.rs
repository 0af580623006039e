//! What was dropped in the namespace of a guest.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use mio::unix::SourceFd;
use mio::{Interest, Token};
use sandbox::EgressObserver;

use super::reactor::Context;
use crate::drop_log::DropLog;

pub(super) struct Drops {
    log: DropLog,
    token: Token,
    watch: Arc<dyn EgressObserver>,
}

impl Drops {
    pub(super) fn open(
        log: DropLog,
        watch: Arc<dyn EgressObserver>,
        context: &mut Context<'_>,
    ) -> Self {
        let token = context.register(&mut SourceFd(&log.as_raw_fd()), Interest::READABLE);
        Self { log, token, watch }
    }

    pub(super) fn ready(&mut self) {
        for dropped in self.log.take() {
            self.watch.dropped(dropped);
        }
    }

    pub(super) fn close(mut self, context: &mut Context<'_>) {
        // What is there was dropped while it was watched.
        self.ready();
        context.forget(&mut SourceFd(&self.log.as_raw_fd()), self.token);
    }
}
