//! Logging to the console, which is standard error.

use std::fs;
use std::io::{self, Write};

use log::{LevelFilter, Log, Metadata, Record};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use vsock_proto::BOOT_FAILURE_PREFIX;

/// The kernel command-line option that turns on debug logs.
const DEBUG: &str = "sandbox.debug";

struct Console;

impl Log for Console {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let level = record.level().as_str().to_ascii_lowercase();
            write(&format!("guest-init: {level}: {}\n", record.args()));
        }
    }

    fn flush(&self) {}
}

/// Logs warnings and errors from now on.
pub(crate) fn log_errors() {
    // Fails only if there is a logger already.
    if log::set_logger(&Console).is_ok() {
        log::set_max_level(LevelFilter::Warn);
    }
}

/// Sets the log level from the kernel's command line, which needs `/proc`.
pub(crate) fn log_as_asked() {
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    if asks_for_debug(&line) {
        log::set_max_level(LevelFilter::Debug);
    }
}

/// Makes the console standard error: whether the kernel did depends on the initramfs.
pub(crate) fn attach() {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let attached = open("/dev/console", flags, Mode::empty()).and_then(nix::unistd::dup2_stderr);
    if let Err(errno) = attached {
        // A machine without a console boots, too.
        log::warn!("no console; error={errno}");
    }
}

/// Prints the reason that the guest cannot continue where the host looks for it.
pub(crate) fn tell_failure(reason: &str) {
    // Start a new line, as another line may be half written.
    write(&format!("\n{BOOT_FAILURE_PREFIX}{}\n", reason.replace('\n', " ")));
    // Power off would lose the bytes in the serial device's buffer.
    if let Err(errno) = nix::sys::termios::tcdrain(io::stderr()) {
        log::debug!("the console is not drained; error={errno}");
    }
}

/// Unlike `eprintln!`, this does not panic if standard error is unusable.
fn write(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

fn asks_for_debug(line: &str) -> bool {
    line.split_ascii_whitespace().any(|word| word == DEBUG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_debug_option_enables_debug_output() {
        assert!(asks_for_debug("quiet sandbox.debug\n"));
        assert!(!asks_for_debug("quiet sandbox.debugger"));
        assert!(!asks_for_debug(""));
    }

    #[test]
    fn a_chain_names_all_causes() {
        let error = crate::Error::LoadModule {
            path: "/modules/overlay.ko".into(),
            source: nix::errno::Errno::ENOEXEC,
        };
        assert_eq!(
            base::error::chain(&error),
            "cannot load the kernel module /modules/overlay.ko: ENOEXEC: Exec format error"
        );
    }
}
