//! libpq, as safe types: a connection, a result, a notification. No call here blocks, except that the
//! start of a connection resolves names.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};

use pq_sys as pq;

/// A type's number in the catalog of PostgreSQL.
pub(super) type Oid = pq::Oid;

/// A connection, perhaps one that is not established.
pub(super) struct RawConnection(NonNull<pq::PGconn>);

// SAFETY: libpq keeps no state of a connection outside of its PGconn, and documents that a PGconn may be
// used by any thread as long as no two use it at once. The type is not Sync, and no method gives out
// anything that outlives its borrow.
unsafe impl Send for RawConnection {}

/// What the start of a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    Readable,
    Writable,
    Established,
    Failed,
}

/// A notification of another connection, or of this one.
#[derive(Debug)]
pub(super) struct RawNotification {
    pub(super) sender: i32,
    pub(super) payload: String,
}

impl RawConnection {
    /// Begins to connect. `None` without memory.
    pub(super) fn start(parameters: &[(CString, CString)]) -> Option<Self> {
        let terminated = |pick: fn(&(CString, CString)) -> &CString| {
            let pointers = parameters.iter().map(|pair| pick(pair).as_ptr());
            pointers.chain([ptr::null()]).collect::<Vec<_>>()
        };
        let (names, values) = (terminated(|pair| &pair.0), terminated(|pair| &pair.1));
        // SAFETY: both arrays have the same length, end with a null pointer, and like the strings that they
        // point to they live until the call has returned; libpq copies them.
        let connection = unsafe { pq::PQconnectStartParams(names.as_ptr(), values.as_ptr(), 0) };
        let connection = Self(NonNull::new(connection)?);
        // SAFETY: the connection is valid, and `log_notice` uses its arguments only while it is called.
        // Without it libpq would print notices on standard error.
        unsafe {
            pq::PQsetNoticeProcessor(connection.0.as_ptr(), Some(log_notice), ptr::null_mut())
        };
        Some(connection)
    }

    /// Goes on with the start of the connection. The first call is as after [`Progress::Writable`].
    pub(super) fn progress(&mut self) -> Progress {
        // SAFETY: the pointer is that of a live connection, as it is finished only by `drop`.
        match unsafe { pq::PQconnectPoll(self.0.as_ptr()) } {
            pq::PostgresPollingStatusType::PGRES_POLLING_READING => Progress::Readable,
            pq::PostgresPollingStatusType::PGRES_POLLING_WRITING => Progress::Writable,
            pq::PostgresPollingStatusType::PGRES_POLLING_OK => Progress::Established,
            _ => Progress::Failed,
        }
    }

    /// Whether the connection is established, as far as is known without I/O.
    pub(super) fn is_usable(&self) -> bool {
        // SAFETY: see `progress`.
        unsafe { pq::PQstatus(self.0.as_ptr()) == pq::ConnStatusType::CONNECTION_OK }
    }

    /// Whether no transaction is open and no statement is under way.
    pub(super) fn is_idle(&self) -> bool {
        // SAFETY: see `progress`.
        let status = unsafe { pq::PQtransactionStatus(self.0.as_ptr()) };
        status == pq::PGTransactionStatusType::PQTRANS_IDLE
    }

    /// The socket, which may be another one after [`RawConnection::progress`].
    pub(super) fn socket(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: see `progress`.
        let fd = unsafe { pq::PQsocket(self.0.as_ptr()) };
        // SAFETY: a descriptor that is not negative is open until libpq closes it, which it does only in
        // calls that take the connection mutably; the borrow of `self` excludes these.
        (fd >= 0).then(|| unsafe { BorrowedFd::borrow_raw(fd) })
    }

    /// The text of the last error.
    pub(super) fn error(&self) -> String {
        // SAFETY: see `progress`; the text is never null, and is copied before the connection changes.
        unsafe { text(pq::PQerrorMessage(self.0.as_ptr())) }
    }

    /// The server's version, as 150004 for 15.4.
    pub(super) fn server_version(&self) -> i32 {
        // SAFETY: see `progress`.
        unsafe { pq::PQserverVersion(self.0.as_ptr()) }
    }

    /// The number of the server's process for this connection.
    pub(super) fn server_process(&self) -> i32 {
        // SAFETY: see `progress`.
        unsafe { pq::PQbackendPID(self.0.as_ptr()) }
    }

    /// The value of a parameter that the server reports, or an empty text.
    pub(super) fn parameter(&self, name: &CStr) -> String {
        // SAFETY: see `progress`; the name ends with NUL.
        unsafe { text(pq::PQparameterStatus(self.0.as_ptr(), name.as_ptr())) }
    }

    /// From here on no call waits for the socket.
    pub(super) fn set_nonblocking(&mut self) -> bool {
        // SAFETY: see `progress`.
        unsafe { pq::PQsetnonblocking(self.0.as_ptr(), 1) == 0 }
    }

    /// Sends statements without parameters.
    pub(super) fn send_simple(&mut self, sql: &CStr) -> bool {
        // SAFETY: see `progress`; the text ends with NUL, and libpq copies it.
        unsafe { pq::PQsendQuery(self.0.as_ptr(), sql.as_ptr()) == 1 }
    }

    /// Prepares a statement. The type 0 is inferred.
    pub(super) fn send_prepare(&mut self, name: &CStr, sql: &CStr, types: &[Oid]) -> bool {
        // SAFETY: see `progress`; the texts end with NUL, the array has as many items as is said, and libpq
        // copies them.
        let sent = unsafe {
            let (name, sql) = (name.as_ptr(), sql.as_ptr());
            pq::PQsendPrepare(self.0.as_ptr(), name, sql, count(types), types.as_ptr())
        };
        sent == 1
    }

    /// Runs a prepared statement. Parameters and columns are in the binary format.
    pub(super) fn send_prepared(&mut self, name: &CStr, values: &[Option<Vec<u8>>]) -> bool {
        let pointer = |value: &Option<Vec<u8>>| {
            // An empty value is not a null pointer, which would be NULL.
            value.as_ref().map_or(ptr::null(), |bytes| bytes.as_ptr().cast::<c_char>())
        };
        let pointers: Vec<_> = values.iter().map(pointer).collect();
        let lengths: Vec<_> =
            values.iter().map(|value| value.as_ref().map_or(0, |bytes| count(bytes))).collect();
        let formats = vec![1; values.len()];
        // SAFETY: see `progress`; each of the three arrays has as many items as is said, each pointer that is
        // not null has as many bytes as its length, and libpq copies all before it returns.
        let sent = unsafe {
            pq::PQsendQueryPrepared(
                self.0.as_ptr(),
                name.as_ptr(),
                count(values),
                pointers.as_ptr(),
                lengths.as_ptr(),
                formats.as_ptr(),
                1,
            )
        };
        sent == 1
    }

    /// Sends what is left to be sent: `Some(true)` if nothing is left, `None` if it failed.
    pub(super) fn flush(&mut self) -> Option<bool> {
        // SAFETY: see `progress`.
        match unsafe { pq::PQflush(self.0.as_ptr()) } {
            0 => Some(true),
            1 => Some(false),
            _ => None,
        }
    }

    /// Reads what has arrived; `false` if that failed.
    pub(super) fn consume(&mut self) -> bool {
        // SAFETY: see `progress`.
        unsafe { pq::PQconsumeInput(self.0.as_ptr()) == 1 }
    }

    /// Whether the next result is not there yet.
    pub(super) fn is_busy(&mut self) -> bool {
        // SAFETY: see `progress`.
        unsafe { pq::PQisBusy(self.0.as_ptr()) == 1 }
    }

    /// The next result of what was sent; `None` after the last. It must not be called while
    /// [`RawConnection::is_busy`], as it would wait.
    pub(super) fn result(&mut self) -> Option<Answer> {
        // SAFETY: see `progress`; the result belongs to the caller, and its type frees it.
        NonNull::new(unsafe { pq::PQgetResult(self.0.as_ptr()) }).map(Answer)
    }

    /// The next notification that was received.
    pub(super) fn notification(&mut self) -> Option<RawNotification> {
        // SAFETY: see `progress`.
        let raw = NonNull::new(unsafe { pq::PQnotifies(self.0.as_ptr()) })?;
        // SAFETY: the notification is valid until it is freed below, once, and its texts with it; both are
        // copied before.
        unsafe {
            let payload = text(raw.as_ref().extra);
            let sender = raw.as_ref().be_pid;
            pq::PQfreemem(raw.as_ptr().cast::<c_void>());
            Some(RawNotification { sender, payload })
        }
    }
}

impl Drop for RawConnection {
    fn drop(&mut self) {
        // SAFETY: the connection is live, and nothing uses it after its owner is dropped.
        unsafe { pq::PQfinish(self.0.as_ptr()) };
    }
}

/// The result of a statement: rows, a number of changed rows, or an error.
pub(super) struct Answer(NonNull<pq::PGresult>);

impl Answer {
    pub(super) fn is_ok(&self) -> bool {
        use pq::ExecStatusType::{PGRES_COMMAND_OK, PGRES_EMPTY_QUERY, PGRES_TUPLES_OK};

        // SAFETY: the result is valid until `drop`.
        let status = unsafe { pq::PQresultStatus(self.0.as_ptr()) };
        matches!(status, PGRES_COMMAND_OK | PGRES_EMPTY_QUERY | PGRES_TUPLES_OK)
    }

    /// The error's SQLSTATE, or an empty text if the server did not send the error.
    pub(super) fn state(&self) -> String {
        // SAFETY: see `is_ok`; the text is null or ends with NUL.
        unsafe { text(pq::PQresultErrorField(self.0.as_ptr(), c_int::from(b'C'))) }
    }

    /// The error's text, without values of the statement.
    pub(super) fn message(&self) -> String {
        // SAFETY: see `state`.
        let primary = unsafe { text(pq::PQresultErrorField(self.0.as_ptr(), c_int::from(b'M'))) };
        if !primary.is_empty() {
            return primary;
        }
        // SAFETY: see `state`.
        unsafe { text(pq::PQresultErrorMessage(self.0.as_ptr())) }
    }

    /// The command's tag, like `COMMIT`.
    pub(super) fn tag(&self) -> String {
        // SAFETY: see `state`.
        unsafe { text(pq::PQcmdStatus(self.0.as_ptr())) }
    }

    /// The number of rows that the statement changed.
    pub(super) fn changed(&self) -> usize {
        // SAFETY: see `state`.
        unsafe { text(pq::PQcmdTuples(self.0.as_ptr())) }.parse().unwrap_or(0)
    }

    pub(super) fn rows(&self) -> usize {
        // SAFETY: see `is_ok`.
        usize::try_from(unsafe { pq::PQntuples(self.0.as_ptr()) }).unwrap_or(0)
    }

    fn columns(&self) -> usize {
        // SAFETY: see `is_ok`.
        usize::try_from(unsafe { pq::PQnfields(self.0.as_ptr()) }).unwrap_or(0)
    }

    /// The type of a column, and its bytes unless it is NULL; `None` if there is no such field.
    pub(super) fn field(&self, row: usize, column: usize) -> Option<(Oid, Option<&[u8]>)> {
        if row >= self.rows() || column >= self.columns() {
            return None;
        }
        let (row, column) = (c_int::try_from(row).ok()?, c_int::try_from(column).ok()?);
        // SAFETY: see `is_ok`; both numbers are in range, so the pointer is valid for the length that libpq
        // has for the field, and as long as the result, which `self` borrows.
        unsafe {
            let kind = pq::PQftype(self.0.as_ptr(), column);
            if pq::PQgetisnull(self.0.as_ptr(), row, column) == 1 {
                return Some((kind, None));
            }
            let start = pq::PQgetvalue(self.0.as_ptr(), row, column).cast::<u8>();
            let length = pq::PQgetlength(self.0.as_ptr(), row, column);
            let length = usize::try_from(length).unwrap_or(0);
            Some((kind, Some(std::slice::from_raw_parts(start, length))))
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // SAFETY: the result is valid, and nothing uses it after its owner is dropped.
        unsafe { pq::PQclear(self.0.as_ptr()) };
    }
}

/// The parameters of a connection string, those that it has; or what is wrong with it.
pub(super) fn parse(connection: &CStr) -> Result<Vec<(String, String)>, String> {
    let mut error = ptr::null_mut();
    // SAFETY: the text ends with NUL, and `error` is a place for a pointer.
    let options = unsafe { pq::PQconninfoParse(connection.as_ptr(), &raw mut error) };
    let Some(options) = NonNull::new(options) else {
        // SAFETY: without options the error is null, or a text that is freed here, once.
        return Err(unsafe {
            let message = text(error);
            pq::PQfreemem(error.cast::<c_void>());
            message
        });
    };
    let mut found = Vec::new();
    let mut option = options.as_ptr();
    // SAFETY: the array ends with an item whose keyword is null, which is the last one that is read; all
    // texts are copied before the array is freed, once.
    unsafe {
        while !(*option).keyword.is_null() {
            if !(*option).val.is_null() {
                found.push((text((*option).keyword), text((*option).val)));
            }
            option = option.add(1);
        }
        pq::PQconninfoFree(options.as_ptr());
    }
    Ok(found)
}

extern "C" fn log_notice(_: *mut c_void, message: *const c_char) {
    // SAFETY: libpq passes a text that ends with NUL and lives until this returns.
    log::debug!("notice of the database; text={}", unsafe { text(message) }.trim());
}

/// A copy of a text of libpq, without the line end of its errors.
///
/// # Safety
///
/// The pointer is null, or that of a text that ends with NUL.
unsafe fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: as the caller promises.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().trim_end().to_owned()
}

/// A length for libpq, which rejects what does not fit in a message anyway.
fn count<T>(items: &[T]) -> c_int {
    c_int::try_from(items.len()).unwrap_or(c_int::MAX)
}
