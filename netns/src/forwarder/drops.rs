//! Reports the packets that a guest's namespace drops.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use mio::unix::SourceFd;
use mio::{Interest, Token};
use sandbox::EgressObserver;

use super::context::Context;
use crate::drop_log::DropLog;

/// Passes each dropped packet to an observer.
pub(super) struct DropReporter {
    log: DropLog,
    token: Token,
    observer: Arc<dyn EgressObserver>,
}

impl DropReporter {
    pub(super) fn open(
        log: DropLog,
        observer: Arc<dyn EgressObserver>,
        context: &mut Context<'_>,
    ) -> Self {
        let token = context.register(&mut SourceFd(&log.as_raw_fd()), Interest::READABLE);
        Self { log, token, observer }
    }

    pub(super) fn ready(&mut self) {
        for dropped in self.log.take() {
            self.observer.dropped(dropped);
        }
    }

    pub(super) fn close(mut self, context: &mut Context<'_>) {
        // Packets in the log were dropped before the end.
        self.ready();
        context.deregister(&mut SourceFd(&self.log.as_raw_fd()), self.token);
    }
}
