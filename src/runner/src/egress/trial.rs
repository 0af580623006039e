//! A request of nobody's, refused by the proxy: on a host that is made for it, and gone afterwards.

use std::io::{Read as _, Write as _};
use std::net::SocketAddrV4;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use sandbox::{Cause, SINKHOLE};

use super::gate::program;
use crate::vmm;

/// How long all of it may take: Python on a loaded host is slow.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the proxy may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: trial.invalid\r\nconnection: close\r\n\r\n";

/// Has a proxy refuse a request that a network redirects to it; returns how long it took from nothing.
pub(crate) fn check() -> Result<Duration, Cause> {
    let begun = Instant::now();
    let place =
        tempfile::Builder::new().permissions(std::fs::Permissions::from_mode(0o711)).tempdir()?;
    let place = place.path();
    let answer = vmm::with_scratch_network(place, begun + PATIENCE, |lease| {
        let filter = vmm::proxy_filter();
        let address = lease.address()?;
        let pass = intercept::probe(program(), place, address, filter, begun + PATIENCE)?;
        lease.intercept(pass.port(), pass.observer())?;
        let mut stream = lease.connect(SocketAddrV4::new(SINKHOLE, 80), ANSWER)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.write_all(REQUEST)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })?;
    match answer.starts_with("HTTP/1.1 403") && answer.contains("trial.invalid is unknown") {
        true => Ok(begun.elapsed()),
        false => Err("a request that is redirected is not refused by the proxy".into()),
    }
}
