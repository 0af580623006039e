//! The events of a subscription.

use std::fmt;

use crate::message::Message;

/// An event. [`Event::Failed`] is the last one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The channel is attached: messages are delivered from now on.
    Connected,
    /// A message was published.
    Message(Message),
    /// No messages are delivered until the next [`Event::Connected`]. Reported once, however many attempts
    /// the reconnect takes.
    Disconnected {
        /// The reason, for people.
        reason: String,
    },
    /// Messages before the next one may have been lost. The subscriber must get their information elsewhere.
    Gap(Gap),
    /// The subscription has ended: a retry would not help.
    Failed(Failure),
}

/// Why messages may have been lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Gap {
    /// The server could not resume the lost connection.
    NotResumed,
    /// The queue of events was full.
    Overflow,
    /// A frame was larger than allowed.
    TooLarge,
    /// A message could not be decoded.
    Unreadable,
}

/// Why a subscription ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failure {
    /// Ably's code.
    pub code: u32,
    /// What happened.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

impl Failure {
    /// A failure of a subscription to `channel`.
    pub(crate) fn new(code: u32, message: String, channel: &str) -> Self {
        Self { code, message, remedy: remedy(code, channel) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.message, self.remedy)
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotResumed => "the server could not resume the lost connection",
            Self::Overflow => "the queue of events was full",
            Self::TooLarge => "a frame was larger than allowed",
            Self::Unreadable => "a message could not be decoded",
        })
    }
}

fn remedy(code: u32, channel: &str) -> String {
    match code {
        40160..=40169 => {
            format!("have tokens issued with the capability to subscribe to `{channel}`")
        }
        80019 => format!("allow this client at the source of token requests for `{channel}`"),
        40100..=40139 => "check the key that token requests are signed with".into(),
        40300..=40399 => "check that the account and the key are enabled".into(),
        40400..=40499 => "check that the key's application and the host belong together".into(),
        40170..=40179 => "check what the source of token requests puts into them".into(),
        40010 => format!("give the channel a name that Ably takes, unlike `{channel}`"),
        42910..=42929 => "raise the account's limits, or use less".into(),
        _ => format!("look up https://help.ably.io/error/{code}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_its_remedy() {
        let failure = Failure::new(40_160, "the server refused".into(), "jobs");

        assert_eq!(
            failure.to_string(),
            "the server refused; have tokens issued with the capability to subscribe to `jobs`"
        );
    }
}
