//! A reply as a stream of server-sent events.

use std::cell::RefCell;
use std::io::{self, Write as _};

use http_server::BodyWriter;
use serde_json::Value;

use crate::call::Sink;

pub(super) struct Events<'a, 'b>(RefCell<&'a mut BodyWriter<'b>>);

impl<'a, 'b> Events<'a, 'b> {
    pub(super) fn new(writer: &'a mut BodyWriter<'b>) -> Self {
        Self(RefCell::new(writer))
    }

    /// Sends the reply, which is the last event.
    pub(super) fn finish(&self, reply: &Value) -> io::Result<()> {
        self.write(&event(reply))
    }

    fn write(&self, text: &str) -> io::Result<()> {
        self.0.borrow_mut().write_all(text.as_bytes())
    }
}

impl Sink for Events<'_, '_> {
    fn send(&self, message: &Value) {
        let _ = self.write(&event(message));
    }

    fn beat(&self) {
        // A comment: proxies close connections on which nothing happens.
        let _ = self.write(":\n\n");
    }
}

/// JSON has no line breaks outside of its strings, where they are escaped.
fn event(message: &Value) -> String {
    format!("event: message\ndata: {message}\n\n")
}
