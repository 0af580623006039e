//! Following a job: pages are fetched one after the other by long polls.

use std::vec::IntoIter;

use crate::{Page, Result};

type Ask<T> = Box<dyn FnMut(i64) -> Result<Page<T>> + Send>;

/// The stored and the future items of a job, until it has ended. After an error the iterator
/// continues behind the last item, so no item is lost or duplicated.
pub struct Follow<T> {
    ask: Ask<T>,
    items: IntoIter<T>,
    next: i64,
    is_over: bool,
}

impl<T> Follow<T> {
    pub(super) fn new(after: i64, ask: Ask<T>) -> Self {
        Self { ask, items: Vec::new().into_iter(), next: after, is_over: false }
    }
}

impl<T> Iterator for Follow<T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Result<T>> {
        loop {
            if let Some(item) = self.items.next() {
                return Some(Ok(item));
            }
            if self.is_over {
                return None;
            }
            match (self.ask)(self.next) {
                Ok(page) => {
                    self.is_over = page.is_last;
                    self.next = page.next;
                    self.items = page.items.into_iter();
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
