//! What all calls of a server work on.

use std::sync::Arc;

use sandbox_api::Sandboxes;

use crate::options::Options;
use crate::port::Ports;

pub(crate) struct Context {
    pub(crate) sandboxes: Arc<Sandboxes>,
    pub(crate) options: Options,
    pub(crate) ports: Ports,
}
