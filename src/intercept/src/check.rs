//! Whether this host can intercept, tried out without leaving anything.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sandbox::{Cause, Interceptor};

use crate::error::file;
use crate::{Authority, Config, Guard, Policy, Proxy};

/// For documentation alone: no VM has it.
const NOBODY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// How long a trial may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts a proxy, has it let somebody in, and ends it; returns how long it took to be ready.
pub fn check(program: Option<PathBuf>) -> Result<Duration, Cause> {
    let begun = Instant::now();
    let place = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o711))
        .tempdir()
        .map_err(file("create a folder in", std::env::temp_dir()))?;
    let authority = Authority::open(place.path())?;
    let runtime_dir = place.path().join("run");
    let proxy = Proxy::start(Config { program, runtime_dir, authority, roots: None })?;
    let guard = Guard::new(&Arc::new(proxy), Policy::none());
    drop(guard.admit(NOBODY, begun + PATIENCE)?);
    Ok(begun.elapsed())
}
