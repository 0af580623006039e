//! The vsock service: dials the host and serves its requests.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollTimeout, poll};
use vsock::{VMADDR_CID_HOST, VsockStream};
use vsock_guest::{Config, End, Service, serve};
use vsock_proto::{BootId, PORT};

use crate::console;

/// The service's name, as argument 0 and of its cgroup.
pub(crate) const NAME: &str = "vsock-service";

/// Exit status: the host asked for power off.
pub(crate) const EXIT_SHUTDOWN: u8 = 10;

/// Exit status: the host rejected this guest; the service has logged the reason.
pub(crate) const EXIT_REJECTED: u8 = 11;

/// Where cgroup v2 is.
pub(crate) const CGROUPS: &str = "/sys/fs/cgroup";

/// The cgroup of all commands.
pub(crate) const COMMANDS: &str = "exec";

/// Serves until the machine is to be turned off.
pub(crate) fn run(previous_failure: Option<OsString>) -> ExitCode {
    console::log_as_asked();
    stay_alive();
    let mut service = Service::new(Config {
        boot_id: boot_id(),
        previous_failure: previous_failure.map(|text| text.to_string_lossy().into_owned()),
        cgroups: Some(Path::new(CGROUPS).join(COMMANDS)),
        root: "/".into(),
        owns_kernel: true,
        secret: secret(),
    });
    let mut pause = Pause::default();
    let mut last_error = None;
    loop {
        match VsockStream::connect_with_cid_port(VMADDR_CID_HOST, PORT) {
            Ok(connection) => {
                log::debug!("connected to the host");
                last_error = None;
                match serve(connection.into(), &mut service) {
                    Ok(End::Shutdown) => return ExitCode::from(EXIT_SHUTDOWN),
                    Ok(End::Rejected(reason)) => {
                        console::tell_failure(&format!("the host rejects this guest: {reason}"));
                        return ExitCode::from(EXIT_REJECTED);
                    }
                    Ok(End::Disconnected { was_welcome }) => {
                        log::debug!("the host hung up; was_welcome={was_welcome}");
                        // The host is present, as after a snapshot restore: dial at once.
                        if was_welcome {
                            pause = Pause::default();
                        }
                    }
                    Err(error) => log::error!("{}", base::error::chain(&error)),
                }
            }
            Err(error) if last_error == Some(error.raw_os_error()) => {}
            Err(error) => {
                log::info!("cannot reach the host; error={error}");
                last_error = Some(error.raw_os_error());
            }
        }
        pause.wait();
    }
}

/// Init's memory for the link's secret, which is our standard input.
fn secret() -> Option<Arc<File>> {
    match io::stdin().as_fd().try_clone_to_owned() {
        Ok(memory) => Some(Arc::new(memory.into())),
        Err(error) => {
            log::warn!("the next service will not know the link's secret; error={error}");
            None
        }
    }
}

/// Exempts the service from the OOM killer, and sets its process name.
fn stay_alive() {
    if let Err(error) = fs::write("/proc/self/oom_score_adj", "-1000") {
        log::warn!("may be killed when memory runs out; error={error}");
    }
    if let Err(error) = fs::write("/proc/self/comm", NAME) {
        log::debug!("has no name; error={error}");
    }
}

fn boot_id() -> BootId {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    BootId(parse_id(&text))
}

/// The bytes of an id such as `0123abcd-…`.
fn parse_id(text: &str) -> [u8; 16] {
    let mut id = [0; 16];
    let digits = text.chars().filter_map(|character| character.to_digit(16));
    for (position, digit) in digits.take(32).enumerate() {
        id[position / 2] = id[position / 2] << 4 | digit as u8;
    }
    id
}

/// The waits between attempts: none before the first, then ever longer ones.
#[derive(Debug, Default)]
struct Pause {
    next: Duration,
}

impl Pause {
    const FIRST: Duration = Duration::from_millis(1);
    const LONGEST: Duration = Duration::from_millis(250);

    fn wait(&mut self) {
        let pause = self.take();
        if !pause.is_zero() {
            let timeout = PollTimeout::try_from(pause).unwrap_or(PollTimeout::ZERO);
            // Poll: a vsock has no event for a host that begins to listen.
            match poll(&mut [], timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => log::warn!("cannot wait; error={errno}"),
            }
        }
    }

    fn take(&mut self) -> Duration {
        let longer = (self.next * 2).clamp(Self::FIRST, Self::LONGEST);
        std::mem::replace(&mut self.next, longer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_pauses_grow_from_zero_to_250_ms() {
        let mut pause = Pause::default();
        let pauses: Vec<u128> = (0..11).map(|_| pause.take().as_millis()).collect();
        assert_eq!(pauses, [0, 1, 2, 4, 8, 16, 32, 64, 128, 250, 250]);
    }

    #[test]
    fn a_boot_id_is_parsed_without_its_hyphens() {
        let id = parse_id("00112233-4455-6677-8899-aabbccddeeff\n");
        assert_eq!(id[..4], [0, 0x11, 0x22, 0x33]);
        assert_eq!(id[15], 0xff);
    }
}
