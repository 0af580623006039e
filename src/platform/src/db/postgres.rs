//! The shared store: PostgreSQL, through libpq.
//!
//! A transaction runs on a connection of a small pool, in the thread of its caller. Its isolation is READ
//! COMMITTED with explicit locks for writes, and one snapshot for reads: see the decision
//! `postgres-locks-rows.md`. Every call has a deadline.
//!
//! | failure | what happens |
//! |---|---|
//! | serialization failure, deadlock, a row that came or went | the transaction is run again, a few times |
//! | the connection is lost, the server restarts or is a standby by now | it is run again on another connection, until the deadline |
//! | the connection is lost in COMMIT | as above, except for [`Db::write_once`](super::Db::write_once): an error |
//! | the deadline passes | an error; the connection is closed |

mod client;
mod error;
mod listener;
mod migration;
mod pool;
mod sys;
mod target;
mod transaction;
mod wire;

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use base::backoff::Backoff;
use base::event::Event;

use self::error::{PgError, Remedy};
pub(crate) use self::listener::Listener;
use self::pool::Pool;
use self::target::Target;
use self::transaction::Transaction;
use super::failure::{Failure, Outcome};
use super::tx::{Mode, Tx};
use crate::clock::now_ms;
use crate::config::ConnectionString;
use crate::{Error, Result};

/// How long an operation may take with all its repetitions: clients wait for the reply.
const OPERATION: Duration = Duration::from_secs(20);

/// How long the migrations may take, also those that another platform runs.
const MIGRATION: Duration = Duration::from_secs(10 * 60);

/// How often a transaction is run that others were in the way of.
const MOST_CONFLICTS: u32 = 20;

/// The delays between repetitions.
const FIRST_DELAY: Duration = Duration::from_millis(2);
const LONGEST_DELAY: Duration = Duration::from_millis(500);

/// The database.
pub(crate) struct Postgres {
    pool: Pool,
    name: String,
    /// The database's clock minus this host's, as of the last transaction.
    ahead: AtomicI64,
}

impl Postgres {
    /// Connects, and brings the schema up to date.
    pub(super) fn open(connection: &ConnectionString) -> Result<Self> {
        let target = parse(connection)?;
        let name = target.name.clone();
        let postgres = Self { pool: Pool::new(target), name, ahead: AtomicI64::new(0) };
        let deadline = Instant::now() + MIGRATION;
        // Not repeated: who starts a platform learns at once that its database cannot be used.
        let migrate = || {
            let client = postgres.pool.take(deadline)?;
            migration::run(&mut client.get()?.borrow_mut(), &postgres.name, deadline)
        };
        migrate().map_err(|failure| failure.into_error("open", &postgres.name))?;
        Ok(postgres)
    }

    /// Runs `work` in transactions until one of them succeeds.
    pub(super) fn transact<T>(
        &self,
        operation: &'static str,
        mode: Mode,
        work: &dyn Fn(&Tx<'_>) -> Outcome<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + OPERATION;
        self.repeated(operation, mode, deadline, || self.attempt(mode, deadline, work))
    }

    fn attempt<T>(
        &self,
        mode: Mode,
        deadline: Instant,
        work: &dyn Fn(&Tx<'_>) -> Outcome<T>,
    ) -> Outcome<T> {
        let client = self.pool.take(deadline)?;
        let transaction = Transaction::begin(client.get()?, mode, deadline)?;
        self.ahead.store(transaction.now().saturating_sub(now_ms()), Ordering::Relaxed);
        let done = work(&Tx::new(&transaction, mode, transaction.now()));
        match done {
            Ok(result) => transaction.commit().map(|()| result),
            Err(failure) => {
                transaction.roll_back();
                Err(failure)
            }
        }
    }

    fn repeated<T>(
        &self,
        operation: &'static str,
        mode: Mode,
        deadline: Instant,
        mut attempt: impl FnMut() -> Outcome<T>,
    ) -> Result<T> {
        let mut backoff = Backoff::new(FIRST_DELAY, LONGEST_DELAY);
        let mut conflicts = 0;
        loop {
            let failure = match attempt() {
                Ok(result) => return Ok(result),
                Err(failure) => failure,
            };
            let remedy = match PgError::of(&failure) {
                Some(PgError::Uncertain { .. }) if mode == Mode::WriteOnce => Remedy::None,
                Some(error) => error.remedy(),
                None => Remedy::None,
            };
            conflicts += u32::from(remedy == Remedy::Repeat);
            let next = Instant::now() + backoff.delay();
            if remedy == Remedy::None || conflicts >= MOST_CONFLICTS || next >= deadline {
                return Err(failure.into_error(operation, &self.name));
            }
            log::debug!("{operation} is repeated; reason={failure:?}");
            if !self.pool.pause(next) {
                return Err(Error::Stopped);
            }
        }
    }

    /// A connection that listens to the notifications of other platforms.
    pub(super) fn listen(&self) -> Result<Listener> {
        self.named("listen", Listener::connect(self.pool.target()))
    }

    pub(super) fn send(&self, listener: &mut Listener, payload: &str) -> Result<()> {
        self.named("notify others", listener.send(payload))
    }

    pub(super) fn hear(
        &self,
        listener: &mut Listener,
        event: &Event,
        deadline: Instant,
    ) -> Result<Vec<String>> {
        self.named("listen", listener.wait(event, deadline))
    }

    fn named<T>(
        &self,
        operation: &'static str,
        done: std::result::Result<T, PgError>,
    ) -> Result<T> {
        done.map_err(|error| Failure::from(error).into_error(operation, &self.name))
    }

    /// The database's clock, in milliseconds since 1970, without asking it.
    pub(super) fn now(&self) -> i64 {
        now_ms().saturating_add(self.ahead.load(Ordering::Relaxed))
    }

    /// Ends all waits for connections and repetitions.
    pub(super) fn stop(&self) {
        self.pool.stop();
    }
}

impl ConnectionString {
    /// Whether it has a password, or what is wrong with it.
    pub fn has_password(&self) -> Result<bool> {
        parse(self).map(|target| target.has_password())
    }
}

fn parse(connection: &ConnectionString) -> Result<Target> {
    Target::parse(connection.as_str()).map_err(|reason| Error::BadConnectionString { reason })
}
