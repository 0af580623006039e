//! A registry of scripted sandboxes, and a clock that tests set.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use base::sync::Mutex;
use sandbox::fake::Script;

use crate::clock::Clock;
use crate::fake::FakeLauncher;
use crate::sandboxes::{Sandboxes, Settings};

/// A clock that stands still unless a test moves it.
pub(crate) struct ManualClock {
    start: (Instant, SystemTime),
    passed: Mutex<Duration>,
}

impl ManualClock {
    pub(crate) fn new() -> Arc<Self> {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        Arc::new(Self { start: (Instant::now(), wall), passed: Mutex::default() })
    }

    pub(crate) fn advance(&self, duration: Duration) {
        *self.passed.lock() += duration;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        self.start.0 + *self.passed.lock()
    }

    fn wall(&self) -> SystemTime {
        self.start.1 + *self.passed.lock()
    }
}

/// A registry with a launcher of scripted sandboxes, and a clock of its own.
pub(crate) fn registry(script: Script) -> (Arc<Sandboxes>, Arc<FakeLauncher>, Arc<ManualClock>) {
    let (launcher, clock) = (FakeLauncher::new(script), ManualClock::new());
    let sandboxes = Sandboxes::start(launcher.clone(), Settings::default(), clock.clone()).unwrap();
    (Arc::new(sandboxes), launcher, clock)
}
