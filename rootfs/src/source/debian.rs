//! A minimal Debian system, installed by mmdebstrap from the mirror that the host
//! uses. The result is an archive in the cache, made anew once a day.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

use crate::context::Context;
use crate::digest::Key;
use crate::error::{Error, Result};
use crate::progress::{Meter, Origin, Reporter, Step};
use crate::tool::{APT_GET, MMDEBSTRAP, Streams};

/// The default release.
pub(super) const USUAL_SUITE: &str = "bookworm";

/// The packages of every image besides the essential ones.
const PACKAGES: [&str; 7] =
    ["ca-certificates", "curl", "git", "iproute2", "jq", "procps", "ripgrep"];

/// Left out to save a fifth of the size: agents do not use them. Licenses stay.
const LEFT_OUT: [&str; 5] = [
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/man/*",
];

/// An installed system.
pub(super) struct Base {
    pub(super) key: String,
    /// tar, compressed with zstd.
    pub(super) archive: PathBuf,
}

/// Whether `suite` is a valid name of a release.
pub(super) fn is_suite(suite: &str) -> bool {
    is_name(suite) && !suite.contains('+')
}

/// A name of letters, digits and a few punctuation marks, which does not begin with a mark.
fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name.bytes().all(|c| {
            c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'.' | b'-' | b'+')
        })
}

/// Installs the system, or uses today's from the cache.
pub(super) fn base(
    suite: &str,
    extra: &[String],
    context: &Context<'_>,
    reporter: &mut Reporter<'_>,
) -> Result<Base> {
    if let Some(name) = extra.iter().find(|name| !is_name(name)) {
        return Err(Error::BadPackage { name: name.clone() });
    }
    let mut packages: Vec<&str> =
        PACKAGES.into_iter().chain(extra.iter().map(String::as_str)).collect();
    packages.sort_unstable();
    packages.dedup();
    let key = Key::new("debian 2")
        .part(suite)
        .part(context.arch.debian())
        .part(packages.join(","))
        .part(context.day.to_le_bytes())
        .finish();
    reporter.step(Step::Base, |meter| {
        if let Some(archive) = context.cache.get("base", &key) {
            return Ok((Base { key, archive }, Origin::Cache));
        }
        let made = install(suite, &packages, context, meter)?;
        let archive = context.cache.put("base", &key, &made)?;
        Ok((Base { key, archive }, Origin::Made))
    })
}

fn install(
    suite: &str,
    packages: &[&str],
    context: &Context<'_>,
    meter: &mut Meter<'_>,
) -> Result<PathBuf> {
    let stage = context.stage;
    let sources = host_sources(suite, context);
    let made = stage.path("base.tar.zst");
    let mut command = MMDEBSTRAP.command();
    command
        // The maximum modification time of files, so that builds of one day are equal.
        .env("SOURCE_DATE_EPOCH", context.day.to_string())
        .env("TMPDIR", stage.dir())
        .args(["--quiet", "--format=tar", "--variant=minbase"])
        .arg(format!("--architectures={}", context.arch.debian()))
        .arg(format!("--include={}", packages.join(",")))
        .args(LEFT_OUT.map(|option| format!("--dpkgopt={option}")))
        .args([suite, "-"]);
    // The sources are passed on standard input: a mirror's URL may have a password.
    if !sources.is_empty() {
        command.arg("-");
    }
    let mut running = MMDEBSTRAP.start(command, Streams::Both, stage)?;
    if let Some(mut stdin) = running.stdin() {
        // A tool that ends before it reads reports the reason itself.
        let _ = stdin.write_all(sources.as_bytes());
    }
    if let Some(stdout) = running.stdout() {
        compress(stdout, &made, meter)?;
    }
    running.finish()?;
    Ok(made)
}

fn compress(mut from: impl io::Read, to: &PathBuf, meter: &mut Meter<'_>) -> Result<()> {
    const LEVEL: i32 = 1;
    let fail = |source| Error::Write { path: to.clone(), source };
    let file = File::create(to).map_err(fail)?;
    let mut encoder = zstd::Encoder::new(file, LEVEL).map_err(fail)?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = from.read(&mut buffer).map_err(fail)?;
        if count == 0 {
            encoder.finish().map_err(fail)?;
            return Ok(());
        }
        encoder.write_all(&buffer[..count]).map_err(fail)?;
        meter.add(count as u64);
    }
}

/// The lines of a `sources.list` for `suite` with the host's mirrors; empty on a host that is not
/// Debian, which selects the public mirrors.
fn host_sources(suite: &str, context: &Context<'_>) -> String {
    let mut command = APT_GET.command();
    command.args(["indextargets", "--format", "$(REPO_URI)\t$(RELEASE)\t$(ORIGIN)"]);
    command.arg("Created-By: Packages");
    match APT_GET.output(command, context.stage) {
        Ok(targets) => sources(&targets, suite),
        Err(error) => {
            log::debug!("cannot ask apt for the host's mirror; error={error}");
            String::new()
        }
    }
}

/// Builds the lines from apt's list of the host's sources.
fn sources(targets: &str, suite: &str) -> String {
    let mut main = None;
    let mut security = None;
    for line in targets.lines() {
        let mut fields = line.split('\t');
        let (Some(address), Some(release), Some(origin)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        // apt does not expand the variable before its first update.
        if origin != "Debian" && origin != "$(ORIGIN)" {
            continue;
        }
        if release.ends_with("-security") {
            security.get_or_insert(address);
        } else if !release.contains(['-', '/']) {
            main.get_or_insert(address);
        }
    }
    let Some(main) = main else {
        return String::new();
    };
    let mut lines = format!("deb {main} {suite} main\n");
    if !matches!(suite, "sid" | "unstable" | "experimental") {
        lines += &format!("deb {main} {suite}-updates main\n");
        if let Some(security) = security {
            lines += &format!("deb {security} {suite}-security main\n");
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGETS: &str = "http://m.test/debian/\tbookworm\tDebian\n\
        http://m.test/debian/\tbookworm-updates\tDebian\n\
        http://s.test/debian-security/\tbookworm-security\tDebian\n\
        http://other.test/\tstable\tOther\n";

    #[test]
    fn sources_use_the_hosts_mirrors_for_another_suite() {
        assert_eq!(
            sources(TARGETS, "trixie"),
            "deb http://m.test/debian/ trixie main\n\
             deb http://m.test/debian/ trixie-updates main\n\
             deb http://s.test/debian-security/ trixie-security main\n"
        );
    }

    #[test]
    fn sources_of_sid_have_no_updates_and_security_suites() {
        assert_eq!(sources(TARGETS, "sid"), "deb http://m.test/debian/ sid main\n");
    }

    #[test]
    fn without_a_debian_mirror_on_the_host_the_tool_selects_one() {
        assert_eq!(sources("http://u.test/\tnoble\tUbuntu\n", "bookworm"), "");
    }

    #[test]
    fn names_that_begin_with_a_hyphen_are_rejected_as_packages() {
        assert!(is_name("g++-12"));
        assert!(is_name("libc6"));
        assert!(!is_name("-o"));
        assert!(!is_name("a,b"));
        assert!(!is_name(""));
    }
}
