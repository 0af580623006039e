//! `runner key`: the API keys of programs that use sandboxes.

use sandbox_api::{ApiKey, Keys, Limits, NewKey, Scope};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::options::Global;
use crate::{output, table, value};

const EXAMPLES: &str = "\
Examples:
  runner key create --name ci --sandboxes 10 --vcpus 20
  export E2B_API_KEY=$(runner -q key create --name laptop)
  runner key ls
  runner key revoke ci";

/// Make, list and revoke the API keys of programs that use sandboxes
///
/// The state folder has the keys' hashes only. A running server sees changes at once.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Create(CreateArguments),
    Ls(ListArguments),
    Revoke(RevokeArguments),
}

/// Make a key and print it, for the only time
#[derive(Debug, clap::Args)]
struct CreateArguments {
    /// Name to list and revoke it by
    #[arg(long, value_name = "NAME", default_value = "default", value_parser = value::name)]
    name: String,

    /// What it may do
    #[arg(long, value_enum, default_value_t = ScopeChoice::All)]
    scope: ScopeChoice,

    /// Most sandboxes at a time, paused ones included
    #[arg(long, value_name = "N")]
    sandboxes: Option<u32>,

    /// Most vCPUs of running sandboxes
    #[arg(long, value_name = "N")]
    vcpus: Option<u32>,

    /// Most memory of all its sandboxes, in MiB
    #[arg(long, value_name = "MIB")]
    memory: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum ScopeChoice {
    /// Everything
    All,
    /// See sandboxes, without access to what is in them
    Read,
}

/// List the keys
#[derive(Debug, clap::Args)]
struct ListArguments {
    /// Print JSON, with revoked keys
    #[arg(long)]
    json: bool,
}

/// Revoke a key; its sandboxes stay until their time-out
#[derive(Debug, clap::Args)]
struct RevokeArguments {
    /// The key's id or name
    key: String,
}

pub(crate) fn run(global: &Global, arguments: Arguments) -> Result<u8> {
    let keys = Keys::new(&global.state_dir);
    match arguments.command {
        Command::Create(arguments) => create(global, &keys, arguments)?,
        Command::Ls(arguments) => list(&keys, &arguments)?,
        Command::Revoke(arguments) => output::line(keys.revoke(&arguments.key)?.id)?,
    }
    Ok(0)
}

fn create(global: &Global, keys: &Keys, arguments: CreateArguments) -> Result<()> {
    let CreateArguments { name, scope, sandboxes, vcpus, memory } = arguments;
    let limits = Limits { sandboxes, vcpus, memory_mib: memory };
    let scope = match scope {
        ScopeChoice::All => Scope::All,
        ScopeChoice::Read => Scope::Read,
    };
    let (key, secret) = keys.create(NewKey { name, limits, scope })?;
    output::line(secret)?;
    if !global.quiet {
        output::remark(format_args!("key {} was made: it is not shown again", key.id));
    }
    Ok(())
}

fn list(keys: &Keys, arguments: &ListArguments) -> Result<()> {
    let keys = keys.list()?;
    let text = if arguments.json {
        let rows = keys.iter().map(Row::of).collect::<Vec<_>>();
        serde_json::to_string_pretty(&rows).map_err(|source| Error::Json { source })?
    } else {
        text(&keys).trim_end().to_owned()
    };
    output::line(text)
}

/// A key without its hash.
#[derive(Serialize)]
struct Row<'a> {
    id: &'a str,
    name: &'a str,
    scope: Scope,
    limits: Limits,
    created_unix: u64,
    last_used_unix: Option<u64>,
    revoked: bool,
}

impl<'a> Row<'a> {
    fn of(key: &'a ApiKey) -> Self {
        Self {
            id: &key.id,
            name: &key.name,
            scope: key.scope,
            limits: key.limits,
            created_unix: key.created,
            last_used_unix: key.last_used,
            revoked: key.revoked,
        }
    }
}

fn text(keys: &[ApiKey]) -> String {
    let heads = ["ID", "NAME", "SCOPE", "SANDBOXES", "VCPUS", "MEMORY", "AGE", "USED"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    rows.extend(keys.iter().filter(|key| !key.revoked).map(cells));
    table::render(&rows)
}

fn cells(key: &ApiKey) -> Vec<String> {
    let limit =
        |limit: Option<u64>| limit.map_or_else(|| "-".to_owned(), |limit| limit.to_string());
    vec![
        key.id.clone(),
        key.name.clone(),
        match key.scope {
            Scope::All => "all".to_owned(),
            Scope::Read => "read".to_owned(),
        },
        limit(key.limits.sandboxes.map(u64::from)),
        limit(key.limits.vcpus.map(u64::from)),
        limit(key.limits.memory_mib),
        table::age(key.created),
        key.last_used.map_or_else(|| "-".to_owned(), table::age),
    ]
}
