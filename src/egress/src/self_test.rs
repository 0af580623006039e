//! Tests interception on this host: in a network namespace of its own, a request is redirected to a proxy,
//! which must deny it.

use std::io::{Read as _, Write as _};
use std::net::SocketAddrV4;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use netns::{Lease, Pool};
use sandbox::{Cause, SINKHOLE};

use crate::proxy_pool::program;

/// How long the test may take: Python on a loaded host is slow.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How long the proxy may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: trial.invalid\r\nconnection: close\r\n\r\n";

/// Runs the test; returns the time from the start of the proxy to its answer.
pub fn check() -> Result<Duration, Cause> {
    let begun = Instant::now();
    let folder =
        tempfile::Builder::new().permissions(std::fs::Permissions::from_mode(0o711)).tempdir()?;
    let folder = folder.path();
    let answer = with_scratch_network(folder, begun + TIMEOUT, |lease| {
        let filter = Arc::new(netns::ProxyFilter);
        let address = lease.address()?;
        let probe = intercept::probe(program(), folder, address, filter, begun + TIMEOUT)?;
        lease.intercept(probe.port(), probe.observer())?;
        let mut stream = lease.connect(SocketAddrV4::new(SINKHOLE, 80), ANSWER_TIMEOUT)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.write_all(REQUEST)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })?;
    if answer.starts_with("HTTP/1.1 403") && answer.contains("trial.invalid is unknown") {
        Ok(begun.elapsed())
    } else {
        Err("the proxy does not deny a redirected request".into())
    }
}

/// Runs `work` with a network in a network namespace of its own, which is removed afterwards.
fn with_scratch_network<T: Send>(
    folder: &Path,
    deadline: Instant,
    work: impl FnOnce(&mut Lease) -> Result<T, Cause> + Send,
) -> Result<T, Cause> {
    netns::in_new_namespace(|| {
        let lock_path = folder.join("network.lock");
        let networks = Pool::start(netns::Config { lock_path, ..netns::Config::default() })?;
        work(&mut networks.lease(deadline)?)
    })?
}
