//! One transaction on one connection.

use std::cell::RefCell;
use std::time::Instant;

use super::client::Client;
use super::error::{PgError, Remedy};
use super::sys::Answer;
use super::wire::{self, AnswerRow};
use crate::db::dialect::Dialect;
use crate::db::failure::{Failure, Outcome};
use crate::db::tx::{Mode, Parameters, Row, Store, Visit};

/// The milliseconds since 1970 by the database's clock.
const CLOCK: &str = "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)";

/// A transaction. One that is neither committed nor rolled back ends with its connection.
pub(super) struct Transaction<'a> {
    client: &'a RefCell<Client>,
    deadline: Instant,
    mode: Mode,
    now: i64,
}

impl<'a> Transaction<'a> {
    pub(super) fn begin(
        client: &'a RefCell<Client>,
        mode: Mode,
        deadline: Instant,
    ) -> Result<Self, PgError> {
        let begin = match mode {
            Mode::Read => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
            Mode::Write | Mode::WriteOnce => "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE",
            Mode::WriteRelaxed => {
                "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL synchronous_commit = off"
            }
        };
        // In one message, so that the clock costs no round trip.
        let answers = client.borrow_mut().simple(&format!("{begin}; {CLOCK}"), deadline)?;
        let what = "time";
        let now = answers.last().ok_or(PgError::BadReply { what })?;
        let now = wire::number(now, what)?;
        Ok(Self { client, deadline, mode, now })
    }

    pub(super) fn now(&self) -> i64 {
        self.now
    }

    fn run(&self, sql: &str, parameters: Parameters<'_>) -> Result<Answer, PgError> {
        self.client.borrow_mut().run(sql, parameters, self.deadline)
    }

    /// Commits. An error that leaves unknown whether it is committed is [`PgError::Uncertain`].
    pub(super) fn commit(self) -> Outcome<()> {
        let answers = self.client.borrow_mut().simple("COMMIT", self.deadline);
        match answers {
            Ok(answers) if answers.iter().any(|answer| answer.tag() == "COMMIT") => Ok(()),
            // A statement failed, and its error was not passed on.
            Ok(_) => Err(PgError::BadReply { what: "commit" }.into()),
            Err(error) if self.mode == Mode::Read => Err(error.into()),
            Err(error) => Err(unknown(error)),
        }
    }

    pub(super) fn roll_back(self) {
        // If this fails the connection is not idle, and is closed.
        if let Err(error) = self.client.borrow_mut().simple("ROLLBACK", self.deadline) {
            log::debug!("cannot roll a transaction back; error={error}");
        }
    }
}

impl Store for Transaction<'_> {
    fn dialect(&self) -> Dialect {
        Dialect::Postgres
    }

    fn execute(&self, sql: &str, parameters: Parameters<'_>) -> Outcome<usize> {
        Ok(self.run(sql, parameters)?.changed())
    }

    fn each(&self, sql: &str, parameters: Parameters<'_>, visit: Visit<'_>) -> Outcome<()> {
        let answer = self.run(sql, parameters)?;
        for row in 0..answer.rows() {
            if !visit(&Row(&AnswerRow { answer: &answer, row }))? {
                break;
            }
        }
        Ok(())
    }
}

/// An error of a commit.
fn unknown(error: PgError) -> Failure {
    let is_unknown =
        matches!(error, PgError::Deadline { .. }) || error.remedy() == Remedy::Reconnect;
    if is_unknown { PgError::Uncertain { message: error.to_string() } } else { error }.into()
}
