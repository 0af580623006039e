//! One request's state: the reactor stores the guest's answers, and callers wait for them.

use std::sync::Arc;

use base::event::Event;
use vsock_proto::{Exit, Failure, GuestBody, HostBody, Outcome, SendWindow};

use super::queue::Queue;
use crate::deadline::Deadline;
use crate::error::{Halt, Loss, Refusal};
use crate::monitor::Monitor;
use crate::wire::answers::Answers;
use crate::wire::text::{TEXT, printable};

#[derive(Debug)]
pub(crate) struct Request {
    state: Monitor<State>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) queue: Queue,
    /// The credit for sending.
    pub(crate) input: SendWindow,
    /// The command's, once it has started.
    pub(crate) pid: Option<u32>,
    pub(crate) end: Option<End>,
    answers: Answers,
    loss: Option<Arc<Loss>>,
}

/// The guest's final answer to a request.
#[derive(Debug, Clone)]
pub(crate) enum End {
    Exit(Exit),
    Done,
    Failed(Refusal),
}

impl Request {
    pub(crate) fn new(request: &HostBody<'_>) -> Self {
        Self {
            state: Monitor::new(State {
                queue: Queue::default(),
                input: SendWindow::default(),
                pid: None,
                end: None,
                answers: Answers::to(request),
                loss: None,
            }),
        }
    }

    /// Stores an answer. An error is a protocol violation by the guest and ends its connection.
    pub(crate) fn deliver(&self, answer: GuestBody<'_>) -> Result<(), Loss> {
        self.state.update(|state| state.deliver(answer))
    }

    /// Records that the guest is lost; callers may still take its earlier answers.
    pub(crate) fn fail(&self, loss: &Arc<Loss>) {
        self.state.update(|state| state.loss = Some(Arc::clone(loss)));
    }

    /// Waits until `take` has a result.
    pub(crate) fn wait<R>(
        &self,
        deadline: &Deadline,
        mut take: impl FnMut(&mut State) -> Option<R>,
    ) -> Result<R, Halt> {
        self.state.wait(deadline, |state| match take(state) {
            Some(result) => Some(Ok(result)),
            None => state.loss.clone().map(|loss| Err(Halt::Lost(loss))),
        })?
    }

    /// Sets `event` at each change, while it lives.
    pub(crate) fn notify(&self, event: &Arc<Event>) {
        self.state.notify(event);
    }

    /// Reads the state without waiting.
    pub(crate) fn with<R>(&self, look: impl FnOnce(&mut State) -> R) -> R {
        self.state.with(look)
    }
}

impl State {
    /// Whether there is nothing left that the guest could be told.
    pub(crate) fn is_over(&self) -> bool {
        self.end.is_some() || self.loss.is_some()
    }

    fn deliver(&mut self, answer: GuestBody<'_>) -> Result<(), Loss> {
        self.answers.accept(&answer)?;
        match answer {
            GuestBody::Started(pid) => self.pid = Some(pid),
            GuestBody::Data(stream, bytes) => self.queue.push_output(stream, bytes)?,
            GuestBody::Entry(entry) => self.queue.push_entry(entry)?,
            GuestBody::Credit(count) => self.input.granted(count)?,
            GuestBody::Ended(exit) => self.queue.push_end(bounded(exit)),
            GuestBody::Exit(exit) => self.end = Some(End::Exit(bounded(exit))),
            GuestBody::Done => self.end = Some(End::Done),
            GuestBody::Failed(failure) => self.end = Some(End::Failed(failure.into())),
            // Never accepted above.
            GuestBody::Ready(_)
            | GuestBody::Connected
            | GuestBody::End
            | GuestBody::Listening(_) => {}
        }
        Ok(())
    }
}

impl From<Failure> for Refusal {
    fn from(Failure { errno, message }: Failure) -> Self {
        Self { errno, message: printable(message, TEXT) }
    }
}

fn bounded(mut exit: Exit) -> Exit {
    if let Outcome::FailedToStart { message, .. } = &mut exit.outcome {
        *message = printable(std::mem::take(message), TEXT);
    }
    exit
}

#[cfg(test)]
mod tests {
    use vsock_proto::{Exec, Stream, WINDOW};

    use super::*;

    #[test]
    fn what_came_before_the_loss_is_still_there() {
        let request = Request::new(&HostBody::Exec(Exec::default()));
        request.deliver(GuestBody::Started(1)).unwrap();
        request.deliver(GuestBody::Data(Stream::Stdout, b"last words")).unwrap();
        request.fail(&Arc::new(Loss::Closed));
        let take = || request.wait(&Deadline::new(None), |state| state.queue.pop());
        assert!(take().is_ok());
        assert!(matches!(take(), Err(Halt::Lost(_))));
    }

    #[test]
    fn bytes_over_the_window_are_the_guests_fault() {
        let request = Request::new(&HostBody::Exec(Exec::default()));
        request.deliver(GuestBody::Started(1)).unwrap();
        let bytes = vec![0; WINDOW as usize + 1];
        let result = request.deliver(GuestBody::Data(Stream::Stdout, &bytes));
        assert!(matches!(result, Err(Loss::Protocol { .. })));
    }

    #[test]
    fn credit_that_was_never_used_is_the_guests_fault() {
        let request = Request::new(&HostBody::Exec(Exec::default()));
        let result = request.deliver(GuestBody::Credit(1));
        assert!(matches!(result, Err(Loss::Protocol { .. })));
    }
}
