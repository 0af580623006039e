//! An API for programs that use sandboxes. It knows sandboxes by the trait only.
//!
//! | module | content |
//! |---|---|
//! | [`files`] | files in a sandbox: describe, list, make, move, remove, watch, read, write |

pub mod files;
