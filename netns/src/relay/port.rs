//! A port that leads elsewhere: one of the host's to the guest, or one of the gateway's to the host.

use std::time::Instant;

use mio::Token;
use mio::net::TcpStream;

use super::Target;
use super::door::Door;
use super::reactor::Context;
use super::stream::Streams;
use crate::{Error, Result};

/// As many connections may be open at once.
const CONNECTIONS: usize = 256;

/// A socket, and where it leads.
#[derive(Debug)]
pub(super) struct Port {
    door: Door,
    target: Target,
    streams: Streams,
}

impl Port {
    pub(super) fn open(
        listener: std::net::TcpListener,
        target: Target,
        context: &mut Context<'_>,
    ) -> Self {
        let door = Door::open(listener, context);
        Self { door, target, streams: Streams::new(CONNECTIONS) }
    }

    pub(super) fn ready(&mut self, token: Token, context: &mut Context<'_>) {
        if token != self.door.token {
            return self.streams.ready(token, context);
        }
        for near in self.door.take(context) {
            // One too many is closed before anything is done for it.
            if !self.streams.has_room() {
                log::debug!("one connection too many is closed");
                continue;
            }
            match self.target.connect() {
                Ok(far) => self.streams.add(near, far, context),
                Err(error) => log::debug!("{}", crate::error::chain(&error)),
            }
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.door.retry()
    }

    pub(super) fn expire(&mut self, context: &mut Context<'_>) {
        self.ready(self.door.token, context);
    }

    pub(super) fn close(mut self, context: &mut Context<'_>) {
        self.streams.close(context);
        self.door.close(context);
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
