//! The guest's end of the guest link.
