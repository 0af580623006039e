//! State machine of the answers that a request may still get. Any other answer ends the guest's
//! connection.
//!
//! ```text
//!   Exec    Credit* in any place      ─ Started ─ Data* ─ Exit        or Exit alone
//!           whose descendants are followed:       Data* ─ Ended ─ Data* ─ Exit
//!   Write   Credit*                                      ─ Done | Failed
//!   Read    (Entry Data(Stdout)*)*                       ─ Done | Failed
//!   Connect Credit* in any place      ─ Connected ─ Data(Stdout)* ─ End ─ Done, or Failed anywhere
//!   WatchPorts                           Listening*                        ─ Done | Failed
//!   others                                                 Done | Failed
//! ```

use vsock_proto::{GuestBody, HostBody, Stream};

use crate::Loss;

/// Follows one request.
#[derive(Debug)]
pub(crate) struct Answers {
    kind: Kind,
    /// A command has started, or an entry of a tree has come: bytes may follow.
    is_under_way: bool,
    /// The guest may report a command's end before the last of its output.
    may_end_early: bool,
    /// No more bytes may follow.
    has_ended: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Exec,
    Write,
    Read,
    Connect,
    WatchPorts,
    Plain,
}

impl Answers {
    /// The answers to `request`, which starts one.
    pub(crate) fn to(request: &HostBody<'_>) -> Self {
        let kind = match request {
            HostBody::Exec(_) => Kind::Exec,
            HostBody::Write(_) => Kind::Write,
            HostBody::Read(_) => Kind::Read,
            HostBody::Connect(_) => Kind::Connect,
            HostBody::WatchPorts(_) => Kind::WatchPorts,
            _ => Kind::Plain,
        };
        let may_end_early = matches!(request, HostBody::Exec(exec) if exec.follow_descendants);
        Self { kind, is_under_way: false, may_end_early, has_ended: false }
    }

    /// Whether the request is a command, which ends with `Exit`.
    pub(crate) fn is_exec(&self) -> bool {
        self.kind == Kind::Exec
    }

    /// Records an answer; an error if the protocol does not allow it now.
    pub(crate) fn accept(&mut self, answer: &GuestBody<'_>) -> Result<(), Loss> {
        let is_allowed = match (self.kind, answer) {
            (Kind::Exec, GuestBody::Started(_)) => !std::mem::replace(&mut self.is_under_way, true),
            (Kind::Exec, GuestBody::Data(..)) => self.is_under_way,
            (Kind::Exec, GuestBody::Ended(_)) => {
                self.is_under_way && std::mem::replace(&mut self.may_end_early, false)
            }
            (Kind::Exec, GuestBody::Exit(_)) => true,
            (Kind::Exec | Kind::Write, GuestBody::Credit(count)) => *count > 0,
            (Kind::Read, GuestBody::Entry(_)) => {
                self.is_under_way = true;
                true
            }
            (Kind::Read, GuestBody::Data(Stream::Stdout, _)) => self.is_under_way,
            (Kind::Connect, GuestBody::Connected) => {
                !std::mem::replace(&mut self.is_under_way, true)
            }
            (Kind::Connect, GuestBody::Data(Stream::Stdout, _)) => {
                self.is_under_way && !self.has_ended
            }
            (Kind::Connect, GuestBody::End) => {
                self.is_under_way && !std::mem::replace(&mut self.has_ended, true)
            }
            (Kind::Connect, GuestBody::Credit(count)) => self.is_under_way && *count > 0,
            (Kind::Connect, GuestBody::Done) => self.has_ended,
            (Kind::Connect, GuestBody::Failed(_)) => true,
            (
                Kind::WatchPorts,
                GuestBody::Listening(_) | GuestBody::Done | GuestBody::Failed(_),
            ) => true,
            (Kind::Write | Kind::Read | Kind::Plain, GuestBody::Done | GuestBody::Failed(_)) => {
                true
            }
            _ => false,
        };
        if is_allowed {
            return Ok(());
        }
        Err(Loss::Unexpected { message: name(answer), place: self.place() })
    }

    fn place(&self) -> &'static str {
        match (self.kind, self.is_under_way) {
            (Kind::Exec, false) => "before a command starts",
            (Kind::Exec, true) => "while a command runs",
            (Kind::Write, _) => "while a tree is written",
            (Kind::Read, _) => "while a tree is read",
            (Kind::Connect, _) => "about a connection to a port",
            (Kind::WatchPorts, _) => "while ports are watched",
            (Kind::Plain, _) => "as an answer to a simple request",
        }
    }
}

fn name(answer: &GuestBody<'_>) -> &'static str {
    match answer {
        GuestBody::Ready(_) => "`Ready`",
        GuestBody::Started(_) => "`Started`",
        GuestBody::Data(..) => "`Data`",
        GuestBody::Entry(_) => "`Entry`",
        GuestBody::Credit(_) => "`Credit`",
        GuestBody::Exit(_) => "`Exit`",
        GuestBody::Ended(_) => "`Ended`",
        GuestBody::Done => "`Done`",
        GuestBody::Failed(_) => "`Failed`",
        GuestBody::Connected => "`Connected`",
        GuestBody::End => "`End`",
        GuestBody::Listening(_) => "`Listening`",
    }
}

#[cfg(test)]
mod tests {
    use vsock_proto::{Exec, Exit, Outcome, Read, StreamTotal};

    use super::*;

    fn exit() -> Exit {
        let (stdout, stderr) = (StreamTotal::default(), StreamTotal::default());
        let outcome = Outcome::Exited { code: 0 };
        Exit { outcome, stdout, stderr, duration_us: 0, oom_kills: 0 }
    }

    #[test]
    fn output_comes_after_the_start() {
        let mut answers = Answers::to(&HostBody::Exec(Exec::default()));
        let data = GuestBody::Data(Stream::Stderr, b"x");
        assert!(answers.accept(&data).is_err());
        answers.accept(&GuestBody::Started(1)).unwrap();
        answers.accept(&data).unwrap();
    }

    #[test]
    fn a_command_starts_once() {
        let mut answers = Answers::to(&HostBody::Exec(Exec::default()));
        answers.accept(&GuestBody::Started(1)).unwrap();
        let error = answers.accept(&GuestBody::Started(2)).unwrap_err();
        let text = "it broke the protocol: `Started` is not allowed while a command runs";
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn an_early_end_comes_once_and_only_where_descendants_are_followed() {
        let ended = || GuestBody::Ended(exit());
        let mut plain = Answers::to(&HostBody::Exec(Exec::default()));
        plain.accept(&GuestBody::Started(1)).unwrap();
        assert!(plain.accept(&ended()).is_err());

        let follow = Exec { follow_descendants: true, ..Exec::default() };
        let mut followed = Answers::to(&HostBody::Exec(follow));
        assert!(followed.accept(&ended()).is_err());
        followed.accept(&GuestBody::Started(1)).unwrap();
        followed.accept(&ended()).unwrap();
        followed.accept(&GuestBody::Data(Stream::Stdout, b"x")).unwrap();
        assert!(followed.accept(&ended()).is_err());
        followed.accept(&GuestBody::Exit(exit())).unwrap();
    }

    #[test]
    fn a_command_is_not_done_but_exits() {
        let mut answers = Answers::to(&HostBody::Exec(Exec::default()));
        assert!(answers.accept(&GuestBody::Done).is_err());
    }

    #[test]
    fn bytes_of_a_tree_need_an_entry_and_are_not_errors() {
        let mut answers = Answers::to(&HostBody::Read(Read::default()));
        assert!(answers.accept(&GuestBody::Data(Stream::Stdout, b"x")).is_err());
        assert!(answers.accept(&GuestBody::Data(Stream::Stderr, b"x")).is_err());
    }

    #[test]
    fn credit_of_nothing_is_refused() {
        let mut answers = Answers::to(&HostBody::Exec(Exec::default()));
        assert!(answers.accept(&GuestBody::Credit(0)).is_err());
    }
}
