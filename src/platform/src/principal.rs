//! Who makes a request of `/v1`: what a request may see and do depends on it alone.

use http_server::Account;

use crate::Refusal;

/// Separates a submitter's name from names that it chose: no name of a token has it.
const SEPARATOR: char = '\u{1}';

/// The sender of a request of `/v1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Principal {
    /// A user of the Unix socket.
    Host,
    /// An operator, by the name of the token.
    Operator(String),
    /// A submitter, by the name of the token.
    Submitter(String),
}

impl Principal {
    /// The name of the token.
    pub(crate) fn name(&self) -> Option<&str> {
        match self {
            Self::Host => None,
            Self::Operator(name) | Self::Submitter(name) => Some(name),
        }
    }

    /// The submitter whose jobs alone are visible, if not all are.
    pub(crate) fn submitter(&self) -> Option<&str> {
        match self {
            Self::Host | Self::Operator(_) => None,
            Self::Submitter(name) => Some(name),
        }
    }

    /// Rejects a submitter.
    pub(crate) fn check_operator(&self) -> Result<(), Refusal> {
        match self {
            Self::Host | Self::Operator(_) => Ok(()),
            Self::Submitter(name) => Err(Refusal::WrongRole {
                name: name.clone(),
                found: "submitter",
                wanted: "operator",
            }),
        }
    }

    /// A name that the principal chose, as the database has it: those of a submitter are its own.
    pub(crate) fn scoped(&self, name: &str) -> String {
        match self.submitter() {
            Some(submitter) => format!("{}{name}", scope(submitter)),
            None => name.to_owned(),
        }
    }

    /// The account that the memory of request bodies is charged to.
    pub(crate) fn account(&self) -> Account {
        match self.submitter() {
            Some(submitter) => Account::Client(format!("submitter {submitter}")),
            None => Account::Trusted,
        }
    }
}

/// What the names of a submitter begin with in the database.
pub(crate) fn scope(submitter: &str) -> String {
    format!("{submitter}{SEPARATOR}")
}
