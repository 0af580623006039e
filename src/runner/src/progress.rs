//! Progress of builds and copies: a bar on a terminal, else plain lines; nothing with `--quiet`.

use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rootfs::{Progress, Step};
use sandbox::Special;

use crate::copy::CopyEvent;
use crate::output;

/// How many skipped files are listed.
const MOST_NAMED: u64 = 20;

/// For work with a known total.
const BAR: &str = "{prefix:16} [{bar:30}] {bytes}/{total_bytes}";
/// For work without a known total.
const COUNT: &str = "{prefix:16} {bytes}";
/// For long work without a known total.
const RATE: &str = "{prefix:16} {bytes}, {bytes_per_sec}, {msg}";
const WORD: &str = "{prefix:16} …";

/// Prints the progress of an image build.
pub(crate) struct Build {
    bar: Option<ProgressBar>,
    is_quiet: bool,
}

impl Build {
    pub(crate) fn new(is_quiet: bool) -> Self {
        let bar = (!is_quiet && io::stderr().is_terminal()).then(hidden);
        Self { bar, is_quiet }
    }

    pub(crate) fn show(&mut self, progress: Progress) {
        match progress {
            Progress::Waiting => self.say("another build is running; waiting for it"),
            Progress::Started { step } => self.start(step),
            Progress::Advanced { done, total, .. } => self.advance(done, total),
            Progress::Finished { step, elapsed, cached } => {
                let how = if cached { "found".to_owned() } else { seconds(elapsed) };
                self.say(&format!("{:16} {how}", step.to_string()));
            }
            _ => {}
        }
    }

    fn start(&self, step: Step) {
        let Some(bar) = &self.bar else { return };
        bar.reset();
        bar.set_style(style(WORD));
        bar.set_prefix(step.to_string());
        bar.tick();
    }

    fn advance(&self, done: u64, total: Option<u64>) {
        let Some(bar) = &self.bar else { return };
        match total {
            Some(total) => {
                bar.set_style(style(BAR));
                bar.set_length(total);
            }
            None => bar.set_style(style(COUNT)),
        }
        bar.set_position(done);
    }

    fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| output::remark(line)),
            None if self.is_quiet => {}
            None => output::remark(line),
        }
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Prints the progress of a copy, and lists skipped files.
pub(crate) struct Copying {
    bar: Option<ProgressBar>,
    files: u64,
    skipped: u64,
}

impl Copying {
    pub(crate) fn new(is_quiet: bool) -> Self {
        let bar = (!is_quiet && io::stderr().is_terminal()).then(hidden);
        if let Some(bar) = &bar {
            bar.set_style(style(RATE));
            bar.set_prefix("copying");
        }
        Self { bar, files: 0, skipped: 0 }
    }

    pub(crate) fn note(&mut self, event: CopyEvent<'_>) {
        match event {
            CopyEvent::File => {
                self.files += 1;
                if let Some(bar) = &self.bar {
                    bar.set_message(format!("{} files", self.files));
                }
            }
            CopyEvent::Bytes(count) => {
                if let Some(bar) = &self.bar {
                    bar.inc(count);
                }
            }
            CopyEvent::Skipped { path, kind } => self.skip(path, kind),
        }
    }

    fn skip(&mut self, path: &Path, kind: Special) {
        self.skipped += 1;
        if self.skipped <= MOST_NAMED {
            self.warn(&format!("{} is {kind}: it is not copied", path.display()));
        }
    }

    fn warn(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| log::warn!("{line}")),
            None => log::warn!("{line}"),
        }
    }
}

impl Drop for Copying {
    fn drop(&mut self) {
        if self.skipped > MOST_NAMED {
            let more = self.skipped - MOST_NAMED;
            self.warn(&format!("{more} more sockets, FIFOs and devices are not copied"));
        }
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A bar that is invisible until it has content, and redrawn only on changes.
fn hidden() -> ProgressBar {
    ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10))
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_is_valid() {
        let templates = [BAR, COUNT, RATE, WORD];
        assert!(templates.iter().all(|text| ProgressStyle::with_template(text).is_ok()));
    }
}
