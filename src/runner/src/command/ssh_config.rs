//! `runner ssh-config`: prints the configuration with which `ssh NAME.vm` reaches a VM.

use std::env;
use std::path::Path;

use crate::error::{Result, file};
use crate::options::Global;
use crate::output;
use crate::ssh::Client;

const EXAMPLES: &str = "\
Examples:
  runner ssh-config >> ~/.ssh/config
  runner run -d --image base --name web -- sleep infinity
  ssh web.vm
  rsync -a ./src/ web.vm:src/
  code --remote ssh-remote+web.vm /home/user

The connection goes over the guest link: no port is opened, and the VM needs no network. The image needs
an SSH server: the image `base` has one; --package openssh-server adds it to others.";

/// Print the configuration for `ssh NAME.vm`, scp, sftp, rsync and editors
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// User in the VM
    #[arg(long, value_name = "NAME", default_value = "user")]
    user: String,
}

pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<u8> {
    let client = Client::open(&global.state_dir)?;
    let program = env::current_exe().map_err(file("read", Path::new("/proc/self/exe")))?;
    let runner = [
        program.to_string_lossy().into_owned(),
        "--state-dir".to_owned(),
        global.state_dir.to_string_lossy().into_owned(),
    ];
    let config = client.config(&runner, &arguments.user);
    output::line(config.trim_end())?;
    Ok(0)
}
