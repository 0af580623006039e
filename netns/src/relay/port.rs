//! A port that leads elsewhere: one of the host's to the guest, or one of the gateway's to the host.

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Token};

use super::Target;
use super::reactor::Context;
use super::stream::Streams;
use crate::{Error, Result};

/// As many connections may be open at once.
const CONNECTIONS: usize = 1024;

/// A socket, and where it leads.
#[derive(Debug)]
pub(super) struct Port {
    listener: TcpListener,
    token: Token,
    target: Target,
    streams: Streams,
}

impl Port {
    pub(super) fn open(
        listener: std::net::TcpListener,
        target: Target,
        context: &mut Context<'_>,
    ) -> Self {
        let mut listener = TcpListener::from_std(listener);
        let token = context.register(&mut listener, Interest::READABLE);
        Self { listener, token, target, streams: Streams::new(CONNECTIONS) }
    }

    pub(super) fn ready(&mut self, token: Token, context: &mut Context<'_>) {
        if token != self.token {
            return self.streams.ready(token, context);
        }
        while let Ok((near, _)) = self.listener.accept() {
            match self.target.connect() {
                Ok(far) => self.streams.add(near, far, context),
                Err(error) => log::debug!("{}", crate::error::chain(&error)),
            }
        }
    }

    pub(super) fn close(mut self, context: &mut Context<'_>) {
        context.forget(&mut self.listener, self.token);
        self.streams.close(context);
    }
}

impl Target {
    fn connect(&self) -> Result<TcpStream> {
        let connect = || {
            let failed = |source| Error::Socket { kind: "relay's", source };
            TcpStream::connect(self.address).map_err(failed)
        };
        match &self.namespace {
            Some(namespace) => namespace.within(connect),
            None => connect(),
        }
    }
}
