//! `runner sandbox serve`: the API of sandboxes alone, without jobs.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rootfs::Store;
use service::Config;

use crate::error::{Error, Result};
use crate::options::Global;
use crate::sandbox_server::{self, SandboxServer};
use crate::vmm::Vmm;
use crate::{signal, value};

const EXAMPLES: &str = "\
Examples:
  runner image build base                  the image that the E2B SDKs use unless told otherwise
  export E2B_API_KEY=$(runner -q key create)
  runner sandbox serve
  E2B_API_URL=http://127.0.0.1:8490 E2B_SANDBOX_URL=http://127.0.0.1:8490 python3 program.py
  runner sandbox serve --listen 0.0.0.0:443 --domain sandboxes.example --tls-cert c.pem --tls-key k.pem

Templates are the profiles of the configuration file, and all images by their names. SIGTERM and SIGINT
end all sandboxes. docs/sandboxes.md says what of the E2B API is there.";

/// Serve sandboxes to programs in the foreground, over an API that the E2B SDKs speak
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Address of the API; port 0 is any that is free [default: 127.0.0.1:8490]
    #[arg(long, value_name = "ADDR")]
    listen: Vec<SocketAddr>,

    /// TLS certificate chain, PEM; without one the API speaks plain HTTP
    #[arg(long, value_name = "FILE", requires = "tls_key", value_parser = value::os(value::absolute))]
    tls_cert: Option<PathBuf>,

    /// Private key of the certificate, PEM; both files are read again when they change
    #[arg(long, value_name = "FILE", requires = "tls_cert", value_parser = value::os(value::absolute))]
    tls_key: Option<PathBuf>,

    /// Domain below which sandboxes have host names, like 8000-ID.NAME; needs wildcard DNS
    #[arg(long, value_name = "NAME", value_parser = domain)]
    domain: Option<String>,

    /// Host name of the server for MCP clients, beside addresses, localhost and --domain; others are refused
    #[arg(long, value_name = "NAME", value_parser = domain)]
    mcp_host: Vec<String>,

    /// Configuration file with `[sandboxes]` and profiles [default: all defaults]
    #[arg(long, value_name = "FILE", env = "RUNNER_CONFIG", value_parser = value::os(value::absolute))]
    config: Option<PathBuf>,

    /// Virtual machine monitor
    #[arg(long, value_enum, default_value_t = Vmm::Auto)]
    vmm: Vmm,
}

pub(super) fn run(global: &Global, arguments: Arguments) -> Result<u8> {
    let config = arguments.config()?;
    let store = Store::open(&global.state_dir)?;
    for (name, profile) in &config.profiles {
        let found = store.get(&profile.image);
        // There is always a profile `default`, and perhaps no image of that name.
        if arguments.config.is_some() && profile.image != *name {
            let source = |error: rootfs::Error| Box::new(error.into());
            found.map_err(|error| Error::Profile { name: name.clone(), source: source(error) })?;
        }
    }
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    let (_listener, signals) = signal::until_end()?;
    let listeners = sandbox_server::listen(&config.sandboxes)?;
    let launcher = sandbox_server::launcher(global, &config, &store, arguments.vmm)?;
    let server = SandboxServer::start(global, &config.sandboxes, listeners, Arc::new(launcher))?;
    server.announce()?;
    if let Ok(signal) = signals.recv() {
        log::info!("stopping; signal={signal}");
    }
    server.stop()?;
    Ok(0)
}

impl Arguments {
    /// The configuration. The command line overrides the file.
    fn config(&self) -> Result<Config> {
        let mut config = match &self.config {
            Some(path) => Config::read(path)?,
            None => Config::default_for_host()?,
        };
        let sandboxes = &mut config.sandboxes;
        if !self.listen.is_empty() {
            sandboxes.listen.clone_from(&self.listen);
        } else if sandboxes.listen.is_empty() {
            sandboxes.listen = vec![([127, 0, 0, 1], 8490).into()];
        }
        if let (Some(certificate), Some(key)) = (&self.tls_cert, &self.tls_key) {
            sandboxes.tls = Some((certificate.clone(), key.clone()));
        }
        if self.domain.is_some() {
            sandboxes.domain.clone_from(&self.domain);
        }
        sandboxes.mcp_hosts.extend(self.mcp_host.iter().cloned());
        Ok(config)
    }
}

fn domain(text: &str) -> std::result::Result<String, String> {
    let is_domain = service::is_domain(text);
    is_domain
        .then(|| text.to_ascii_lowercase())
        .ok_or_else(|| "expected a domain name, with or without a port".to_owned())
}
