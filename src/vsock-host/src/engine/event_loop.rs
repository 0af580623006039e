//! The loop of the reactor's thread.
//!
//! 1. Sleep until a socket, a command or a timer is ready. Do not sleep if a turn was cut short.
//! 2. Read and write the sockets that are ready.
//! 3. Carry out commands.
//! 4. Give another turn to peers that had more than fits in one.
//! 5. Handle timers that have expired.

use std::io;

use crossbeam_channel::Receiver;
use mio::{Events, Poll};

use super::Engine;
use crate::call::{Command, Remote, WAKER};
use crate::{Error, Result};

const EVENTS: usize = 256;

pub(crate) struct EventLoop {
    poll: Poll,
    commands: Receiver<Command>,
    engine: Engine,
}

impl EventLoop {
    pub(crate) fn new(poll: Poll, remote: Remote, commands: Receiver<Command>) -> io::Result<Self> {
        let engine = Engine::new(poll.registry().try_clone()?, remote);
        Ok(Self { poll, commands, engine })
    }

    pub(crate) fn run(mut self) -> Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            // 1 Sleep.
            let timeout = self.engine.timeout();
            match self.poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(Error::Wait { source }),
            }
            // 2 Sockets.
            for event in &events {
                let is_only_writable =
                    event.is_writable() && !event.is_readable() && !event.is_error();
                if event.is_writable() {
                    self.engine.write(event.token());
                }
                if !is_only_writable && event.token() != WAKER {
                    self.engine.read(event.token());
                }
            }
            // 3 Commands.
            while let Ok(command) = self.commands.try_recv() {
                if matches!(command, Command::Stop) {
                    return Ok(());
                }
                self.engine.handle_command(command);
            }
            // 4 Turns.
            self.engine.take_turns();
            // 5 Timers.
            self.engine.expire();
        }
    }
}
