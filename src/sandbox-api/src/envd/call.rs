//! What the calls on a sandbox share: their user, their deadline, and the forms of their replies.

use std::time::{Duration, Instant};

use base::error::chain;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use connect_rpc::{Code, EnvelopeReader, Error, STREAMING, UNARY};
use http_server::{Refusal, Request, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::account::Login;
use crate::files::{self, Code as FileCode};
use crate::process;
use crate::sandboxes::{ManagedSandbox, RunningSandbox};

/// The largest message of a request.
pub(super) const LARGEST_MESSAGE: usize = 4 << 20;

/// The time of a call that names none.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The longest time of a call that is no stream.
const LONGEST: Duration = Duration::from_secs(10 * 60);

/// How a method's messages travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Unary,
    Stream,
}

pub(super) type Answer = fn(&mut Call<'_, '_>) -> Result<Response, Error>;

/// A call on a sandbox that runs.
pub(super) struct Call<'a, 'b> {
    pub(super) sandbox: &'a ManagedSandbox,
    pub(super) running: &'a RunningSandbox,
    pub(super) request: &'a mut Request<'b>,
    received: Instant,
}

impl<'a, 'b> Call<'a, 'b> {
    pub(super) fn new(
        sandbox: &'a ManagedSandbox,
        running: &'a RunningSandbox,
        request: &'a mut Request<'b>,
    ) -> Self {
        Self { sandbox, running, request, received: Instant::now() }
    }

    /// The time-out that the client names.
    pub(super) fn timeout(&self) -> Result<Option<Duration>, Error> {
        let Some(text) = self.request.head.header("connect-timeout-ms") else { return Ok(None) };
        let bad = || Error::new(Code::InvalidArgument, "Connect-Timeout-Ms is no number");
        // The protocol allows ten digits.
        let text = Some(text).filter(|text| text.len() <= 10).ok_or_else(bad)?;
        let milliseconds: u64 = text.parse().map_err(|_| bad())?;
        Ok(Some(Duration::from_millis(milliseconds)).filter(|timeout| !timeout.is_zero()))
    }

    /// When a call that is no stream is given up.
    pub(super) fn deadline(&self) -> Result<Instant, Error> {
        Ok(self.received + self.timeout()?.unwrap_or(TIMEOUT).min(LONGEST))
    }

    /// When the begin of a stream, or of a longer call, is given up.
    pub(super) fn soon(&self) -> Instant {
        let timeout = self.timeout().ok().flatten();
        self.received + timeout.unwrap_or(TIMEOUT).min(TIMEOUT)
    }

    /// How often a silent stream says that it lives.
    pub(super) fn ping_interval(&self) -> Duration {
        let seconds = self.request.head.header("keepalive-ping-interval");
        let seconds = seconds.and_then(|text| text.parse().ok()).unwrap_or(90);
        Duration::from_secs(seconds).clamp(Duration::from_secs(1), Duration::from_secs(3600))
    }

    /// The user: by Basic authentication without a password, else the default one.
    pub(super) fn login(&self) -> Result<Login, Error> {
        let name = self.user_name()?;
        self.login_as(name.as_deref()).map_err(|error| match error {
            files::Error::NoUser { .. } => {
                let name = name.unwrap_or_default();
                Error::new(Code::Unauthenticated, format!("invalid username: '{name}'"))
            }
            error => file_error(&error),
        })
    }

    pub(super) fn login_as(&self, name: Option<&str>) -> files::Result<Login> {
        self.sandbox.login(self.running, name, self.soon())
    }

    fn user_name(&self) -> Result<Option<String>, Error> {
        let Some(value) = self.request.head.header("authorization") else { return Ok(None) };
        let bad = || Error::new(Code::Unauthenticated, "the Authorization header is not `Basic`");
        let (scheme, encoded) = value.split_once(' ').ok_or_else(bad)?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return Err(bad());
        }
        let decoded = STANDARD.decode(encoded.trim()).map_err(|_| bad())?;
        let text = String::from_utf8(decoded).map_err(|_| bad())?;
        let name = text.split_once(':').map_or(text.as_str(), |(name, _)| name);
        Ok(Some(name.to_owned()))
    }

    /// Checks that the client speaks the protocol as it is spoken here.
    pub(super) fn check(&self, kind: Kind) -> Result<(), Error> {
        let head = &self.request.head;
        let content_type = head.header("content-type").unwrap_or_default();
        let content_type = content_type.split(';').next().unwrap_or_default().trim();
        let expected = match kind {
            Kind::Unary => UNARY,
            Kind::Stream => STREAMING,
        };
        if !content_type.eq_ignore_ascii_case(expected) {
            let message = format!("the content type of this call is {expected}");
            return Err(Error::new(Code::Unimplemented, message));
        }
        for name in ["content-encoding", "connect-content-encoding"] {
            if head.header(name).is_some_and(|coding| !coding.eq_ignore_ascii_case("identity")) {
                let message = "the request is compressed: send it uncompressed";
                return Err(Error::new(Code::Unimplemented, message));
            }
        }
        Ok(())
    }

    /// The message of a unary call.
    pub(super) fn message<T: DeserializeOwned>(&mut self) -> Result<T, Error> {
        let body = self.body()?;
        serde_json::from_slice(&body).map_err(|error| {
            let message = format!("the request is not the expected JSON: {error}");
            Error::new(Code::InvalidArgument, message)
        })
    }

    /// The only message of a call whose reply is a stream.
    pub(super) fn first<T: DeserializeOwned>(&mut self) -> Result<T, Error> {
        let body = self.body()?;
        Ok(EnvelopeReader::new(&body[..], LARGEST_MESSAGE).one()?)
    }

    fn body(&mut self) -> Result<Vec<u8>, Error> {
        let body = self.request.body.read_to_limit(LARGEST_MESSAGE as u64);
        body.map_err(|refusal| refusal_error(&refusal))
    }
}

pub(super) fn refusal_error(refusal: &Refusal) -> Error {
    let code = match refusal {
        Refusal::TooLarge { .. } | Refusal::Busy => Code::ResourceExhausted,
        Refusal::TooSlow => Code::DeadlineExceeded,
        Refusal::CutShort => Code::Cancelled,
        Refusal::Stopping | Refusal::Interrupted => Code::Unavailable,
        _ => Code::InvalidArgument,
    };
    Error::new(code, refusal.to_string())
}

/// The reply of a unary call.
pub(super) fn reply(message: &impl Serialize) -> Result<Response, Error> {
    Response::json(200, message).map_err(|error| Error::new(Code::Internal, error.to_string()))
}

/// A reply that is a stream.
pub(super) fn stream(
    write: impl FnOnce(&mut http_server::BodyWriter<'_>) -> std::io::Result<()> + Send + 'static,
) -> Response {
    Response::stream(write).with("Content-Type", STREAMING)
}

/// The reply of a failed call.
pub(super) fn fail(kind: Kind, error: &Error) -> Response {
    match kind {
        Kind::Unary => Response::bytes(error.code.status(), UNARY, error.to_json()),
        Kind::Stream => Response::bytes(200, STREAMING, connect_rpc::end(Err(error))),
    }
}

pub(super) fn file_error(error: &files::Error) -> Error {
    let code = match error {
        files::Error::Failed(failure) => match failure.code {
            FileCode::InvalidArgument | FileCode::NotADirectory | FileCode::IsADirectory => {
                Code::InvalidArgument
            }
            FileCode::NameTooLong | FileCode::TooManyLinks => Code::InvalidArgument,
            FileCode::NotFound => Code::NotFound,
            FileCode::AlreadyExists => Code::AlreadyExists,
            FileCode::PermissionDenied => Code::PermissionDenied,
            FileCode::NoSpace | FileCode::TooMany => Code::ResourceExhausted,
            FileCode::Busy => Code::Aborted,
            FileCode::Overflow => Code::DataLoss,
            FileCode::NotEmpty | FileCode::CrossDevice | FileCode::ReadOnly => {
                Code::FailedPrecondition
            }
            FileCode::Unsupported | FileCode::Gone => Code::FailedPrecondition,
            _ => Code::Internal,
        },
        files::Error::Sandbox(error) => sandbox_code(error),
        files::Error::NoUser { .. } => Code::Unauthenticated,
        _ => Code::Internal,
    };
    Error::new(code, chain(error))
}

pub(super) fn process_error(error: &process::Error) -> Error {
    let code = match error {
        process::Error::NotStarted { .. } => Code::InvalidArgument,
        process::Error::NotFound { .. } => Code::NotFound,
        process::Error::TooMany { .. } => Code::ResourceExhausted,
        process::Error::Sandbox(error) => sandbox_code(error),
        _ => Code::Internal,
    };
    Error::new(code, chain(error))
}

fn sandbox_code(error: &sandbox::Error) -> Code {
    match error {
        sandbox::Error::TimedOut { .. } => Code::DeadlineExceeded,
        _ => Code::Internal,
    }
}
