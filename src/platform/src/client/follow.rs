//! Following a job: page after page, each asked for when the one before is used up, and waited for
//! at the other end.

use std::vec::IntoIter;

use crate::{Page, Result};

type Ask<T> = Box<dyn FnMut(i64) -> Result<Page<T>> + Send>;

/// What was stored of a job and what will be, until the job has ended. An error is not the end: the
/// next is asked for after the last that came, so nothing is lost or doubled.
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
