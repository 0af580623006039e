//! A list that announces more elements than it brings costs what it brings.

use std::alloc::{Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use vsock_proto::{Decoder, HostMessage};

#[path = "memory/sys.rs"]
mod sys;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: sys::Watching<System> = sys::Watching(System);

/// Takes note of each allocation's size.
fn watch(layout: Layout) {
    LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
}

#[test]
fn a_list_of_a_billion_announced_arguments_is_refused_cheaply() {
    // Request 1, an exec, whose argv announces 2^30 elements and brings none.
    let payload = [1, 3, 0x80, 0x80, 0x80, 0x80, 0x04];
    let mut wire = vec![payload.len() as u8, 0, 0, 0];
    wire.extend_from_slice(&payload);
    let mut decoder = Decoder::new();
    decoder.push(&wire);
    LARGEST.store(0, Ordering::Relaxed);
    assert!(decoder.next::<HostMessage>().is_err());
    assert!(LARGEST.load(Ordering::Relaxed) < 4096);
}
