//! QEMU's monitor protocol, QMP: lines of JSON over an inherited socket pair.
//!
//! QEMU sends a greeting first, and events at any time. They are read only during a call, so events that a
//! guest causes stay in the socket's small buffer.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use microvm::{Error, Remote, Result, time_left};
use serde_json::{Value, json};

use crate::vsock_device;

/// The longest line. Usual replies and events have some hundred bytes.
const MAX_LINE: usize = 64 << 10;
/// The most lines before a reply.
const MAX_EVENTS: usize = 4096;

/// Our end of the connection.
///
/// INVARIANT: after a call without its reply it is broken: a late reply would be taken for that of another
/// call.
pub(crate) struct Qmp {
    stream: UnixStream,
    received: Vec<u8>,
    is_ready: bool,
    is_broken: bool,
}

/// An error of QMP.
#[derive(Debug, thiserror::Error)]
enum QmpError {
    #[error("QEMU does not answer `{command}`")]
    Silent { command: String, source: io::Error },
    #[error("QEMU refuses `{command}`: {reason}")]
    Refused { command: String, reason: String },
    #[error("QEMU's answer to `{command}` is malformed")]
    Garbled { command: String },
    #[error("`{command}` is not sent: QEMU did not answer before")]
    Broken { command: String },
}

impl Qmp {
    /// Uses the socket whose other end QEMU has.
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self { stream, received: Vec::new(), is_ready: false, is_broken: false }
    }

    /// Executes a command, and waits for its reply.
    fn call(&mut self, command: &str, arguments: &Value, deadline: Instant) -> Result<Value> {
        if !self.is_ready {
            self.ask("qmp_capabilities", &Value::Null, deadline).map_err(of)?;
            self.is_ready = true;
        }
        self.ask(command, arguments, deadline).map_err(of)
    }

    fn ask(
        &mut self,
        command: &str,
        arguments: &Value,
        deadline: Instant,
    ) -> std::result::Result<Value, QmpError> {
        let name = || command.to_owned();
        if std::mem::replace(&mut self.is_broken, true) {
            return Err(QmpError::Broken { command: name() });
        }
        let silent = |source| QmpError::Silent { command: name(), source };
        let mut line = match arguments {
            Value::Null => json!({"execute": command}),
            arguments => json!({"execute": command, "arguments": arguments}),
        }
        .to_string();
        line.push('\n');
        self.stream
            .set_write_timeout(Some(time_left(deadline).map_err(silent)?))
            .map_err(silent)?;
        self.stream.write_all(line.as_bytes()).map_err(silent)?;
        for _ in 0..MAX_EVENTS {
            let line = self.line(deadline).map_err(silent)?;
            let mut said: Value =
                serde_json::from_slice(&line).map_err(|_| QmpError::Garbled { command: name() })?;
            if let Some(reply) = said.get_mut("return") {
                self.is_broken = false;
                return Ok(reply.take());
            }
            if let Some(error) = said.get("error") {
                self.is_broken = false;
                let reason = error["desc"].as_str().unwrap_or("it does not say why").to_owned();
                return Err(QmpError::Refused { command: name(), reason });
            }
        }
        Err(QmpError::Garbled { command: name() })
    }

    fn line(&mut self, deadline: Instant) -> io::Result<Vec<u8>> {
        loop {
            if let Some(end) = self.received.iter().position(|&byte| byte == b'\n') {
                return Ok(self.received.drain(..=end).collect());
            }
            if self.received.len() > MAX_LINE {
                return Err(io::Error::new(ErrorKind::InvalidData, "a line without an end"));
            }
            let mut buffer = [0; 4096];
            self.stream.set_read_timeout(Some(time_left(deadline)?))?;
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.received.extend(buffer.iter().take(count)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn of(error: QmpError) -> Error {
    Error::Monitor(error.into())
}

/// A running VM.
pub(crate) struct Vm {
    pub(crate) qmp: Qmp,
    pub(crate) memory_mib: u32,
    /// The process id of the vsock device.
    pub(crate) device: u32,
}

impl Remote for Vm {
    fn pause(&mut self, deadline: Instant) -> Result<()> {
        vsock_device::wait_until_idle(self.device, deadline);
        self.qmp.call("stop", &Value::Null, deadline).map(drop)
    }

    fn resume(&mut self, deadline: Instant) -> Result<()> {
        self.qmp.call("cont", &Value::Null, deadline)?;
        // QEMU has told the device to start its queues, and does not wait for that.
        vsock_device::wait_until_idle(self.device, deadline);
        Ok(())
    }

    /// QEMU's balloon value is the memory that the guest keeps.
    fn set_balloon(&mut self, mib: u32, deadline: Instant) -> Result<()> {
        let left = u64::from(self.memory_mib.saturating_sub(mib)) << 20;
        self.qmp.call("balloon", &json!({"value": left}), deadline).map(drop)
    }

    fn balloon(&mut self, deadline: Instant) -> Result<u32> {
        let reply = self.qmp.call("query-balloon", &Value::Null, deadline)?;
        let garbled = || of(QmpError::Garbled { command: "query-balloon".to_owned() });
        let left = reply["actual"].as_u64().ok_or_else(garbled)? >> 20;
        Ok(self.memory_mib.saturating_sub(u32::try_from(left).unwrap_or(u32::MAX)))
    }

    fn save(&mut self, _deadline: Instant) -> Result<()> {
        Err(Error::NoSnapshots { kind: crate::KIND })
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// What a QEMU that says this makes of `balloon`, and what it was asked.
    fn balloon(said: &str) -> (Result<u32>, String) {
        let (ours, mut qemus) = UnixStream::pair().unwrap();
        qemus.write_all(said.as_bytes()).unwrap();
        qemus.shutdown(std::net::Shutdown::Write).unwrap();
        let mut vm = Vm { qmp: Qmp::new(ours), memory_mib: 512, device: 0 };
        let deadline = Instant::now() + Duration::from_secs(60);
        let reply = vm.balloon(deadline);
        drop(vm);
        let mut asked = String::new();
        // Unread data would reset the connection.
        let _ = qemus.read_to_string(&mut asked);
        (reply, asked)
    }

    const GREETING: &str = "{\"QMP\": {}}\r\n{\"return\": {}}\r\n";

    #[test]
    fn the_balloon_size_is_computed_from_the_guests_memory() {
        let said = format!("{GREETING}{{\"return\": {{\"actual\": 402653184}}}}\r\n");
        let (mib, asked) = balloon(&said);
        assert_eq!(mib.unwrap(), 128);
        assert_eq!(asked, "{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"query-balloon\"}\n");
    }

    #[test]
    fn events_are_not_taken_for_replies() {
        let event = "{\"event\": \"BALLOON_CHANGE\", \"data\": {\"actual\": 1}}\r\n";
        let said = format!("{GREETING}{event}{{\"return\": {{\"actual\": 0}}}}\r\n");
        assert_eq!(balloon(&said).0.unwrap(), 512);
    }

    #[test]
    fn an_error_has_the_message_of_qemu() {
        let said = format!(
            "{GREETING}{{\"error\": {{\"class\": \"X\", \"desc\": \"No balloon device\"}}}}\n"
        );
        let error = balloon(&said).0.unwrap_err().to_string();
        assert_eq!(error, "QEMU refuses `query-balloon`: No balloon device");
    }

    #[test]
    fn a_malformed_reply_and_a_timeout_are_errors() {
        assert!(balloon("what?\n").0.is_err());
        assert!(balloon("").0.is_err());
        assert!(balloon(&"x".repeat(100_000)).0.is_err());
    }

    #[test]
    fn a_call_without_a_reply_is_the_last_one() {
        let (ours, qemus) = UnixStream::pair().unwrap();
        let mut vm = Vm { qmp: Qmp::new(ours), memory_mib: 512, device: 0 };
        assert!(vm.pause(Instant::now()).is_err());
        let error = vm.pause(Instant::now() + Duration::from_secs(60)).unwrap_err().to_string();
        assert!(error.ends_with("QEMU did not answer before"), "{error}");
        drop(qemus);
    }

    #[test]
    fn a_guest_keeps_the_memory_that_the_balloon_does_not_take() {
        let (ours, mut qemus) = UnixStream::pair().unwrap();
        qemus.write_all(format!("{GREETING}{{\"return\": {{}}}}\n").as_bytes()).unwrap();
        let mut vm = Vm { qmp: Qmp::new(ours), memory_mib: 512, device: 0 };
        let asked = thread::scope(|scope| {
            let qemu = scope.spawn(|| {
                let mut asked = String::new();
                qemus.read_to_string(&mut asked).map(|_| asked)
            });
            vm.set_balloon(384, Instant::now() + Duration::from_secs(60)).unwrap();
            drop(vm);
            qemu.join().unwrap().unwrap()
        });
        assert!(asked.ends_with("{\"arguments\":{\"value\":134217728},\"execute\":\"balloon\"}\n"));
    }
}
