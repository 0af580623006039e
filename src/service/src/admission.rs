//! Admission control: a budget of CPUs and memory for concurrent VMs.

use std::fmt;

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

/// The budget, and how much of it is allocated.
#[derive(Debug)]
pub(crate) struct Admission {
    budget: Resources,
    max_vms: usize,
    allocated: Resources,
    count: usize,
}

impl Admission {
    /// Admits at most `max_vms` VMs, which together use at most `budget`.
    pub(crate) fn new(budget: Resources, max_vms: usize) -> Self {
        Self { budget, max_vms, allocated: Resources::default(), count: 0 }
    }

    /// Whether a VM of this size may start now.
    pub(crate) fn has_room(&self, resources: Resources) -> bool {
        self.count < self.max_vms && self.free().covers(resources)
    }

    /// The unallocated part of the budget.
    pub(crate) fn free(&self) -> Resources {
        Resources {
            vcpus: self.budget.vcpus.saturating_sub(self.allocated.vcpus),
            memory_mib: self.budget.memory_mib.saturating_sub(self.allocated.memory_mib),
        }
    }

    /// Allocates the resources of a VM. Returns false if they do not fit.
    pub(crate) fn admit(&mut self, resources: Resources) -> bool {
        let has_room = self.has_room(resources);
        if has_room {
            self.count += 1;
            self.allocated.vcpus += resources.vcpus;
            self.allocated.memory_mib += resources.memory_mib;
        }
        has_room
    }

    /// Returns the resources of a VM to the budget.
    pub(crate) fn release(&mut self, resources: Resources) {
        self.count = self.count.saturating_sub(1);
        self.allocated.vcpus = self.allocated.vcpus.saturating_sub(resources.vcpus);
        self.allocated.memory_mib = self.allocated.memory_mib.saturating_sub(resources.memory_mib);
    }

    /// The allocated resources and the number of VMs that use them.
    pub(crate) fn allocated(&self) -> (Resources, usize) {
        (self.allocated, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_is_admitted_only_if_both_cpus_and_memory_suffice() {
        let mut admission = Admission::new(Resources { vcpus: 4, memory_mib: 2048 }, 3);
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
    fn no_more_than_the_maximum_number_of_vms_is_admitted() {
        let mut admission = Admission::new(Resources { vcpus: 64, memory_mib: 65536 }, 1);
        let small = Resources { vcpus: 1, memory_mib: 1 };
        assert!(admission.admit(small) && !admission.admit(small));
    }
}
