//! The VM's side: an `sshd` per connection, on the standard streams of a command.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sandbox::{
    Entry, EntryKind, Event, ExecRequest, Outcome, Owner, Sandbox, Stream, TreeItem, WriteRequest,
};

use super::error::Error;
use crate::error::Result;

/// The runner's files in the VM.
const FOLDER: &str = "/run/runner-ssh";
const HOST_KEY: &str = "/run/runner-ssh/host_ed25519";
const CONFIG: &str = "/run/runner-ssh/sshd_config";
const SSHD: &str = "/usr/sbin/sshd";
/// The folder that sshd confines its network process to.
const PRIVILEGE_SEPARATION: &str = "/run/sshd";

/// The limit for each step in the guest, which may be slow without KVM.
const STEP: Duration = Duration::from_secs(60);
/// The largest output of a program, or file, that is read.
const MAX_OUTPUT: usize = 256 << 10;

/// Variables that sshd sets itself for each session.
const SESSION_VARIABLES: [&str; 8] =
    ["HOME", "LOGNAME", "MAIL", "PATH", "PWD", "SHELL", "TERM", "USER"];

/// The SSH server of a VM.
pub(crate) struct Server<'a> {
    sandbox: &'a dyn Sandbox,
}

impl<'a> Server<'a> {
    pub(crate) fn new(sandbox: &'a dyn Sandbox) -> Self {
        Self { sandbox }
    }

    /// The VM's public host key, such as `ssh-ed25519 AAAA…`. It is made if it does not exist.
    pub(crate) fn host_key(&self) -> Result<String> {
        if let Some(key) = self.read_host_key() {
            return Ok(key);
        }
        self.make_folders()?;
        // Fails if a concurrent connection has just made the key.
        let (outcome, said) =
            self.output(&["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", HOST_KEY])?;
        if outcome.exit_code() == 127 {
            return Err(Error::NoServer.into());
        }
        self.read_host_key().ok_or_else(|| Error::HostKey { said: said.trim().to_owned() }.into())
    }

    /// Prepares the VM for a client with this public key; returns the command that serves one connection on its
    /// standard streams.
    pub(crate) fn prepare(&self, client_key: &str) -> Result<ExecRequest> {
        self.host_key()?;
        let (_, environment) = self.output(&["env", "-0"])?;
        let config = config(&environment);
        let files = [("authorized_keys", client_key), ("sshd_config", &config)];
        for (name, content) in files {
            self.write(&Path::new(FOLDER).join(name), 0o644, content.as_bytes())?;
        }
        Ok(ExecRequest {
            argv: [SSHD, "-i", "-e", "-f", CONFIG].map(Into::into).to_vec(),
            stdin: true,
            ..ExecRequest::default()
        })
    }

    fn make_folders(&self) -> Result<()> {
        for path in [FOLDER, PRIVILEGE_SEPARATION] {
            let mut writer = self.sandbox.write(&request(Path::new(path)), deadline())?;
            writer.entry(&entry(EntryKind::Directory, 0o755), deadline())?;
            writer.finish(deadline())?;
        }
        Ok(())
    }

    fn write(&self, path: &Path, mode: u32, content: &[u8]) -> Result<()> {
        let mut writer = self.sandbox.write(&request(path), deadline())?;
        let size = content.len() as u64;
        writer.entry(&entry(EntryKind::File { size }, mode), deadline())?;
        writer.data(content, deadline())?;
        Ok(writer.finish(deadline())?)
    }

    fn read_host_key(&self) -> Option<String> {
        let path = PathBuf::from(format!("{HOST_KEY}.pub"));
        let mut reader = self.sandbox.read(&path, deadline()).ok()?;
        let mut bytes = Vec::new();
        while let Some(item) = reader.next(deadline()).ok()? {
            if let TreeItem::Data(data) = item {
                bytes.extend_from_slice(&data);
            }
            if bytes.len() > MAX_OUTPUT {
                return None;
            }
        }
        public_key(&String::from_utf8(bytes).ok()?)
    }

    /// Runs a program as root; returns how it ended, and its output.
    fn output(&self, argv: &[&str]) -> Result<(Outcome, String)> {
        let request = ExecRequest {
            argv: argv.iter().map(Into::into).collect(),
            timeout: Some(STEP),
            output_cap: Some(MAX_OUTPUT as u64),
            ..ExecRequest::default()
        };
        let execution = self.sandbox.exec(&request, deadline())?;
        let mut output = Vec::new();
        loop {
            match execution.next(Some(deadline() + STEP))? {
                Event::Output(Stream::Stdout | Stream::Stderr, data) => {
                    output.extend_from_slice(&data);
                }
                Event::Ended(_) => {}
                Event::Exit(exit) => {
                    return Ok((exit.outcome, String::from_utf8_lossy(&output).into_owned()));
                }
            }
        }
    }
}

/// The first two words of a public key file: type and key. A guest's text ends up in `known_hosts` format, so
/// anything else is refused.
fn public_key(text: &str) -> Option<String> {
    let mut words = text.split_ascii_whitespace();
    let (kind, key) = (words.next()?, words.next()?);
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
    (kind == "ssh-ed25519" && key.bytes().all(is_base64)).then(|| format!("{kind} {key}"))
}

/// The configuration of sshd. Sessions get the variables that other commands in the VM get, such as those that name
/// certificates.
fn config(environment: &str) -> String {
    let mut config = format!(
        "HostKey {HOST_KEY}\n\
         AuthorizedKeysFile {FOLDER}/authorized_keys\n\
         AuthenticationMethods publickey\n\
         PermitRootLogin prohibit-password\n\
         UsePAM no\n\
         PidFile none\n\
         PrintMotd no\n\
         LogLevel ERROR\n\
         AcceptEnv LANG LC_*\n\
         Subsystem sftp internal-sftp\n"
    );
    let variables: Vec<_> = environment.split('\0').filter_map(set_env).collect();
    if !variables.is_empty() {
        config.push_str(&format!("SetEnv {}\n", variables.join(" ")));
    }
    config
}

/// A variable for `SetEnv`; `None` if sshd sets it, or cannot set it.
fn set_env(variable: &str) -> Option<String> {
    let (name, value) = variable.split_once('=')?;
    let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let is_quotable = !value.contains(['"', '\\']) && !value.chars().any(char::is_control);
    let is_set = is_name && is_quotable && !SESSION_VARIABLES.contains(&name);
    is_set.then(|| format!("\"{name}={value}\""))
}

fn request(path: &Path) -> WriteRequest {
    WriteRequest {
        target: path.to_owned(),
        owner: Some(Owner { uid: 0, gid: 0 }),
        ..WriteRequest::default()
    }
}

fn entry(kind: EntryKind, mode: u32) -> Entry {
    Entry { path: PathBuf::new(), kind, mode, owner: None, modified: None }
}

fn deadline() -> Instant {
    Instant::now() + STEP
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_ed25519_key_is_taken_from_the_guest() {
        let key = public_key("ssh-ed25519 AAAAC3Nza root@vm\n");
        assert_eq!(key.as_deref(), Some("ssh-ed25519 AAAAC3Nza"));
        assert_eq!(public_key("ssh-ed25519 AA\u{1b}[2J"), None);
        assert_eq!(public_key("@cert-authority * ssh-ed25519 AA"), None);
        assert_eq!(public_key(""), None);
    }

    #[test]
    fn sessions_get_the_variables_of_the_vm_that_sshd_does_not_set() {
        let config =
            config("HOME=/root\0SSL_CERT_FILE=/etc/ssl/ca.pem\0A=b c\0BAD=a\"b\0LINE=a\nb\0");

        assert!(
            config.ends_with("SetEnv \"SSL_CERT_FILE=/etc/ssl/ca.pem\" \"A=b c\"\n"),
            "{config}"
        );
    }

    #[test]
    fn a_vm_without_variables_has_no_set_env() {
        assert!(!config("PATH=/bin\0").contains("SetEnv"));
    }
}
