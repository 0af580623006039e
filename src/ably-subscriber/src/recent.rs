//! The ids of recent messages: a message that the server resends after a reconnect is delivered once.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

/// More ids than a server resends.
const CAPACITY: usize = 1024;

/// Longer ids are not stored, so that memory is bounded; Ably's have about thirty bytes.
const MAX_LENGTH: usize = 256;

/// INVARIANT: both hold the same ids.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    known: HashSet<Arc<str>>,
    order: VecDeque<Arc<str>>,
}

impl Recent {
    /// Whether an id is new. A new id is stored; at capacity it replaces the oldest.
    pub(crate) fn is_new(&mut self, id: &str) -> bool {
        if id.len() > MAX_LENGTH {
            return true;
        }
        if self.known.contains(id) {
            return false;
        }
        if self.order.len() >= CAPACITY
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        let id: Arc<str> = id.into();
        self.known.insert(Arc::clone(&id));
        self.order.push_back(id);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_id_is_recognized() {
        let mut recent = Recent::default();

        assert!(recent.is_new("a"));
        assert!(!recent.is_new("a"));
    }

    #[test]
    fn the_oldest_id_is_dropped_at_capacity() {
        let mut recent = Recent::default();
        (0..=CAPACITY).for_each(|n| assert!(recent.is_new(&n.to_string())));

        assert!(!recent.is_new("1"));
        assert!(recent.is_new("0"));
        assert_eq!((recent.known.len(), recent.order.len()), (CAPACITY, CAPACITY));
    }

    #[test]
    fn overlong_ids_are_not_stored() {
        let mut recent = Recent::default();
        let id = "x".repeat(MAX_LENGTH + 1);

        assert!(recent.is_new(&id) && recent.is_new(&id));
        assert!(recent.known.is_empty());
    }
}
