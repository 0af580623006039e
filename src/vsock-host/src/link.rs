//! The reactor's end of a guest's connection.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use mio::Token;
use vsock_proto::{Decoder, GuestBody, GuestMessage, RequestId};

use crate::Loss;
use crate::client::Fault;
use crate::connection::Connection;
use crate::engine::Engine;
use crate::intake::{READS, Turn, borrow, give_back, receive};
use crate::outbox::HIGH_WATER;

pub(crate) struct Link {
    pub(crate) connection: Arc<Connection>,
    /// The client, and its request, that a request is relayed for.
    pub(crate) relayed: BTreeMap<RequestId, (Token, RequestId)>,
    /// The host connection that a request is for.
    pub(crate) forwards: BTreeMap<RequestId, Token>,
    /// The request that makes the guest watch ports, and its listener.
    pub(crate) watched: Option<(RequestId, Token)>,
    decoder: Decoder,
    /// The reason that sending failed. Received bytes are still read.
    broken: Option<io::Error>,
}

impl Link {
    pub(crate) fn new(connection: Arc<Connection>, mut decoder: Decoder) -> Self {
        decoder.release();
        let (relayed, forwards) = Default::default();
        Self { connection, relayed, forwards, watched: None, decoder, broken: None }
    }
}

impl Engine {
    /// Gives a guest its turn.
    pub(crate) fn read_guest(&mut self, token: Token) {
        let Some(link) = self.guests.get_mut(&token) else {
            return;
        };
        let connection = Arc::clone(&link.connection);
        let mut decoder = borrow(&mut link.decoder, &mut self.spare);
        let turn = self.hear(token, &connection, &mut decoder);
        let Some(link) = self.guests.get_mut(&token) else {
            return;
        };
        give_back(decoder, &mut link.decoder, &mut self.spare);
        let broken = link.broken.take_if(|_| turn.as_ref().is_ok_and(|turn| *turn == Turn::Done));
        match (turn, broken) {
            (Ok(Turn::Done), None) => {}
            (Ok(Turn::Done), Some(source)) => self.end_guest(token, Loss::Socket { source }),
            (Ok(Turn::More), _) => drop(self.unfinished.insert(token)),
            (Err(loss), _) => self.end_guest(token, loss),
        }
    }

    fn hear(
        &mut self,
        token: Token,
        connection: &Connection,
        decoder: &mut Decoder,
    ) -> Result<Turn, Loss> {
        for _ in 0..READS {
            while let Some(message) = decoder.next()? {
                self.dispatch(token, connection, message)?;
            }
            if !receive(&connection.socket, decoder)? {
                return Ok(Turn::Done);
            }
        }
        Ok(Turn::More)
    }

    /// Passes an answer on. One to a request that has ended, or never was, is ignored.
    fn dispatch(
        &mut self,
        token: Token,
        connection: &Connection,
        message: GuestMessage<'_>,
    ) -> Result<(), Loss> {
        let GuestMessage { id, body } = message;
        let is_final = body.is_final();
        if let Some(request) = connection.route(id) {
            // In this order: if the answer is a breach, then the request has to learn of the loss.
            request.deliver(body)?;
            if is_final {
                connection.remove_route(id);
            }
            return Ok(());
        }
        let Some(link) = self.guests.get_mut(&token) else {
            return Ok(());
        };
        if let Some(&forward) = link.forwards.get(&id) {
            return self.pass_to_forward(forward, connection, body);
        }
        if let Some((_, listener)) = link.watched.filter(|(watched, _)| *watched == id) {
            match body {
                GuestBody::Listening(listening) => self.tell_ports(listener, &listening.ports),
                _ => link.watched = None,
            }
            return Ok(());
        }
        let Some(&(client_token, client_id)) = link.relayed.get(&id) else {
            return Ok(());
        };
        if is_final {
            link.relayed.remove(&id);
        }
        let Some(client) = self.clients.get_mut(&client_token) else {
            return Ok(());
        };
        match client.pass(client_id, body) {
            Ok(()) => Ok(()),
            Err(Fault::Guest(loss)) => Err(loss),
            Err(Fault::Client(loss)) => {
                if let Some(client) = self.clients.remove(&client_token) {
                    self.end_client(client_token, client, loss);
                }
                Ok(())
            }
        }
    }

    /// Sends the bytes that callers left in the outbox.
    pub(crate) fn write_guest(&mut self, token: Token) {
        let Some(link) = self.guests.get_mut(&token) else {
            return;
        };
        if let Err(error) = link.connection.outbox.drain() {
            link.broken = Some(error);
            self.unfinished.insert(token);
            return;
        }
        if link.connection.outbox.backlog() <= HIGH_WATER {
            let waiting = self.clients.iter().filter(|(_, client)| client.waits_for(token));
            self.unfinished.extend(waiting.map(|(token, _)| *token));
            let waiting = self.forwards.iter().filter(|(_, forward)| forward.waits_for(token));
            self.unfinished.extend(waiting.map(|(token, _)| *token));
        }
    }

    /// Ends a guest's connection, all calls on it and all its clients.
    pub(crate) fn end_guest(&mut self, token: Token, loss: Loss) {
        let Some(link) = self.guests.remove(&token) else {
            return;
        };
        let connection = link.connection;
        log::debug!("a guest's connection ends; reason={loss}");
        connection.fail(loss);
        self.forget_current(token);
        self.end_forwards(token, &Arc::new(Loss::GuestGone));
        let clients: Vec<Token> = self
            .clients
            .iter()
            .filter(|(_, client)| client.guest() == token)
            .map(|(token, _)| *token)
            .collect();
        for client_token in clients {
            if let Some(client) = self.clients.remove(&client_token) {
                self.end_client(client_token, client, Loss::GuestGone);
            }
        }
        let rest = connection.outbox.take_rest();
        self.drain(Arc::clone(&connection.socket), connection.registration.clone(), rest);
    }
}
