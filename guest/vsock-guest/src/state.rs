//! The state of the machine: its report to the host, and the settings from the host.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};
use vsock_proto::{Failure, GuestState, Ready};

use crate::account::errno;
use crate::authority;
use crate::failure::{failed, refused, text};
use crate::sys;
use crate::write::{replace, replace_by_link};

/// The longest host name that the kernel takes.
const HOSTNAME: usize = 64;

/// The address that stands for the host's own name, as on every Debian.
const OWN_ADDRESS: &str = "127.0.1.1";

/// The guest's message after a welcome.
pub(crate) fn describe() -> Ready {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let uptime = clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map_or(0, |time| time.tv_sec() * 1_000_000 + time.tv_nsec() / 1000);
    Ready { kernel: kernel.trim_end().to_owned(), uptime_us: u64::try_from(uptime).unwrap_or(0) }
}

/// Sets what `state` has, files below `root`, and the kernel's own state if that is ours.
pub(crate) fn set(state: &GuestState, root: &Path, owns_kernel: bool) -> Result<(), Failure> {
    if let Some(name) = &state.hostname {
        check_hostname(name)?;
    }
    if owns_kernel {
        set_kernel(state)?;
    }
    if let Some(name) = &state.hostname {
        replace(&root.join("etc/hostname"), format!("{name}\n").as_bytes())?;
        let path = root.join("etc/hosts");
        let hosts = fs::read(&path).unwrap_or_default();
        replace(&path, &hosts_with(&hosts, name))?;
    }
    if let Some(zone) = &state.timezone {
        set_timezone(root, zone)?;
    }
    if let Some(id) = &state.machine_id {
        let digits: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        replace(&root.join("etc/machine-id"), format!("{digits}\n").as_bytes())?;
    }
    if state.authority.is_some() || !state.host_authorities.is_empty() {
        authority::trust(root, state.authority.as_deref(), &state.host_authorities)?;
    }
    Ok(())
}

fn set_kernel(state: &GuestState) -> Result<(), Failure> {
    let explain = |what: &str, errno| refused(errno, format!("cannot {what}: {}", text(errno)));
    if let Some(nanoseconds) = state.clock_unix_ns {
        let seconds = i64::try_from(nanoseconds / 1_000_000_000);
        let seconds = seconds.map_err(|_| explain("set the clock", Errno::EOVERFLOW))?;
        let rest = nanoseconds % 1_000_000_000;
        let time = TimeSpec::new(seconds, rest as libc::c_long);
        clock_settime(ClockId::CLOCK_REALTIME, time)
            .map_err(|errno| explain("set the clock", errno))?;
    }
    if !state.entropy.is_empty() {
        let path = Path::new("/dev/urandom");
        let device = File::options()
            .write(true)
            .open(path)
            .map_err(|error| failed("open", path)(errno(&error)))?;
        sys::add_entropy(&device, &state.entropy).map_err(|errno| explain("add entropy", errno))?;
    }
    if let Some(name) = &state.hostname {
        nix::unistd::sethostname(name).map_err(|errno| explain("set the host name", errno))?;
    }
    Ok(())
}

fn check_hostname(name: &str) -> Result<(), Failure> {
    let is_plain =
        name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.');
    if name.is_empty() || name.len() > HOSTNAME || !is_plain {
        let message = format!("`{name}` cannot be a host name");
        return Err(refused(Errno::EINVAL, message));
    }
    Ok(())
}

/// `/etc/hosts` with one line for our own name.
fn hosts_with(hosts: &[u8], name: &str) -> Vec<u8> {
    let line = format!("{OWN_ADDRESS}\t{name}\n");
    let mut new = Vec::with_capacity(hosts.len() + line.len());
    for other in hosts.split_inclusive(|byte| *byte == b'\n') {
        let mut words = other.split(u8::is_ascii_whitespace);
        if words.next() != Some(OWN_ADDRESS.as_bytes()) {
            new.extend_from_slice(other);
        }
    }
    if new.last().is_some_and(|byte| *byte != b'\n') {
        new.push(b'\n');
    }
    new.extend_from_slice(line.as_bytes());
    new
}

fn set_timezone(root: &Path, zone: &str) -> Result<(), Failure> {
    let is_plain =
        Path::new(zone).components().all(|component| matches!(component, Component::Normal(_)));
    let unknown = || refused(Errno::EINVAL, format!("no time zone `{zone}` in this guest"));
    if zone.is_empty() || zone.contains('\n') || !is_plain {
        return Err(unknown());
    }
    let target = PathBuf::from("/usr/share/zoneinfo").join(zone);
    let below_root = target.strip_prefix("/").unwrap_or(&target);
    let localtime = root.join("etc/localtime");
    if root.join(below_root).is_file() {
        replace_by_link(&localtime, OsStr::new(&target))?;
    } else if matches!(zone, "UTC" | "Etc/UTC") {
        // The zone of a machine without time zones.
        match fs::remove_file(&localtime) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed("remove", &localtime)(errno(&error)));
            }
            _ => {}
        }
    } else {
        return Err(unknown());
    }
    replace(&root.join("etc/timezone"), format!("{zone}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        fs::create_dir_all(root.path().join("usr/share/zoneinfo/Europe")).unwrap();
        fs::write(root.path().join("usr/share/zoneinfo/Europe/Berlin"), "TZif").unwrap();
        root
    }

    fn zone(name: &str) -> GuestState {
        GuestState { timezone: Some(name.into()), ..GuestState::default() }
    }

    #[test]
    fn the_own_name_has_one_line_in_hosts() {
        let before = b"127.0.0.1 localhost\n127.0.1.1 old\n::1 localhost";
        let expected = "127.0.0.1 localhost\n::1 localhost\n127.0.1.1\tnew\n";
        assert_eq!(hosts_with(before, "new"), expected.as_bytes());
        assert_eq!(hosts_with(expected.as_bytes(), "new"), expected.as_bytes());
    }

    #[test]
    fn a_time_zone_is_a_link_and_a_name() {
        let root = root();
        set(&zone("Europe/Berlin"), root.path(), false).unwrap();
        let link = fs::read_link(root.path().join("etc/localtime")).unwrap();
        assert_eq!(link, Path::new("/usr/share/zoneinfo/Europe/Berlin"));
        let name = fs::read_to_string(root.path().join("etc/timezone")).unwrap();
        assert_eq!(name, "Europe/Berlin\n");
    }

    #[test]
    fn a_time_zone_that_is_a_path_or_unknown_is_refused() {
        let root = root();
        assert!(set(&zone("../../../etc/passwd"), root.path(), false).is_err());
        assert!(set(&zone("Europe/Atlantis"), root.path(), false).is_err());
        assert!(set(&zone("UTC"), root.path(), false).is_ok());
    }

    #[test]
    fn host_name_and_machine_id_are_written() {
        let root = root();
        let state = GuestState {
            hostname: Some("job-1".into()),
            machine_id: Some([0xab; 16]),
            ..GuestState::default()
        };
        set(&state, root.path(), false).unwrap();
        let read = |name| fs::read_to_string(root.path().join("etc").join(name)).unwrap();
        assert_eq!(read("hostname"), "job-1\n");
        assert_eq!(read("hosts"), "127.0.1.1\tjob-1\n");
        assert_eq!(read("machine-id"), "ab".repeat(16) + "\n");
    }

    #[test]
    fn a_host_name_with_a_line_break_is_refused() {
        assert!(check_hostname("a\n10.0.0.1 evil").is_err());
        assert!(check_hostname("").is_err());
        assert!(check_hostname("a-1.example").is_ok());
    }
}
