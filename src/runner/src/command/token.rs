//! `runner token`: the tokens of runners, operators and submitters.

use std::time::Duration;

use platform::{NewToken, Role, Token};

use crate::error::Result;
use crate::operator::{OperatorClient, PlatformOptions, print, print_json};
use crate::options::Global;
use crate::{output, table};

const EXAMPLES: &str = "\
Examples:
  runner token create --name hetzner --role runner --group acme/hetzner
  (umask 077; runner -q token create --name ci --role submitter --expires 90d >ci.token)
  runner token ls
  runner token revoke ci

Roles:
  runner      takes jobs; with --group of this group only
  submitter   submits jobs; sees, follows and cancels these, and copies their artifacts
  operator    sees and does everything: all jobs, prune, runners, tokens

The platform stores hashes only. A revoked token is refused at once by every platform that shares the
database; jobs that its runner has taken end as usual. The name stays on the jobs, and a token made
later with the same name has access to them.";

/// Make, list and revoke the tokens of runners, operators and submitters
///
/// On its host the platform needs no token, as its Unix socket is used: so the first one is made there. With
/// --platform and an operator's token it works from elsewhere.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    platform: PlatformOptions,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Create(CreateArguments),
    Ls(ListArguments),
    Revoke(RevokeArguments),
}

/// Make a token and print it, for the only time
#[derive(Debug, clap::Args)]
struct CreateArguments {
    /// Name to list and revoke it by; jobs show it
    #[arg(long, value_name = "NAME")]
    name: String,

    /// What it may do
    #[arg(long, value_enum)]
    role: RoleChoice,

    /// The only group whose runners may use it, as in `group` of their configuration [default: any]
    #[arg(long, value_name = "SCOPE/NAME")]
    group: Option<String>,

    /// Time until it expires, like 12h or 90d [default: never]
    #[arg(long, value_name = "TIME", value_parser = base::duration::parse)]
    expires: Option<Duration>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum RoleChoice {
    /// Takes jobs
    Runner,
    /// Sees and does everything
    Operator,
    /// Submits jobs, and has access to these only
    Submitter,
}

/// List the tokens
#[derive(Debug, clap::Args)]
struct ListArguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Revoke a token
#[derive(Debug, clap::Args)]
struct RevokeArguments {
    /// The token's name
    name: String,
}

pub(crate) fn run(global: &Global, arguments: Arguments) -> Result<u8> {
    let operator = OperatorClient::open(global, &arguments.platform)?;
    match arguments.command {
        Command::Create(arguments) => create(global, &operator, arguments)?,
        Command::Ls(arguments) => list(&operator, &arguments)?,
        Command::Revoke(RevokeArguments { name }) => {
            operator.ask(|client| client.revoke_token(&name))?;
        }
    }
    Ok(0)
}

fn create(
    global: &Global,
    operator: &OperatorClient<'_>,
    arguments: CreateArguments,
) -> Result<()> {
    let CreateArguments { name, role, group, expires, json } = arguments;
    let expires_in_ms = expires.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    let role = match role {
        RoleChoice::Runner => Role::Runner,
        RoleChoice::Operator => Role::Operator,
        RoleChoice::Submitter => Role::Submitter,
    };
    let new = NewToken { name, role, group, expires_in_ms };
    let created = operator.ask(|client| client.create_token(&new))?;
    if json {
        return print_json(&created);
    }
    output::line(&created.secret)?;
    if !global.quiet {
        let name = &created.token.name;
        output::remark(format_args!("token {name} was made: it is not shown again"));
    }
    Ok(())
}

fn list(operator: &OperatorClient<'_>, arguments: &ListArguments) -> Result<()> {
    let tokens = operator.ask(|client| client.tokens())?;
    if arguments.json { print_json(&tokens) } else { print(&text(&tokens)) }
}

fn text(tokens: &[Token]) -> String {
    let heads = ["NAME", "ROLE", "GROUP", "AGE", "EXPIRES", "USED"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    rows.extend(tokens.iter().map(cells));
    table::render(&rows)
}

fn cells(token: &Token) -> Vec<String> {
    let seconds = |ms: i64| u64::try_from(ms / 1000).unwrap_or(0);
    let expires = match token.expires_ms {
        None => "never".to_owned(),
        Some(_) if token.is_expired => "expired".to_owned(),
        Some(ms) => format!("in {}", table::time_until(seconds(ms))),
    };
    vec![
        token.name.clone(),
        token.role.name().to_owned(),
        token.group.clone().unwrap_or_else(|| "-".to_owned()),
        table::age(seconds(token.created_ms)),
        expires,
        token.last_used_ms.map_or_else(|| "-".to_owned(), |ms| table::age(seconds(ms))),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_listed_without_a_secret() {
        let token = Token {
            name: "ci".into(),
            role: Role::Submitter,
            group: None,
            created_ms: 0,
            expires_ms: Some(1),
            is_expired: true,
            last_used_ms: None,
        };
        let text = text(&[token]);
        let cells: Vec<_> = text.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!((cells[0], cells[1], cells[2]), ("ci", "submitter", "-"));
        assert_eq!(cells[4..], ["expired", "-"]);
    }
}
