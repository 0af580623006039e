//! Starts mitmdump under its own UID, with the least privileges.

use std::env;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::proxy_folder::ProxyFolder;
use crate::{CertificateAuthority, Error, Result};
use nix::sys::resource::{Resource as Limit, getrlimit};
use process::{Child, Command, Credentials, Resource};
use sandbox::PROXY_UID;

/// The name of mitmproxy's program without a user interface.
pub const PROGRAM: &str = "mitmdump";

/// The folder in which scripts/setup installs it.
const INSTALLED: &str = "/usr/local/lib/sandbox-runner/mitmproxy/bin";

/// User IDs per process; more proxies share them.
const UIDS_PER_PROCESS: u32 = 8;
const OPEN_FILES: u64 = 65_536;

/// The host's certificate stores, by distribution.
const CERTIFICATE_STORES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// A started proxy. Dropping it kills it.
pub(crate) struct LaunchedProxy {
    pub(crate) child: Child,
    pub(crate) control: UnixStream,
    pub(crate) errors: OwnedFd,
    _folder: ProxyFolder,
}

/// The options of a start.
pub(crate) struct LaunchOptions<'a> {
    pub(crate) program: Option<&'a Path>,
    pub(crate) runtime_dir: &'a Path,
    pub(crate) authority: &'a CertificateAuthority,
    pub(crate) listener: OwnedFd,
    pub(crate) roots: Option<&'a Path>,
    pub(crate) uid: u32,
}

/// The user ID of the next proxy: [`PROXY_UID`] plus eight per process ID, plus a counter modulo eight.
pub(crate) fn next_uid() -> u32 {
    static STARTED: AtomicU32 = AtomicU32::new(0);
    let number = STARTED.fetch_add(1, Ordering::Relaxed) % UIDS_PER_PROCESS;
    PROXY_UID + std::process::id() * UIDS_PER_PROCESS + number
}

/// Starts the proxy. It is killed when the calling thread ends.
pub(crate) fn launch(launch: LaunchOptions<'_>) -> Result<LaunchedProxy> {
    let LaunchOptions { program, runtime_dir, authority, listener, roots, uid } = launch;
    let program = match program {
        Some(path) => path.to_owned(),
        None => find()?,
    };
    let folder = ProxyFolder::make(runtime_dir, authority, uid)?;
    let socket = |operation| move |source| Error::Socket { operation, source };
    let (control, theirs) = UnixStream::pair().map_err(socket("make a socket"))?;
    control.set_nonblocking(true).map_err(socket("set up a socket"))?;
    let (errors, errors_tx) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)
        .map_err(|errno| socket("make a pipe")(errno.into()))?;
    let path = folder.path();
    // A connection needs two; the limit cannot exceed our own hard limit.
    let (_, most) = getrlimit(Limit::RLIMIT_NOFILE)
        .map_err(|errno| socket("look at the limits")(errno.into()))?;
    let files = OPEN_FILES.min(most);
    let mut command = Command::new(&program)
        .shown_as(PROGRAM)
        .args(["--quiet", "--mode", "transparent"])
        .args(["--scripts".as_ref(), folder.script().as_os_str()])
        .args(options(path, roots))
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("PYTHONPATH", path)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("HOME", path)
        .env("LANG", "C.UTF-8")
        .cwd(path)
        .stdout(errors_tx.try_clone().map_err(socket("make a pipe"))?)
        .stderr(errors_tx)
        .descriptor(theirs)
        .descriptor(listener)
        .new_session()
        .no_new_privileges()
        .parent_death_signal(libc::SIGKILL)
        .limit(Resource::CoreDump, 0, 0)
        .limit(Resource::OpenFiles, files, files);
    if nix::unistd::geteuid().is_root() {
        command = command.credentials(Credentials { uid, gid: uid, groups: Vec::new() });
    }
    let child = command.spawn().map_err(|source| Error::Spawn { source })?;
    Ok(LaunchedProxy { child, control, errors, _folder: folder })
}

/// Options that disable everything that is not needed.
fn options(folder: &Path, roots: Option<&Path>) -> Vec<String> {
    let mut options = vec![
        format!("confdir={}", folder.display()),
        // Connect to a server only after the decision.
        "connection_strategy=lazy".to_owned(),
        "upstream_cert=false".to_owned(),
        // mitmproxy's own web page.
        "onboarding=false".to_owned(),
        "termlog_verbosity=error".to_owned(),
        "flow_detail=0".to_owned(),
    ];
    let mut all = roots.into_iter().chain(CERTIFICATE_STORES.iter().map(Path::new));
    match all.find(|path| path.is_file()) {
        Some(path) => {
            options.push(format!("ssl_verify_upstream_trusted_ca={}", path.display()));
        }
        None => log::warn!("the host has no certificate store; the proxy uses its own"),
    }
    options.into_iter().flat_map(|option| ["--set".to_owned(), option]).collect()
}

/// The path of the program: as installed by scripts/setup, else from `PATH`.
pub(crate) fn find() -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    let folders = std::iter::once(PathBuf::from(INSTALLED)).chain(env::split_paths(&path));
    let mut programs = folders.map(|folder| folder.join(PROGRAM));
    let found = programs.find(|program| program.is_file());
    found.ok_or_else(|| Error::NoProgram {
        places: format!("{INSTALLED}, {}", path.to_string_lossy()),
    })
}
