//! The memory limit for request bodies, in total and per client.
//!
//! Received bytes count, not the announced length. A small body does not count: the number of
//! connections bounds them, and small requests succeed while large ones fill the memory.

use std::collections::HashMap;

use base::sync::{Mutex, MutexGuard};

use crate::refusal::Refusal;

/// A body of at most this size does not count.
pub(crate) const SMALL: u64 = 64 * 1024;

/// A client gets this fraction of the memory.
const SHARES: u64 = 4;

/// The account that a body's memory is charged to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Account {
    /// Trusted clients, whose memory is separate from that of all others.
    Trusted,
    /// A client under any name, which gets a quarter of the others' memory.
    Client(String),
}

/// The memory of all bodies: one part for trusted clients, one for all others.
pub(crate) struct Memory {
    limit: u64,
    used: Mutex<Used>,
}

#[derive(Default)]
struct Used {
    clients: u64,
    by_account: HashMap<Account, u64>,
}

impl Memory {
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit, used: Mutex::default() }
    }

    /// An empty reservation for an account.
    pub(crate) fn open(&self, account: Account) -> Reservation<'_> {
        Reservation { memory: self, account, size: 0 }
    }

    fn lock(&self) -> MutexGuard<'_, Used> {
        self.used.lock()
    }
}

/// The memory of a body. Dropping it releases it.
pub(crate) struct Reservation<'a> {
    memory: &'a Memory,
    account: Account,
    size: u64,
}

impl Reservation<'_> {
    /// Reserves `size` bytes in all.
    pub(crate) fn grow_to(&mut self, size: u64) -> Result<(), Refusal> {
        self.grow(size.saturating_sub(self.size))
    }

    /// Reserves more.
    fn grow(&mut self, size: u64) -> Result<(), Refusal> {
        let limit = self.memory.limit;
        let is_client = self.account != Account::Trusted;
        let mut used = self.memory.lock();
        let own = used.by_account.get(&self.account).copied().unwrap_or(0).saturating_add(size);
        let most = if is_client { limit / SHARES } else { limit };
        if own > most || (is_client && used.clients.saturating_add(size) > limit) {
            return Err(Refusal::Busy);
        }
        used.by_account.insert(self.account.clone(), own);
        used.clients += if is_client { size } else { 0 };
        self.size += size;
        Ok(())
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let mut used = self.memory.lock();
        if self.account != Account::Trusted {
            used.clients -= self.size;
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

    fn client(name: &str) -> Account {
        Account::Client(name.to_owned())
    }

    #[test]
    fn dropping_a_reservation_releases_its_memory() {
        let memory = Memory::new(40);
        let mut first = memory.open(client("a"));
        first.grow(8).unwrap();

        assert!(memory.open(client("a")).grow(3).is_err());
        drop(first);
        assert!(memory.open(client("a")).grow(10).is_ok());
        assert!(memory.lock().by_account.is_empty());
    }

    #[test]
    fn reservations_of_one_client_share_a_limit() {
        let memory = Memory::new(40);
        let (mut one, mut other) = (memory.open(client("a")), memory.open(client("a")));
        one.grow(6).unwrap();

        assert!(other.grow(5).is_err());
        assert!(other.grow(4).is_ok());
        assert!(memory.open(client("b")).grow(10).is_ok());
    }

    #[test]
    fn clients_that_fill_their_memory_do_not_block_the_trusted() {
        let memory = Memory::new(40);
        let mut all = ["a", "b", "c", "d"].map(|name| memory.open(client(name)));
        all.iter_mut().for_each(|one| one.grow(10).unwrap());

        assert!(memory.open(client("e")).grow(1).is_err());
        assert!(memory.open(Account::Trusted).grow(40).is_ok());
    }
}
