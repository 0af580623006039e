//! Handlers of the host's messages.

use std::sync::Arc;

use vsock_proto::{
    Entry, Exec, ExecPart, Exit, Failure, GuestBody, GuestState, HostBody, HostMessage, Outcome,
    RequestId, Stream, StreamTotal,
};

use crate::launch::{Unstarted, launch};
use crate::serve::{End, Server};
use crate::transfer::{Part, Port, Transfer};
use crate::{Error, Result, read, state, write};

/// A command has at most so many bytes of arguments and variables: twice what Linux takes, so that
/// it is the kernel that refuses.
const LARGEST_EXEC: usize = 2 * base::exec_limit::TOTAL;

impl Server<'_> {
    /// Carries out one message; the connection's end, if that is what it means.
    pub(crate) fn handle_message(&mut self, message: HostMessage<'_>) -> Result<Option<End>> {
        self.break_silence()?;
        let HostMessage { id, body } = message;
        if !self.is_welcome {
            return self.admit(body);
        }
        if body.is_request() && self.is_under_way(id) {
            return Err(Error::Unexpected {
                message: "a request",
                when: "with the number of one that is not finished",
            });
        }
        match body {
            HostBody::Welcome(_) | HostBody::Reject(_) => {
                return Err(Error::Unexpected {
                    message: "a second greeting",
                    when: "to a guest that it had welcomed",
                });
            }
            HostBody::Ping => self.link.send(id, GuestBody::Done)?,
            HostBody::Exec(exec) if exec.is_partial => drop(self.partial.insert(id, exec)),
            HostBody::Exec(exec) => self.exec(id, &exec)?,
            HostBody::ExecPart(part) => self.exec_part(id, part)?,
            HostBody::Connect(request) => self.connect(id, request)?,
            HostBody::WatchPorts(request) => self.watch_ports(id, &request)?,
            HostBody::Write(request) => {
                self.transfer(id, move |port| write::write(port, request))?
            }
            HostBody::Read(request) => self.transfer(id, move |port| read::read(port, &request))?,
            HostBody::SetState(state) => self.set_state(id, state)?,
            HostBody::Quiesce => self.quiesce(id)?,
            HostBody::Shutdown => {
                self.link.send(id, GuestBody::Done)?;
                self.say_goodbye()?;
                self.ask_to_end();
                return Ok(Some(End::Shutdown));
            }
            HostBody::Data(bytes) => self.data(id, bytes)?,
            HostBody::Entry(entry) => self.entry(id, entry)?,
            HostBody::End => self.end(id)?,
            HostBody::Credit(stream, count) => self.credit(id, stream, count)?,
            HostBody::Resize(size) => {
                if let Some(command) = self.commands.get(&id) {
                    command.resize(size);
                }
            }
            HostBody::Signal(signal) => {
                if let Some(command) = self.commands.get(&id) {
                    command.signal(signal);
                }
            }
            HostBody::Cancel => self.cancel(id)?,
        }
        Ok(None)
    }

    fn is_under_way(&self, id: RequestId) -> bool {
        self.commands.contains_key(&id)
            || self.transfers.contains_key(&id)
            || self.partial.contains_key(&id)
            || self.connections.contains_key(&id)
            || self.port_watches.contains_key(&id)
    }

    /// After a quiesce the host speaks again: what ended meanwhile may be reported.
    fn break_silence(&mut self) -> Result<()> {
        if std::mem::take(&mut self.is_silent) {
            let ids: Vec<RequestId> = self.commands.keys().copied().collect();
            for id in ids {
                self.finish(id)?;
            }
        }
        Ok(())
    }

    /// Takes the host's answer to our hello.
    fn admit(&mut self, answer: HostBody<'_>) -> Result<Option<End>> {
        match answer {
            HostBody::Welcome(Some(secret)) => self.service.secret.keep(secret),
            HostBody::Welcome(None) => {}
            HostBody::Reject(reason) => return Ok(Some(End::Rejected(reason))),
            _ => {
                return Err(Error::Unexpected {
                    message: "a request",
                    when: "before it answered the hello",
                });
            }
        }
        self.is_welcome = true;
        // It has been told; the next connection's hello is about the time since then.
        self.service.config.previous_failure = None;
        let ready = GuestBody::Ready(state::describe());
        self.link.send(RequestId::LINK, ready)?;
        Ok(None)
    }

    fn exec(&mut self, id: RequestId, exec: &Exec) -> Result<()> {
        self.has_garbage = true;
        let cgroup = self.service.garbage.take_cgroup();
        let cgroup =
            cgroup.map_err(|error| Unstarted { is_missing: false, message: error.to_string() });
        let launched = cgroup.and_then(|cgroup| launch(exec, self.service, cgroup));
        match launched {
            Ok(command) => {
                self.link.send(id, GuestBody::Started(command.pid()))?;
                self.commands.insert(id, command);
                Ok(())
            }
            Err(unstarted) => self.unstarted(id, unstarted),
        }
    }

    /// Answers a command that cannot be started.
    fn unstarted(&mut self, id: RequestId, unstarted: Unstarted) -> Result<()> {
        let Unstarted { is_missing, message } = unstarted;
        self.report_end(id, Outcome::FailedToStart { is_missing, message })
    }

    /// Answers a command that never ran.
    fn report_end(&mut self, id: RequestId, outcome: Outcome) -> Result<()> {
        let exit = Exit {
            outcome,
            stdout: StreamTotal::default(),
            stderr: StreamTotal::default(),
            duration_us: 0,
            oom_kills: 0,
        };
        self.link.send(id, GuestBody::Exit(exit))
    }

    /// Starts a command when it is complete. One that no kernel would start costs no memory.
    fn exec_part(&mut self, id: RequestId, part: ExecPart) -> Result<()> {
        let Some(exec) = self.partial.get_mut(&id) else {
            return Ok(());
        };
        let is_complete = exec.add(part);
        if exec.size() > LARGEST_EXEC {
            self.partial.remove(&id);
            let message = format!("the command has over {LARGEST_EXEC} bytes of arguments");
            return self.unstarted(id, Unstarted { is_missing: false, message });
        }
        if !is_complete {
            return Ok(());
        }
        match self.partial.remove(&id) {
            Some(exec) => self.exec(id, &exec),
            None => Ok(()),
        }
    }

    fn set_state(&mut self, id: RequestId, state: GuestState) -> Result<()> {
        let root = self.service.config.root.clone();
        let owns_kernel = self.service.config.owns_kernel;
        self.transfer(id, move |_| state::set(&state, &root, owns_kernel))
    }

    fn quiesce(&mut self, id: RequestId) -> Result<()> {
        self.quiesce = Some(id);
        self.transfer(id, |_| {
            nix::unistd::sync();
            Ok(())
        })
    }

    fn transfer(
        &mut self,
        id: RequestId,
        job: impl FnOnce(&Port) -> std::result::Result<(), Failure> + Send + 'static,
    ) -> Result<()> {
        match Transfer::start(id, &Arc::clone(&self.waker), job) {
            Ok(transfer) => {
                self.transfers.insert(id, transfer);
                Ok(())
            }
            Err(failure) => self.link.send(id, GuestBody::Failed(failure)),
        }
    }

    fn data(&mut self, id: RequestId, bytes: &[u8]) -> Result<()> {
        // Costs no credit, so it must cost no memory.
        if bytes.is_empty() {
            return Ok(());
        }
        let grant = if let Some(command) = self.commands.get_mut(&id) {
            command.input.receive(bytes)?
        } else if let Some(transfer) = self.transfers.get_mut(&id) {
            transfer.receive_data(bytes)?
        } else if let Some(connection) = self.connections.get_mut(&id) {
            let grant = connection.receive(bytes)?;
            self.grant(id, grant)?;
            return self.go_on(id);
        } else {
            None
        };
        self.grant(id, grant)
    }

    fn entry(&mut self, id: RequestId, entry: Entry) -> Result<()> {
        let Some(transfer) = self.transfers.get_mut(&id) else {
            return Ok(());
        };
        let cost = entry.cost();
        let grant = transfer.receive(Part::Entry(entry), cost)?;
        self.grant(id, grant)
    }

    fn grant(&mut self, id: RequestId, grant: Option<u64>) -> Result<()> {
        match grant {
            Some(grant) => self.link.send(id, GuestBody::Credit(grant)),
            None => Ok(()),
        }
    }

    fn end(&mut self, id: RequestId) -> Result<()> {
        if let Some(command) = self.commands.get_mut(&id) {
            command.input.end();
        } else if let Some(transfer) = self.transfers.get_mut(&id) {
            transfer.end();
        } else if let Some(connection) = self.connections.get_mut(&id) {
            connection.end();
            return self.go_on(id);
        }
        Ok(())
    }

    fn credit(&mut self, id: RequestId, stream: Stream, count: u64) -> Result<()> {
        if let Some(command) = self.commands.get_mut(&id) {
            if let Some(output) = command.output(stream) {
                output.granted(count)?;
            }
        } else if let Some(transfer) = self.transfers.get_mut(&id) {
            transfer.granted(count)?;
        } else if let Some(connection) = self.connections.get_mut(&id) {
            connection.granted(count)?;
            return self.go_on(id);
        }
        Ok(())
    }

    fn cancel(&mut self, id: RequestId) -> Result<()> {
        if let Some(command) = self.commands.get_mut(&id) {
            command.kill(Outcome::Cancelled);
            return self.finish(id);
        }
        if let Some(connection) = self.connections.remove(&id) {
            return connection.cancel(id, &mut self.link);
        }
        if self.port_watches.remove(&id).is_some() {
            return self.link.send(id, GuestBody::Done);
        }
        if self.partial.remove(&id).is_some() {
            return self.report_end(id, Outcome::Cancelled);
        }
        if let Some(transfer) = self.transfers.get_mut(&id) {
            transfer.cancel();
        }
        Ok(())
    }
}
