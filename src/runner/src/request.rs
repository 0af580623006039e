//! The flags of `run` and `exec` that describe how a command runs.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base::exec_limit;
use rootfs::Defaults;
use sandbox::{ExecRequest, PtySize, User};

use crate::error::{Result, Usage, file};
use crate::terminal;
use crate::value::{self, Variable};

/// The terminal size for the command if the runner has no terminal.
const DEFAULT_SIZE: PtySize = PtySize { rows: 24, columns: 80 };

/// How a command runs.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct CommandArguments {
    /// Set an environment variable; NAME alone copies the value from this process
    #[arg(short, long, value_name = "NAME[=VALUE]", value_parser = value::os(|text| Ok(value::variable(text))))]
    env: Vec<Variable>,

    /// Read environment variables from a file: one NAME[=VALUE] per line, `#` starts a comment
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,

    /// User to run as, and optionally its group; names or numbers
    #[arg(short, long, value_name = "USER[:GROUP]", value_parser = value::user)]
    user: Option<User>,

    /// Working directory [default: the image's, else the user's home]
    #[arg(short, long, value_name = "DIR", value_parser = value::os(value::guest_path))]
    workdir: Option<PathBuf>,

    /// Forward standard input to the command
    #[arg(short, long)]
    interactive: bool,

    /// Allocate a terminal for the command
    #[arg(short, long)]
    tty: bool,

    /// Kill the command after this time (30, 1.5s, 5m); the exit code is then 124
    #[arg(long, value_name = "TIME", value_parser = base::duration::parse)]
    timeout: Option<Duration>,

    /// Limit stdout and stderr to this many bytes each (64K, 10M); the rest is dropped
    #[arg(long, value_name = "BYTES", value_parser = value::bytes)]
    output_cap: Option<u64>,
}

impl CommandArguments {
    /// The request for `argv`. Flags override the image's defaults.
    pub(crate) fn request(&self, argv: Vec<OsString>, image: &Defaults) -> Result<ExecRequest> {
        let env = self.variables(image)?;
        check_length(&argv, &env)?;
        Ok(ExecRequest {
            argv,
            env,
            cwd: self.workdir.clone().or_else(|| image.workdir.clone().map(PathBuf::from)),
            user: self.user(image),
            stdin: self.interactive,
            pty: self.tty.then(|| terminal::size().unwrap_or(DEFAULT_SIZE)),
            timeout: self.timeout,
            output_cap: self.output_cap,
            follow_descendants: false,
        })
    }

    /// The user of `--user`, else the image's default.
    fn user(&self, image: &Defaults) -> Option<User> {
        // Some images write `name:` for `name`.
        let default = || value::user(image.user.as_deref()?.trim_end_matches(':')).ok();
        self.user.clone().or_else(default)
    }

    /// The environment. Later sources override earlier ones: image, `TERM`, files, flags.
    fn variables(&self, image: &Defaults) -> Result<Vec<(OsString, OsString)>> {
        let mut all = BTreeMap::new();
        let mut set = |variable: Variable| {
            let value = variable.value.or_else(|| env::var_os(&variable.name));
            value.map(|value| all.insert(variable.name, value))
        };
        for text in &image.env {
            value::variable(text.as_bytes()).named().map(&mut set);
        }
        if self.tty {
            set(Variable { name: "TERM".into(), value: None });
        }
        for path in &self.env_file {
            for variable in read_env_file(path)? {
                set(variable);
            }
        }
        for variable in &self.env {
            set(variable.clone().named().ok_or(Usage::NamelessVariable)?);
        }
        Ok(all.into_iter().collect())
    }
}

/// Checks execve(2)'s limits here, so that the error names the argument or variable that exceeds them.
fn check_length(argv: &[OsString], env: &[(OsString, OsString)]) -> Result<()> {
    let arguments = argv.iter().map(|argument| argument.as_bytes());
    let variables = env.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    exec_limit::check(arguments, variables, exec_limit::TOTAL)
        .map_err(|source| Usage::CommandTooLong { source }.into())
}

fn read_env_file(path: &Path) -> Result<Vec<Variable>> {
    let bytes = fs::read(path).map_err(file("read", path))?;
    let mut variables = Vec::new();
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line).trim_ascii_start();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let invalid = || Usage::EnvFile { path: path.to_owned(), line: index + 1 };
        let variable = value::variable(line).named().ok_or_else(invalid)?;
        if variable.name.as_bytes().iter().any(u8::is_ascii_whitespace) {
            return Err(invalid().into());
        }
        variables.push(variable);
    }
    Ok(variables)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: CommandArguments,
    }

    fn request(flags: &[&str], image: &Defaults) -> Result<ExecRequest> {
        let line = [&["runner"], flags].concat();
        let line = Line::try_parse_from(line).unwrap();
        line.arguments.request(vec!["true".into()], image)
    }

    fn pair(name: &str, value: &str) -> (OsString, OsString) {
        (name.into(), value.into())
    }

    #[test]
    fn a_variable_without_a_name_is_refused_and_its_value_not_repeated() {
        let error = request(&["--env", "=hunter2"], &Defaults::default()).unwrap_err();
        assert!(matches!(error, crate::error::Error::Usage(Usage::NamelessVariable)));
        assert_eq!(error.exit_code(), Some(2));
        assert!(!error.chain().contains("hunter2"));
    }

    #[test]
    fn flags_override_files_and_files_the_image() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("env");
        fs::write(&path, "# comment\n\nB=file\nC=file\r\nPATH\n").unwrap();
        let image = Defaults { env: vec!["A=image".into(), "B=image".into()], ..<_>::default() };
        let flags = ["--env-file", path.to_str().unwrap(), "-e", "C=flag", "-e", "NOT_SET_HERE"];

        let env = request(&flags, &image).unwrap().env;

        assert_eq!(env[..3], [pair("A", "image"), pair("B", "file"), pair("C", "flag")]);
        assert_eq!(env[3].0, "PATH");
        assert_eq!(env.len(), 4);
    }

    #[test]
    fn a_variable_over_the_kernels_limit_is_rejected_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("env");
        fs::write(&path, format!("SMALL=1\nBIG={}\n", "x".repeat(200_000))).unwrap();

        let error = request(&["--env-file", path.to_str().unwrap()], &Defaults::default());

        let error = error.unwrap_err();
        assert_eq!(error.exit_code(), Some(2));
        assert!(error.chain().contains("variable `BIG` has 200005 bytes"), "{}", error.chain());
        assert!(!error.chain().contains("xxx"));
    }

    #[test]
    fn an_environment_that_linux_takes_is_passed_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("env");
        let line = |at| format!("V{at}={}\n", "x".repeat(100_000));
        fs::write(&path, (0..18).map(line).collect::<String>()).unwrap();

        let request = request(&["--env-file", path.to_str().unwrap()], &Defaults::default());

        assert_eq!(request.unwrap().env.len(), 18);
    }

    #[test]
    fn a_bad_line_of_a_file_is_named_without_its_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("env");
        fs::write(&path, "A=1\nnot a variable=secret\n").unwrap();

        let error = request(&["--env-file", path.to_str().unwrap()], &Defaults::default());

        let text = error.unwrap_err().to_string();
        assert!(text.contains("line 2") && !text.contains("secret"), "{text}");
    }

    #[test]
    fn user_and_folder_are_the_images_unless_a_flag_names_others() {
        let image = Defaults {
            user: Some("app:staff".into()),
            workdir: Some("/app".into()),
            ..Defaults::default()
        };
        let defaults = request(&[], &image).unwrap();
        let user = User::InGroup { user: "app".into(), group: "staff".into() };
        assert_eq!(defaults.user, Some(user));
        assert_eq!(defaults.cwd, Some("/app".into()));

        let given = request(&["--user", "5:6", "--workdir", "/tmp"], &image).unwrap();
        assert_eq!(given.user, Some(User::Ids { uid: 5, gid: 6 }));
        assert_eq!(given.cwd, Some("/tmp".into()));
    }
}
