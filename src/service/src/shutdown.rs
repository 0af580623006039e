//! The end of the service: waits until the last outcomes are sent.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, at, never, select};
use nix::sys::signal::Signal;

use super::phase::Phase;
use super::report::Reporter;
use super::source::Source;

/// How long the last outcomes are sent after all jobs have ended: long enough for a restart of the platform;
/// and in a fast shutdown.
const REPORT_TIMEOUT: Duration = Duration::from_secs(60);
const FAST_SHUTDOWN_REPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// Waits until the reporter has sent all outcomes, or for the time limit of `phase`, which a signal may shorten. The
/// rest is sent after the next start.
pub(super) fn send_last_reports(
    reporter: Reporter,
    source: &dyn Source,
    mut signals: Receiver<Signal>,
    phase: Phase,
) {
    let timeout =
        if phase == Phase::FastShutdown { FAST_SHUTDOWN_REPORT_TIMEOUT } else { REPORT_TIMEOUT };
    let mut deadline = Instant::now() + timeout;
    loop {
        select! {
            recv(reporter.done()) -> _ => break,
            recv(at(deadline)) -> _ => break,
            recv(signals) -> signal => match signal.map(|signal| phase.after(signal)) {
                Ok(Phase::FastShutdown) => {
                    source.abort_claims();
                    deadline = deadline.min(Instant::now() + FAST_SHUTDOWN_REPORT_TIMEOUT);
                }
                Ok(_) => {}
                Err(_) => signals = never(),
            },
        }
    }
    reporter.stop();
}
