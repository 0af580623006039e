//! The client's side: its key, and the configuration for `ssh`.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base::lock;

use super::SUFFIX;
use super::error::Error;
use crate::error::{Result, file};

/// The key that clients authenticate with, in the state folder.
pub(crate) struct Client {
    private_key: PathBuf,
}

impl Client {
    /// Opens the key; makes it if it does not exist.
    pub(crate) fn open(state_dir: &Path) -> Result<Self> {
        let folder = state_dir.join("ssh");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .map_err(file("create", &folder))?;
        let path = folder.join("lock");
        let _lock = lock::acquire(&path, || {}).map_err(file("lock", &path))?;
        let client = Self { private_key: folder.join("id_ed25519") };
        if !client.public_key_file().exists() {
            client.make()?;
        }
        Ok(client)
    }

    /// The public key, as a line of `authorized_keys`.
    pub(crate) fn public_key(&self) -> Result<String> {
        let path = self.public_key_file();
        fs::read_to_string(&path).map_err(file("read", &path))
    }

    /// The section of `ssh_config` with which `ssh NAME.vm` reaches a VM. `runner` is the command line of this
    /// program, with its global options.
    pub(crate) fn config(&self, runner: &[String], user: &str) -> String {
        let key = quote(&self.private_key.to_string_lossy());
        let runner = runner.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ");
        format!(
            "Host *{SUFFIX}\n    \
             User {user}\n    \
             ProxyCommand {runner} ssh-proxy %h\n    \
             KnownHostsCommand {runner} ssh-host-key %H\n    \
             UserKnownHostsFile /dev/null\n    \
             StrictHostKeyChecking yes\n    \
             CheckHostIP no\n    \
             IdentityFile {key}\n    \
             IdentitiesOnly yes\n"
        )
    }

    fn public_key_file(&self) -> PathBuf {
        self.private_key.with_extension("pub")
    }

    fn make(&self) -> Result<()> {
        // Left over from a process that ended between writing the two files.
        let _ = fs::remove_file(&self.private_key);
        let status = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "sandbox-runner", "-f"])
            .arg(&self.private_key)
            .stdin(Stdio::null())
            .status()
            .map_err(|source| Error::Keygen { source })?;
        if !status.success() {
            return Err(Error::ClientKey { path: self.private_key.clone() }.into());
        }
        Ok(())
    }
}

/// A word as `ssh_config` and the shell that runs ProxyCommand take it; `%` starts a token there.
fn quote(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:=@,".contains(c);
    let word = word.replace('%', "%%");
    if !word.is_empty() && word.chars().all(is_plain) { word } else { format!("\"{word}\"") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_names_the_runner_with_its_options() {
        let client = Client { private_key: "/var/lib/a b/id".into() };

        let config =
            client.config(&["/usr/bin/runner".into(), "--state-dir".into(), "/x y".into()], "user");

        assert!(config.starts_with("Host *.vm\n    User user\n"), "{config}");
        assert!(
            config.contains("ProxyCommand /usr/bin/runner --state-dir \"/x y\" ssh-proxy %h\n")
        );
        assert!(config.contains("IdentityFile \"/var/lib/a b/id\"\n"));
    }

    #[test]
    fn a_percent_sign_of_a_path_is_no_token() {
        assert_eq!(quote("/a%h"), "\"/a%%h\"");
    }
}
