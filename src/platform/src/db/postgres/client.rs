//! One connection to PostgreSQL: statements with a deadline.
//!
//! A call waits for the socket in poll(2), until its deadline. After a failure that leaves the
//! connection's state unknown, [`Client::is_reusable`] is false and the connection is dropped.

use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use base::deadline::poll_until;
use nix::poll::{PollFd, PollFlags};

use super::error::PgError;
use super::sys::{Answer, Oid, Progress, RawConnection, RawNotification};
use super::target::Target;
use super::wire;
use crate::db::dialect::Dialect;
use crate::db::tx::Parameters;

/// How long one host may take to connect: then the next one is tried.
const CONNECT: Duration = Duration::from_secs(5);

/// The most prepared statements of a connection.
const MOST_PREPARED: usize = 512;

/// The least version of the server.
const LEAST_VERSION: i32 = 140_000;

/// Limits on the server's side, in case that this process dies or is cut off within a transaction.
const SESSION: &str = "SET statement_timeout = '25s'; SET lock_timeout = '25s'; \
                       SET idle_in_transaction_session_timeout = '30s'; \
                       SET client_connection_check_interval = '2s'";

type Result<T> = std::result::Result<T, PgError>;

/// An established connection.
pub(super) struct Client {
    raw: RawConnection,
    prepared: HashMap<String, CString>,
}

impl Client {
    /// Connects to the first host that answers and fits.
    pub(super) fn connect(target: &Target, deadline: Instant) -> Result<Self> {
        let mut failed = PgError::Deadline { phase: "connecting" };
        for host in &target.hosts {
            let until = deadline.min(Instant::now() + CONNECT);
            match Self::establish(host, until) {
                Ok(client) => return Ok(client),
                Err(error) => failed = error,
            }
            if deadline <= Instant::now() {
                break;
            }
        }
        Err(failed)
    }

    fn establish(host: &[(CString, CString)], deadline: Instant) -> Result<Self> {
        let Some(mut raw) = RawConnection::start(host) else {
            return Err(PgError::Lost { message: "no memory for a connection".into() });
        };
        let lost = |raw: &RawConnection| PgError::Lost { message: raw.error() };
        let mut progress = Progress::Writable;
        if raw.socket().is_none() {
            return Err(lost(&raw));
        }
        loop {
            let flags = match progress {
                Progress::Readable => PollFlags::POLLIN,
                Progress::Writable => PollFlags::POLLOUT,
                Progress::Established => break,
                Progress::Failed => return Err(lost(&raw)),
            };
            wait(&raw, flags, deadline, "connecting")?;
            progress = raw.progress();
        }
        if !raw.set_nonblocking() {
            return Err(lost(&raw));
        }
        let found = raw.server_version();
        if found < LEAST_VERSION {
            return Err(PgError::OldServer { found: found / 10_000 });
        }
        let encoding = raw.parameter(c"server_encoding");
        if encoding != "UTF8" {
            return Err(PgError::Encoding { encoding });
        }
        let mut client = Self { raw, prepared: HashMap::new() };
        client.simple(SESSION, deadline)?;
        Ok(client)
    }

    /// Runs statements without parameters, and returns the result of each.
    pub(super) fn simple(&mut self, sql: &str, deadline: Instant) -> Result<Vec<Answer>> {
        let sql = c_string(sql)?;
        if !self.raw.send_simple(&sql) {
            return Err(self.lost());
        }
        self.results(deadline)
    }

    /// Runs a statement, which is prepared on its first use.
    pub(super) fn run(
        &mut self,
        sql: &str,
        parameters: Parameters<'_>,
        deadline: Instant,
    ) -> Result<Answer> {
        let (types, values) = wire::parameters(parameters);
        let name = self.prepare(sql, &types, deadline)?;
        if !self.raw.send_prepared(&name, &values) {
            return Err(self.lost());
        }
        let results = self.results(deadline)?;
        results.into_iter().next().ok_or_else(|| self.lost())
    }

    fn prepare(&mut self, sql: &str, types: &[Oid], deadline: Instant) -> Result<CString> {
        // NULL has no type of its own, so one text may be several statements.
        let mut key = String::with_capacity(sql.len() + types.len());
        key.extend(types.iter().map(|kind| if *kind == 0 { '0' } else { '1' }));
        key.push_str(sql);
        if let Some(name) = self.prepared.get(&key) {
            return Ok(name.clone());
        }
        if self.prepared.len() >= MOST_PREPARED {
            self.simple("DEALLOCATE ALL", deadline)?;
            self.prepared.clear();
        }
        let name = c_string(&format!("s{}", self.prepared.len()))?;
        let text = c_string(&Dialect::Postgres.statement(sql))?;
        if !self.raw.send_prepare(&name, &text, types) {
            return Err(self.lost());
        }
        self.results(deadline)?;
        self.prepared.insert(key, name.clone());
        Ok(name)
    }

    /// All results of what was sent; the first error, after the others were read.
    fn results(&mut self, deadline: Instant) -> Result<Vec<Answer>> {
        let mut answers = Vec::new();
        let mut failed = None;
        loop {
            while self.raw.is_busy() {
                self.transfer(deadline)?;
            }
            match self.raw.result() {
                None => break,
                Some(answer) if answer.is_ok() => answers.push(answer),
                Some(answer) => {
                    let (state, message) = (answer.state(), answer.message());
                    failed.get_or_insert(PgError::Sql { state, message });
                    if !self.raw.is_usable() {
                        break;
                    }
                }
            }
        }
        if !self.raw.is_usable() {
            // What was answered counts, also if the connection ended right after it.
            return if failed.is_none() && !answers.is_empty() {
                Ok(answers)
            } else {
                Err(PgError::Lost {
                    message: failed.map_or_else(|| self.raw.error(), |e| e.to_string()),
                })
            };
        }
        failed.map_or(Ok(answers), Err)
    }

    /// Sends and receives what is possible, after waiting for it.
    fn transfer(&mut self, deadline: Instant) -> Result<()> {
        let flags = match self.raw.flush() {
            Some(true) => PollFlags::POLLIN,
            Some(false) => PollFlags::POLLIN | PollFlags::POLLOUT,
            None => return Err(self.lost()),
        };
        wait(&self.raw, flags, deadline, "waiting for an answer")?;
        if self.raw.consume() { Ok(()) } else { Err(self.lost()) }
    }

    /// Whether the next transaction may use it: it is established, nothing is under way on it, and the
    /// server has not closed it since.
    pub(super) fn is_reusable(&mut self) -> bool {
        self.is_idle() && self.raw.consume() && self.raw.is_usable()
    }

    /// Reads what has arrived, and returns the notifications in it.
    pub(super) fn notifications(&mut self) -> Result<Vec<RawNotification>> {
        if !self.raw.consume() {
            return Err(self.lost());
        }
        Ok(std::iter::from_fn(|| self.raw.notification()).collect())
    }

    pub(super) fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.raw.socket()
    }

    /// The number of the server's process for this connection.
    pub(super) fn server_process(&self) -> i32 {
        self.raw.server_process()
    }

    /// Whether it is established, without a transaction or a statement under way.
    pub(super) fn is_idle(&self) -> bool {
        self.raw.is_usable() && self.raw.is_idle()
    }

    pub(super) fn lost(&self) -> PgError {
        PgError::Lost { message: self.raw.error() }
    }
}

/// Waits for the socket.
fn wait(
    raw: &RawConnection,
    flags: PollFlags,
    deadline: Instant,
    phase: &'static str,
) -> Result<()> {
    let Some(socket) = raw.socket() else {
        return Err(PgError::Lost { message: raw.error() });
    };
    match poll_until(&mut [PollFd::new(socket, flags)], Some(deadline)) {
        Ok(0) => Err(PgError::Deadline { phase }),
        Ok(_) => Ok(()),
        Err(errno) => Err(PgError::Lost { message: errno.to_string() }),
    }
}

fn c_string(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| PgError::Lost { message: "a statement has a NUL byte".into() })
}
