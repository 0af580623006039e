//! The arguments of `runner run`, and their validated form [`Run`].

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};

use egress::{InterceptionPolicy, NetworkChoice, SecretHost};
use intercept::Secret;
use rootfs::{Defaults, Store};
use sandbox::{DiskLimits, Network, Policy, Publish, SandboxConfig, SandboxId, label};

use crate::agent::Agent;
use crate::attend::AttendedCommand;
use crate::error::{Result, Usage};
use crate::options::{Global, Switch};
use crate::request::CommandArguments;
use crate::value::{self, CopyIn, CopyOut, Variable};
use crate::vmm::Vmm;
use crate::{image, secret};

const EXAMPLES: &str = "\
Examples:
  runner run -- uname -a
  runner run -it -- bash
  runner run --vcpus 2 --memory 2048 --user user --copy-in .:/home/user/workspace/app \\
      --copy-out /home/user/workspace/app/out:. --workdir /home/user/workspace/app -- make
  echo hello | runner run -i -- cat
  runner run --agent mock -- 'uname -a; ls'
  runner run -d --name web -- python3 -m http.server
  runner run --network intercept --secret GITHUB_TOKEN --for '*.github.com' -- ./release

The exit code is the command's. 128+n: signal n ended it. 124: timeout. 127: program not found.
126: it could not be started. 125 if the runner itself failed.
The first Ctrl-C goes to the command, the second kills it.";

/// Run a command in a fresh microVM
///
/// The VM and its disk are removed when the command ends, unless -d leaves it running.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Image of the VM, see `runner image ls`
    #[arg(long, default_value = "default")]
    image: String,

    /// Virtual CPUs
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    vcpus: u32,

    /// Memory, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(96..))]
    memory: u32,

    /// Size of the writable disk, like 512M or 20G [default: the image's]. The disk is sparse: it uses
    /// host space only for written data
    #[arg(long, value_name = "SIZE", value_parser = egress::disk::size)]
    disk: Option<u64>,

    /// Disk limits per second: bytes, operations, or both
    #[arg(long, value_name = "bandwidth=200M,operations=5000", value_parser = egress::disk::limits)]
    disk_limit: Option<DiskLimits>,

    #[command(flatten)]
    command_arguments: CommandArguments,

    /// Copy a file or folder into the VM before the command runs; it belongs to the command's user
    #[arg(long, value_name = "SRC:DST", value_parser = value::os(value::copy_in))]
    copy_in: Vec<CopyIn>,

    /// Copy a file or folder out of the VM after the command ends, even if it fails
    #[arg(long, value_name = "SRC:DST", value_parser = value::os(value::copy_out), conflicts_with = "detach")]
    copy_out: Vec<CopyOut>,

    /// Run the VM in the background and print its name; a command is optional
    #[arg(short, long, conflicts_with_all = ["interactive", "tty", "stats"])]
    pub(super) detach: bool,

    /// Name of the VM, for other sub-commands
    #[arg(long, value_parser = value::name)]
    name: Option<String>,

    /// Host name in the VM [default: the VM's name or id]
    #[arg(long, value_name = "NAME", value_parser = value::name)]
    hostname: Option<String>,

    /// Time zone in the VM, like Europe/Berlin [default: UTC]
    #[arg(long, value_name = "ZONE", value_parser = base::time_zone::parse)]
    tz: Option<String>,

    /// Network of the VM. `open`: the public internet. `none`: no network. policy=FILE: addresses and
    /// ports. `intercept`: the public internet through the proxy. intercept=FILE: host names and
    /// HTTP requests. README.md describes the files
    #[arg(long, value_name = "open|none|policy=FILE|intercept[=FILE]", default_value = "open", value_parser = value::os(NetworkChoice::parse))]
    network: NetworkChoice,

    /// Keep a secret out of the VM: its environment variable NAME holds a placeholder, which the proxy
    /// replaces in requests to the hosts of --for. NAME alone copies the value from this process;
    /// other users can see =VALUE in `ps`
    #[arg(long, value_name = "NAME[=VALUE]", requires = "for_", value_parser = value::os(|text| Ok(value::variable(text))))]
    secret: Vec<Variable>,

    /// Host that may receive the secret (HTTPS only); `*.HOST` matches subdomains
    #[arg(long = "for", id = "for_", value_name = "[NAME=]HOST", requires = "secret", value_parser = SecretHost::parse)]
    for_: Vec<SecretHost>,

    /// Record the intercepted requests to FILE, one JSON object per line
    #[arg(long, value_name = "FILE")]
    network_record: Option<PathBuf>,

    /// Also record the first 16 KiB of request and response bodies, with secrets masked
    #[arg(long, requires = "network_record")]
    network_bodies: bool,

    /// Forward a TCP port of this host to the VM. ADDRESS defaults to 127.0.0.1; 0.0.0.0 also accepts
    /// other machines. HOST 0 chooses a free port
    #[arg(short, long, value_name = "[ADDRESS:]HOST:GUEST", value_parser = value::publish)]
    publish: Vec<Publish>,

    /// Let the VM trust the certificate authorities that were added to this host's trust store
    #[arg(
        long,
        value_enum,
        value_name = "on|off",
        default_value = "on",
        hide_possible_values = true
    )]
    host_ca: Switch,

    /// Virtual machine monitor
    #[arg(long, value_enum, default_value_t = Vmm::Auto)]
    vmm: Vmm,

    /// Run an agent as `user` in /home/user/workspace, with the command as its prompt
    #[arg(long, value_enum, value_name = "AGENT", requires = "command",
        conflicts_with_all = ["interactive", "tty", "user", "workdir"])]
    agent: Option<Agent>,

    /// Print the agent's events as JSON, one per line; the default without a terminal
    #[arg(long, requires = "agent")]
    json: bool,

    /// Print the time of each stage
    #[arg(long)]
    stats: bool,

    /// Command and arguments, run without a shell [default: the image's command]
    #[arg(trailing_var_arg = true)]
    pub(crate) command: Vec<OsString>,
}

/// The validated arguments.
pub(super) struct Run {
    pub(super) config: SandboxConfig,
    /// None for a VM without a command, in the background.
    pub(super) command: Option<AttendedCommand>,
    pub(super) copies_in: Vec<CopyIn>,
    pub(super) copies_out: Vec<CopyOut>,
    pub(super) vmm: Vmm,
    /// The interception policy, if the network is intercepted.
    pub(super) interception: Option<InterceptionPolicy>,
    pub(super) held: Vec<Secret>,
    pub(super) record: Option<PathBuf>,
    pub(super) keeps_bodies: bool,
    /// Whether the output is events of an agent, to be printed as text.
    pub(super) prints_events: bool,
    pub(super) shows_stages: bool,
    pub(super) is_quiet: bool,
}

impl Run {
    pub(super) fn resolve(arguments: Arguments, global: &Global) -> Result<Self> {
        let store = Store::open(&global.state_dir)?;
        let image = store.get(&arguments.image)?;
        let mut command = arguments.attended_command(&image.description.defaults)?;
        let interception = arguments.interception()?;
        let held =
            egress::restrict_to_hosts(&mut secret::values(&arguments.secret)?, &arguments.for_)?;
        if interception.is_none() && !(held.is_empty() && arguments.network_record.is_none()) {
            return Err(Usage::NotIntercepted.into());
        }
        let placeholders = held.iter().map(|one| (one.name.clone(), one.placeholder.clone()));
        let environment = placeholders.map(|(name, value)| (name.into(), value.into()));
        if let Some(command) = &mut command {
            command.request.follow_descendants = arguments.detach;
            command.request.env.extend(environment);
        }
        let config = arguments.config(&store, &image, command.as_ref())?;
        let plain = arguments.json || arguments.detach || !io::stdout().is_terminal();
        Ok(Self {
            config,
            command,
            copies_in: arguments.copy_in,
            copies_out: arguments.copy_out,
            vmm: arguments.vmm,
            interception,
            held,
            record: arguments.network_record,
            keeps_bodies: arguments.network_bodies,
            prints_events: arguments.agent.is_some() && !plain,
            shows_stages: arguments.stats,
            is_quiet: global.quiet,
        })
    }
}

impl Arguments {
    fn attended_command(&self, image: &Defaults) -> Result<Option<AttendedCommand>> {
        if let Some(agent) = self.agent {
            let words: Option<Vec<_>> = self.command.iter().map(|word| word.to_str()).collect();
            let prompt = words.ok_or(Usage::PromptNotText)?.join(" ");
            let base = self.command_arguments.request(Vec::new(), image)?;
            return Ok(Some(agent.command(&prompt, base)));
        }
        let argv = if !self.command.is_empty() {
            self.command.clone()
        } else if self.detach {
            return Ok(None);
        } else {
            image.entrypoint.iter().chain(&image.command).map(OsString::from).collect()
        };
        if argv.is_empty() {
            return Err(Usage::NoCommand { image: self.image.clone() }.into());
        }
        Ok(Some(AttendedCommand::new(self.command_arguments.request(argv, image)?)))
    }

    fn network(&self) -> Result<Option<Network>> {
        let network = match &self.network {
            NetworkChoice::Open => Network::default(),
            NetworkChoice::Policy(path) => egress::network::read(path)?,
            NetworkChoice::Intercept(_) => {
                let policy = self.interception()?.map(|policy| policy.packets());
                Network { policy: policy.unwrap_or(Policy::none()), ..Network::default() }
            }
            NetworkChoice::None if self.publish.is_empty() => return Ok(None),
            NetworkChoice::None => return Err(Usage::NothingToPublish.into()),
        };
        Ok(Some(Network { publish: self.publish.clone(), ..network }))
    }

    /// The interception policy, if the network is intercepted.
    fn interception(&self) -> Result<Option<InterceptionPolicy>> {
        match &self.network {
            NetworkChoice::Intercept(None) => Ok(Some(InterceptionPolicy::open())),
            NetworkChoice::Intercept(Some(path)) => Ok(Some(InterceptionPolicy::read(path)?)),
            _ => Ok(None),
        }
    }

    fn config(
        &self,
        store: &Store,
        image: &rootfs::Image,
        command: Option<&AttendedCommand>,
    ) -> Result<SandboxConfig> {
        self.disk.map_or(Ok(()), |mib| store.warn_of_little_room(mib))?;
        let id = SandboxId::random()?;
        let hostname = self.hostname.as_ref().or(self.name.as_ref()).cloned();
        let network = self.network()?;
        Ok(SandboxConfig {
            id,
            name: self.name.clone(),
            labels: labels(image, command),
            image: image::files(store, image, self.disk)?,
            vcpus: self.vcpus,
            memory_mib: self.memory,
            disk_limits: self.disk_limit.unwrap_or_default(),
            network,
            hostname: hostname.unwrap_or_else(|| format!("vm-{}", id.short())),
            timezone: self.tz.clone(),
            host_authorities: match self.host_ca {
                Switch::On => egress::host_ca::read_all().certificates,
                Switch::Off => Vec::new(),
            },
        })
    }
}

/// The labels of the VM. They contain the program without its arguments, which may be secret.
fn labels(image: &rootfs::Image, command: Option<&AttendedCommand>) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([(label::IMAGE.to_owned(), image.name.clone())]);
    let program = command.and_then(|command| command.request.argv.first()).map(Path::new);
    if let Some(name) = program.and_then(Path::file_name) {
        labels.insert(label::COMMAND.to_owned(), name.to_string_lossy().into_owned());
    }
    labels
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};
    use crate::error::Error;
    use crate::input::Input;

    fn arguments(line: &[&str]) -> Arguments {
        let cli = Cli::try_parse_from([&["runner", "run"], line].concat()).unwrap();
        let Command::Run(arguments) = cli.command else { panic!("not run") };
        *arguments
    }

    fn refused(line: &[&str]) -> String {
        Cli::try_parse_from([&["runner", "run"], line].concat()).unwrap_err().to_string()
    }

    fn command(line: &[&str], image: &Defaults) -> Result<Option<AttendedCommand>> {
        arguments(line).attended_command(image)
    }

    fn image() -> rootfs::Image {
        let json = r#"{"id": "00", "kernel_version": "6", "created": 0, "size_bytes": 0,
            "source": "", "arch": "x86_64", "defaults": {}}"#;
        let state = tempfile::tempdir().unwrap();
        let folder = state.path().join("images/default");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("image.json"), json).unwrap();
        Store::open(state.path()).unwrap().get("default").unwrap()
    }

    #[test]
    fn the_command_defaults_to_that_of_the_image() {
        let image = Defaults {
            entrypoint: vec!["/entry".into()],
            command: vec!["serve".into()],
            ..Defaults::default()
        };
        let own = command(&[], &image).unwrap().unwrap();
        assert_eq!(own.request.argv, ["/entry", "serve"]);
        let ours = command(&["--", "ls"], &image).unwrap().unwrap();
        assert_eq!(ours.request.argv, ["ls"]);
    }

    #[test]
    fn only_a_background_vm_may_have_no_command() {
        let none = Defaults::default();
        assert!(matches!(command(&[], &none), Err(Error::Usage(Usage::NoCommand { .. }))));
        assert_eq!(command(&["-d"], &none).unwrap(), None);
    }

    #[test]
    fn the_words_of_a_prompt_are_joined() {
        let command = command(&["--agent", "mock", "--", "say", "hi"], &Defaults::default());
        let Input::Bytes(bytes) = command.unwrap().unwrap().input else { panic!("no bytes") };
        assert!(String::from_utf8(bytes).unwrap().contains("\"say hi\""));
    }

    #[test]
    fn arguments_of_the_command_are_not_in_the_record() {
        let run = arguments(&["--name", "web", "--", "/usr/bin/curl", "--header", "secret"]);
        let command = run.attended_command(&Defaults::default()).unwrap();
        let config =
            run.config(&Store::open(Path::new("/")).unwrap(), &image(), command.as_ref()).unwrap();
        assert_eq!(config.labels[label::COMMAND], "curl");
        assert!(!format!("{config:?}").contains("secret"));
        assert_eq!(config.hostname, "web");
    }

    #[test]
    fn contradicting_flags_are_rejected() {
        assert!(refused(&["-d", "-i", "--", "sh"]).contains("cannot be used with"));
        assert!(refused(&["--agent", "mock", "-t", "--", "x"]).contains("cannot be used with"));
        assert!(refused(&["--agent", "mock"]).contains("required"));
        assert!(refused(&["--json", "--", "ls"]).contains("--agent"));
    }

    #[test]
    fn the_error_of_a_wrong_value_says_what_was_expected() {
        let text = refused(&["--copy-in", "nonsense", "--", "ls"]);
        assert!(
            text.contains("--copy-in <SRC:DST>") && text.contains("expected SRC:DST"),
            "{text}"
        );
        assert!(refused(&["--vcpus", "0", "--", "ls"]).contains("1..=64"));
        let text = refused(&["--disk-limit", "bandwidth=fast", "--", "ls"]);
        assert!(text.contains("expected bandwidth=RATE in bytes per second"), "{text}");
    }
}
