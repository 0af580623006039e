//! The step that a call waits for.

use std::fmt;

/// Completes "the guest is to …"; part of every error of a call that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// To open a connection.
    Dial,
    /// To send its hello.
    Hello,
    /// To be ready for requests.
    Ready,
    /// To answer a ping.
    Ping,
    /// To start a command.
    Start {
        /// Its first argument.
        program: String,
    },
    /// To send a command's next output, or its end.
    Output {
        /// Its first argument.
        program: String,
    },
    /// To report a command's end.
    Finish {
        /// Its first argument.
        program: String,
    },
    /// To take a command's input.
    Input {
        /// Its first argument.
        program: String,
    },
    /// To take a signal or another small message for a command.
    Control {
        /// Its first argument.
        program: String,
    },
    /// To take the next piece of a tree.
    Write {
        /// The tree's path in the guest.
        path: String,
    },
    /// To have written all of a tree.
    Complete {
        /// The tree's path in the guest.
        path: String,
    },
    /// To send the next piece of a tree.
    Read {
        /// The tree's path in the guest.
        path: String,
    },
    /// To open a connection to one of its ports.
    Connect {
        /// The port.
        port: u16,
    },
    /// To set clock, entropy and names.
    SetState,
    /// To quiesce.
    Quiesce,
    /// To power off.
    Shutdown,
    /// To serve a client of the control socket.
    Relay,
}

impl fmt::Display for Phase {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dial => formatter.write_str("connect"),
            Self::Hello => formatter.write_str("say hello"),
            Self::Ready => formatter.write_str("be ready"),
            Self::Ping => formatter.write_str("answer a ping"),
            Self::Start { program } => write!(formatter, "start `{program}`"),
            Self::Output { program } => write!(formatter, "send output of `{program}`"),
            Self::Finish { program } => write!(formatter, "finish `{program}`"),
            Self::Input { program } => write!(formatter, "take input for `{program}`"),
            Self::Control { program } => write!(formatter, "take a message for `{program}`"),
            Self::Write { path } => write!(formatter, "take files for `{path}`"),
            Self::Complete { path } => write!(formatter, "finish writing `{path}`"),
            Self::Read { path } => write!(formatter, "read `{path}`"),
            Self::Connect { port } => write!(formatter, "connect to its port {port}"),
            Self::SetState => formatter.write_str("set its state"),
            Self::Quiesce => formatter.write_str("quiesce"),
            Self::Shutdown => formatter.write_str("shut down"),
            Self::Relay => formatter.write_str("serve a client"),
        }
    }
}
