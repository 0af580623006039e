//! A sandbox's part of the budget.

use std::sync::Arc;

use base::sync::Mutex;
use sandbox_api::{LaunchError, Reservation};

use crate::admission::{Admission, Resources};

/// What gives sandboxes their parts.
pub(super) struct Reservations {
    admission: Admission,
    max: usize,
    /// Sandboxes, paused ones included.
    count: Mutex<usize>,
    changed: Box<dyn Fn() + Send + Sync>,
}

/// One sandbox's part. Dropping it returns it.
pub(super) struct Reserved {
    from: Arc<Reservations>,
    resources: Resources,
    is_paused: bool,
}

impl Reservations {
    /// Those of at most `max` sandboxes. They call `changed` when they take or return resources.
    pub(super) fn new(
        admission: Admission,
        max: usize,
        changed: Box<dyn Fn() + Send + Sync>,
    ) -> Self {
        Self { admission, max, count: Mutex::new(0), changed }
    }

    pub(super) fn take(self: &Arc<Self>, resources: Resources) -> Result<Reserved, LaunchError> {
        let mut count = self.count.lock();
        if *count >= self.max {
            let reason = format!("it has {count} sandboxes, its limit");
            return Err(LaunchError::NoRoom { reason });
        }
        if !self.admission.admit(resources) {
            return Err(self.no_room(resources));
        }
        *count += 1;
        drop(count);
        (self.changed)();
        Ok(Reserved { from: Arc::clone(self), resources, is_paused: false })
    }

    pub(super) fn free_memory_mib(&self) -> u32 {
        self.admission.free().memory_mib
    }

    fn no_room(&self, resources: Resources) -> LaunchError {
        let free = self.admission.free();
        let reason = format!("it needs {resources}, and {free} are free, or too many VMs run");
        LaunchError::NoRoom { reason }
    }
}

impl Reservation for Reserved {
    fn pause(&mut self) {
        self.from.admission.suspend(self.resources);
        self.is_paused = true;
        (self.from.changed)();
    }

    fn resume(&mut self) -> Result<(), LaunchError> {
        if !self.from.admission.resume(self.resources) {
            return Err(self.from.no_room(Resources { memory_mib: 0, ..self.resources }));
        }
        self.is_paused = false;
        (self.from.changed)();
        Ok(())
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if self.is_paused {
            self.from.admission.release_suspended(self.resources);
        } else {
            self.from.admission.release(self.resources);
        }
        *self.from.count.lock() -= 1;
        (self.from.changed)();
    }
}
