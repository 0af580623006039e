//! How much memory the bodies of requests may take together, and any one of those who send them.
//!
//! What is counted is what came, not what was announced: a length costs nothing. A small body is
//! not counted at all: there are no more of them than connections, and whoever has little to say is
//! heard while others fill the memory.

use std::collections::HashMap;

use base::sync::{Mutex, MutexGuard};

use crate::Refusal;

/// Up to here a body is not counted.
pub(super) const SMALL: u64 = 64 * 1024;

/// One that is not trusted gets one part in so many.
const SHARES: u64 = 4;

/// Whose memory a body takes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Account {
    /// Runners and the operator. What guests take is not taken from them.
    Trusted,
    /// Somebody who gets a share and no more: an attempt at a job.
    Guest(String),
}

/// The memory of all bodies: once for those who are trusted, once for all others.
pub(super) struct Memory {
    limit: u64,
    used: Mutex<Used>,
}

#[derive(Default)]
struct Used {
    guests: u64,
    by_account: HashMap<Account, u64>,
}

impl Memory {
    pub(super) fn new(limit: u64) -> Self {
        Self { limit, used: Mutex::default() }
    }

    /// Counts for an account, from nothing.
    pub(super) fn open(&self, account: Account) -> Reservation<'_> {
        Reservation { memory: self, account, size: 0 }
    }

    fn lock(&self) -> MutexGuard<'_, Used> {
        self.used.lock()
    }
}

/// What a body has taken. Dropping it gives it back.
pub(super) struct Reservation<'a> {
    memory: &'a Memory,
    account: Account,
    size: u64,
}

impl Reservation<'_> {
    /// Takes more.
    pub(super) fn grow(&mut self, size: u64) -> Result<(), Refusal> {
        let limit = self.memory.limit;
        let is_guest = self.account != Account::Trusted;
        let mut used = self.memory.lock();
        let own = used.by_account.get(&self.account).copied().unwrap_or(0).saturating_add(size);
        let most = if is_guest { limit / SHARES } else { limit };
        if own > most || (is_guest && used.guests.saturating_add(size) > limit) {
            return Err(Refusal::Busy);
        }
        used.by_account.insert(self.account.clone(), own);
        used.guests += if is_guest { size } else { 0 };
        self.size += size;
        Ok(())
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let mut used = self.memory.lock();
        if self.account != Account::Trusted {
            used.guests -= self.size;
        }
        if let Some(own) = used.by_account.get_mut(&self.account) {
            *own -= self.size;
            if *own == 0 {
                used.by_account.remove(&self.account);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(name: &str) -> Account {
        Account::Guest(name.to_owned())
    }

    #[test]
    fn memory_is_given_out_once_and_comes_back() {
        let memory = Memory::new(40);
        let mut first = memory.open(guest("a"));
        first.grow(8).unwrap();

        assert!(memory.open(guest("a")).grow(3).is_err());
        drop(first);
        assert!(memory.open(guest("a")).grow(10).is_ok());
        assert!(memory.lock().by_account.is_empty());
    }

    #[test]
    fn a_guest_gets_its_share_whatever_it_opens() {
        let memory = Memory::new(40);
        let (mut one, mut other) = (memory.open(guest("a")), memory.open(guest("a")));
        one.grow(6).unwrap();

        assert!(other.grow(5).is_err());
        assert!(other.grow(4).is_ok());
        assert!(memory.open(guest("b")).grow(10).is_ok());
    }

    #[test]
    fn guests_that_fill_the_memory_leave_that_of_runners() {
        let memory = Memory::new(40);
        let mut all = ["a", "b", "c", "d"].map(|name| memory.open(guest(name)));
        all.iter_mut().for_each(|one| one.grow(10).unwrap());

        assert!(memory.open(guest("e")).grow(1).is_err());
        assert!(memory.open(Account::Trusted).grow(40).is_ok());
    }
}
