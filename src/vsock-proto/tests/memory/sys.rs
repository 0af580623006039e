//! The allocator that watches allocations.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout};

/// Reports every allocation to [`super::watch`], then passes it on.
pub(crate) struct Watching<A>(pub(crate) A);

// SAFETY: every call goes to `A` with the arguments as they came; `watch` does not allocate.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Watching<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        super::watch(layout);
        // SAFETY: the caller upholds `alloc`'s contract, which is the same for `A`.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `A` by the `alloc` above, with this layout.
        unsafe { self.0.dealloc(pointer, layout) }
    }
}
