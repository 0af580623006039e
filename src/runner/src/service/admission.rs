//! What VMs may have together, and what of it is taken.

use std::fmt;

/// So much of processors and memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Amount {
    pub(crate) vcpus: u32,
    pub(crate) memory_mib: u32,
}

impl Amount {
    /// Whether there is enough for `other`.
    pub(crate) fn covers(self, other: Self) -> bool {
        self.vcpus >= other.vcpus && self.memory_mib >= other.memory_mib
    }

    /// How often `other` fits.
    pub(crate) fn times(self, other: Self) -> u32 {
        (self.vcpus / other.vcpus.max(1)).min(self.memory_mib / other.memory_mib.max(1))
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} processors and {} MiB", self.vcpus, self.memory_mib)
    }
}

/// The ledger.
#[derive(Debug)]
pub(crate) struct Admission {
    budget: Amount,
    most: usize,
    taken: Amount,
    count: usize,
}

impl Admission {
    /// For at most so many VMs that have together at most the budget.
    pub(crate) fn new(budget: Amount, most: usize) -> Self {
        Self { budget, most, taken: Amount::default(), count: 0 }
    }

    /// Whether a VM of this size may start now.
    pub(crate) fn has_room(&self, amount: Amount) -> bool {
        self.count < self.most && self.free().covers(amount)
    }

    /// What is not taken.
    pub(crate) fn free(&self) -> Amount {
        Amount {
            vcpus: self.budget.vcpus.saturating_sub(self.taken.vcpus),
            memory_mib: self.budget.memory_mib.saturating_sub(self.taken.memory_mib),
        }
    }

    /// Takes it, if there is room.
    pub(crate) fn admit(&mut self, amount: Amount) -> bool {
        let has_room = self.has_room(amount);
        if has_room {
            self.count += 1;
            self.taken.vcpus += amount.vcpus;
            self.taken.memory_mib += amount.memory_mib;
        }
        has_room
    }

    /// Gives it back.
    pub(crate) fn release(&mut self, amount: Amount) {
        self.count = self.count.saturating_sub(1);
        self.taken.vcpus = self.taken.vcpus.saturating_sub(amount.vcpus);
        self.taken.memory_mib = self.taken.memory_mib.saturating_sub(amount.memory_mib);
    }

    /// What is taken, and by how many.
    pub(crate) fn taken(&self) -> (Amount, usize) {
        (self.taken, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scarcest_thing_decides() {
        let mut admission = Admission::new(Amount { vcpus: 4, memory_mib: 2048 }, 3);
        let small = Amount { vcpus: 1, memory_mib: 512 };
        assert!(admission.admit(Amount { vcpus: 3, memory_mib: 512 }));
        assert!(!admission.has_room(Amount { vcpus: 2, memory_mib: 1 }));
        assert!(!admission.has_room(Amount { vcpus: 1, memory_mib: 1537 }));
        assert!(admission.admit(small));
        assert_eq!(admission.taken(), (Amount { vcpus: 4, memory_mib: 1024 }, 2));
        admission.release(small);
        assert!(admission.has_room(small));
    }

    #[test]
    fn no_more_than_so_many_at_once() {
        let mut admission = Admission::new(Amount { vcpus: 64, memory_mib: 65536 }, 1);
        let small = Amount { vcpus: 1, memory_mib: 1 };
        assert!(admission.admit(small) && !admission.admit(small));
    }
}
