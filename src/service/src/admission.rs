//! Admission control: a budget of CPUs and memory for concurrent VMs.

use std::fmt;
use std::sync::Arc;

use base::sync::Mutex;

/// An amount of CPUs and memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Resources {
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory, in MiB.
    pub memory_mib: u32,
}

impl Resources {
    /// Whether `other` fits into this.
    pub(crate) fn covers(self, other: Self) -> bool {
        self.vcpus >= other.vcpus && self.memory_mib >= other.memory_mib
    }

    /// How many times `other` fits into this.
    pub(crate) fn capacity_for(self, other: Self) -> u32 {
        (self.vcpus / other.vcpus.max(1)).min(self.memory_mib / other.memory_mib.max(1))
    }
}

impl fmt::Display for Resources {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} CPUs and {} MiB", self.vcpus, self.memory_mib)
    }
}

/// The budget, and how much of it is allocated. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Admission {
    budget: Resources,
    max_vms: usize,
    allocated: Arc<Mutex<Allocated>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Allocated {
    resources: Resources,
    /// The VMs that have vCPUs.
    count: usize,
}

impl Admission {
    /// Admits at most `max_vms` VMs, which together use at most `budget`.
    pub(crate) fn new(budget: Resources, max_vms: usize) -> Self {
        Self { budget, max_vms, allocated: Arc::default() }
    }

    /// Whether a VM of this size may start now.
    pub(crate) fn has_room(&self, resources: Resources) -> bool {
        self.fits(*self.allocated.lock(), resources)
    }

    /// The unallocated part of the budget.
    pub(crate) fn free(&self) -> Resources {
        self.free_beside(*self.allocated.lock())
    }

    /// Allocates the resources of a VM. Returns false if they do not fit.
    pub(crate) fn admit(&self, resources: Resources) -> bool {
        let mut allocated = self.allocated.lock();
        let has_room = self.fits(*allocated, resources);
        if has_room {
            allocated.count += 1;
            allocated.resources.vcpus += resources.vcpus;
            allocated.resources.memory_mib += resources.memory_mib;
        }
        has_room
    }

    /// Returns the resources of a VM to the budget.
    pub(crate) fn release(&self, resources: Resources) {
        self.suspend(resources);
        self.release_suspended(resources);
    }

    /// Returns the vCPUs of a VM that is paused.
    pub(crate) fn suspend(&self, resources: Resources) {
        let mut allocated = self.allocated.lock();
        allocated.count = allocated.count.saturating_sub(1);
        let vcpus = &mut allocated.resources.vcpus;
        *vcpus = vcpus.saturating_sub(resources.vcpus);
    }

    /// Allocates the vCPUs of a VM that was paused. Returns false if they do not fit.
    pub(crate) fn resume(&self, resources: Resources) -> bool {
        self.admit(Resources { memory_mib: 0, ..resources })
    }

    /// Returns the memory of a VM that is paused.
    pub(crate) fn release_suspended(&self, resources: Resources) {
        let memory_mib = &mut self.allocated.lock().resources.memory_mib;
        *memory_mib = memory_mib.saturating_sub(resources.memory_mib);
    }

    /// The allocated resources, and the number of VMs that have vCPUs.
    pub(crate) fn allocated(&self) -> (Resources, usize) {
        let allocated = self.allocated.lock();
        (allocated.resources, allocated.count)
    }

    fn fits(&self, allocated: Allocated, resources: Resources) -> bool {
        allocated.count < self.max_vms && self.free_beside(allocated).covers(resources)
    }

    fn free_beside(&self, Allocated { resources, .. }: Allocated) -> Resources {
        Resources {
            vcpus: self.budget.vcpus.saturating_sub(resources.vcpus),
            memory_mib: self.budget.memory_mib.saturating_sub(resources.memory_mib),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_is_admitted_only_if_both_cpus_and_memory_suffice() {
        let admission = Admission::new(Resources { vcpus: 4, memory_mib: 2048 }, 3);
        let small = Resources { vcpus: 1, memory_mib: 512 };
        assert!(admission.admit(Resources { vcpus: 3, memory_mib: 512 }));
        assert!(!admission.has_room(Resources { vcpus: 2, memory_mib: 1 }));
        assert!(!admission.has_room(Resources { vcpus: 1, memory_mib: 1537 }));
        assert!(admission.admit(small));
        assert_eq!(admission.allocated(), (Resources { vcpus: 4, memory_mib: 1024 }, 2));
        admission.release(small);
        assert!(admission.has_room(small));
    }

    #[test]
    fn a_paused_vm_keeps_its_memory_only() {
        let admission = Admission::new(Resources { vcpus: 2, memory_mib: 1024 }, 1);
        let size = Resources { vcpus: 2, memory_mib: 600 };
        assert!(admission.admit(size));
        admission.suspend(size);
        assert!(!admission.has_room(size));
        let other = Resources { vcpus: 2, memory_mib: 424 };
        assert!(admission.admit(other) && !admission.resume(size));
        admission.release(other);
        assert!(admission.resume(size));
        admission.suspend(size);
        admission.release_suspended(size);
        assert_eq!(admission.allocated(), (Resources::default(), 0));
    }

    #[test]
    fn no_more_than_the_maximum_number_of_vms_is_admitted() {
        let admission = Admission::new(Resources { vcpus: 64, memory_mib: 65536 }, 1);
        let small = Resources { vcpus: 1, memory_mib: 1 };
        assert!(admission.admit(small) && !admission.admit(small));
    }
}
