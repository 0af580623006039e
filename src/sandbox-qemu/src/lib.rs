//! Sandboxes as QEMU microvm machines.
