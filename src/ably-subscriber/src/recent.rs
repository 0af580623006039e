//! Which messages came lately: what is sent again after a connection was lost comes once.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

/// More than a server sends again of what was already delivered.
const MOST: usize = 1024;

/// Longer ids are not remembered, so that memory is bounded; Ably's have some thirty bytes.
const LONGEST: usize = 256;

/// INVARIANT: both hold the same ids.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    known: HashSet<Arc<str>>,
    order: VecDeque<Arc<str>>,
}

impl Recent {
    /// Whether it is new; then it is remembered, and what came longest ago may be forgotten.
    pub(crate) fn is_new(&mut self, id: &str) -> bool {
        if id.len() > LONGEST {
            return true;
        }
        if self.known.contains(id) {
            return false;
        }
        if self.order.len() >= MOST
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
    fn an_id_is_new_once() {
        let mut recent = Recent::default();

        assert!(recent.is_new("a"));
        assert!(!recent.is_new("a"));
    }

    #[test]
    fn what_came_longest_ago_is_forgotten() {
        let mut recent = Recent::default();
        (0..=MOST).for_each(|n| assert!(recent.is_new(&n.to_string())));

        assert!(!recent.is_new("1"));
        assert!(recent.is_new("0"));
        assert_eq!((recent.known.len(), recent.order.len()), (MOST, MOST));
    }

    #[test]
    fn endless_ids_take_no_memory() {
        let mut recent = Recent::default();
        let id = "x".repeat(LONGEST + 1);

        assert!(recent.is_new(&id) && recent.is_new(&id));
        assert!(recent.known.is_empty());
    }
}
