//! The reactor's end of a guest's connection.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use mio::Token;
use vsock_proto::Decoder;

use super::draining::Draining;
use super::schedule::Schedule;
use crate::Loss;
use crate::call::Connection;
use crate::wire::intake::Turn;
use crate::wire::outbox::HIGH_WATER;

#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) connection: Arc<Connection>,
    /// The listener that the guest dialled, if it dialled one.
    pub(crate) listener: Option<Token>,
    /// Relay clients and forwarded connections of the guest, which end with it.
    pub(crate) dependents: BTreeSet<Token>,
    pub(crate) decoder: Decoder,
    /// The reason that sending failed. Received bytes are still read.
    broken: Option<io::Error>,
}

impl Link {
    pub(crate) fn new(
        connection: Arc<Connection>,
        mut decoder: Decoder,
        listener: Option<Token>,
    ) -> Self {
        decoder.release();
        Self { connection, listener, dependents: BTreeSet::new(), decoder, broken: None }
    }

    /// Sends the bytes that callers left in the outbox; returns whether dependents may add more.
    pub(crate) fn write(&mut self, schedule: &mut Schedule) -> bool {
        if let Err(error) = self.connection.outbox.drain() {
            self.broken = Some(error);
            schedule.add_turn(self.connection.token());
            return false;
        }
        self.connection.outbox.backlog() <= HIGH_WATER
    }

    /// The end of a turn: a connection that cannot be written to is lost once all of it is read.
    pub(crate) fn finish_turn(&mut self, turn: Turn) -> Result<Turn, Loss> {
        match (turn, self.broken.take_if(|_| turn == Turn::Done)) {
            (_, Some(source)) => Err(Loss::Socket { source }),
            (turn, None) => Ok(turn),
        }
    }

    /// Ends all calls, and sends the unsent bytes.
    pub(crate) fn end(&self, loss: Loss, schedule: &mut Schedule) -> Option<Draining> {
        log::debug!("a guest's connection ends; reason={loss}");
        let connection = &self.connection;
        connection.fail(loss);
        let socket = Arc::clone(&connection.socket);
        let rest = connection.outbox.take_rest();
        Draining::start(socket, connection.registration.clone(), rest, schedule)
    }
}
