//! `runner ssh-proxy`: connects standard input and output to an SSH server in a VM, as `ProxyCommand` of ssh.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sandbox::{Event, Execution, Outcome};

use crate::error::{Error, Result};
use crate::input::Input;
use crate::options::Global;
use crate::output::Output;
use crate::signal;
use crate::ssh::{self, Client, Server};
use crate::vmm::{self, Host};

/// How long a guest may take to accept a command.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the SSH server may take to end after its client has gone.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// Connect standard input and output to the SSH server of a VM
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Host name of the VM, such as web.vm
    host: String,
}

pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<u8> {
    // ssh sends SIGHUP when it ends. The server must see the end of its input instead: if it were killed, so would be
    // what its sessions left running.
    let _blocked = signal::block()?;
    let client = Client::open(&global.state_dir)?;
    let record = vmm::find(&global.state_dir, ssh::vm_of(&arguments.host))?;
    let host = Host::open(&global.state_dir)?;
    let sandbox = host.attach(&record)?;
    let request = Server::new(&*sandbox).prepare(&client.public_key()?)?;
    let execution: Arc<dyn Execution> =
        sandbox.exec(&request, Instant::now() + START_TIMEOUT)?.into();
    let feeder = Input::Stdin.feed(&execution)?;
    let outcome = forward(&*execution);
    drop(feeder);
    match outcome? {
        Outcome::FailedToStart { .. } => Err(ssh::Error::NoServer.into()),
        outcome => Ok(outcome.exit_code()),
    }
}

/// Forwards output until the server ends. When ssh has gone, the server's input ends, and it has some time left.
fn forward(execution: &dyn Execution) -> Result<Outcome> {
    let mut output = Output::open()?;
    let mut deadline = None;
    loop {
        match execution.next(deadline)? {
            Event::Output(stream, data) => match output.write(stream, &data) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    execution.close_stdin()?;
                    deadline = Some(deadline.unwrap_or_else(|| Instant::now() + END_TIMEOUT));
                }
                Err(source) => return Err(Error::Output { source }),
            },
            Event::Ended(_) => {}
            Event::Exit(exit) => return Ok(exit.outcome),
        }
    }
}
