//! Drops root's privileges except two capabilities, and protects this process from the CLI.
//!
//! Agents leave files and processes of root: builds, package managers, `sudo`. To save the files and
//! kill the processes, this process is started as root and becomes the user that `VM0_RUN_AS` names,
//! with `CAP_DAC_READ_SEARCH` and `CAP_KILL`. The CLI has neither: they are not inheritable.
//!
//! INVARIANT: privileges are dropped before anything else; if that fails, the run does not start.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use contract::env;
use nix::errno::Errno;
use nix::sys::prctl::{set_dumpable, set_keepcaps};
use nix::unistd::{Gid, Uid, geteuid, setgroups, setresgid, setresuid};

use crate::{Error, Result, sys};

/// `CAP_DAC_READ_SEARCH` and `CAP_KILL`.
const CAPABILITIES: u32 = 1 << 2 | 1 << 5;

/// The CLI's `oom_score_adj`: the OOM killer prefers the CLI to this process.
const CLI_OOM_SCORE: &[u8] = b"500";

/// Becomes the user that `VM0_RUN_AS` names, if this process is root.
pub fn become_user() -> Result<()> {
    let Some(name) = std::env::var_os(env::RUN_AS).filter(|name| !name.is_empty()) else {
        return Ok(());
    };
    if !geteuid().is_root() {
        return Ok(());
    }
    let failed = |errno: Errno| Error::RunAs { user: name.clone(), source: errno.into() };
    let text = name.to_str().ok_or_else(|| failed(Errno::EINVAL))?;
    let read = |path| {
        fs::read_to_string(path).map_err(|source| Error::RunAs { user: name.clone(), source })
    };
    let (passwd, group) = (read("/etc/passwd")?, read("/etc/group")?);
    let (uid, gid) = account(&passwd, text).ok_or_else(|| failed(Errno::ENOENT))?;
    if uid.is_root() {
        return Err(failed(Errno::EINVAL));
    }
    set_keepcaps(true).map_err(failed)?;
    setgroups(&groups(&group, text, gid)).map_err(failed)?;
    setresgid(gid, gid, gid).map_err(failed)?;
    setresuid(uid, uid, uid).map_err(failed)?;
    sys::set_capabilities(CAPABILITIES).map_err(failed)?;
    set_keepcaps(false).map_err(failed)
}

/// The ids of a user. Parsed here and not by libc, which would load NSS modules of the image as root.
fn account(passwd: &str, name: &str) -> Option<(Uid, Gid)> {
    let fields = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let mut of_user = fields.filter(|fields| fields[0] == name && fields.len() >= 4);
    let fields = of_user.next()?;
    Some((Uid::from_raw(fields[2].parse().ok()?), Gid::from_raw(fields[3].parse().ok()?)))
}

/// All groups of a user.
fn groups(group: &str, name: &str, own: Gid) -> Vec<Gid> {
    let ids = group.lines().filter_map(|line| {
        let fields: Vec<_> = line.split(':').collect();
        let [_, _, id, members, ..] = fields[..] else { return None };
        members.split(',').any(|member| member == name).then_some(id)
    });
    let ids = ids.filter_map(|id| id.parse().ok()).map(Gid::from_raw);
    std::iter::once(own).chain(ids.filter(|id| *id != own)).collect()
}

/// Makes this process undumpable, so that other processes of its user, such as the CLI, cannot read
/// its memory and environment. Returns its `oom_score_adj` for [`with_cli_oom_score`]: an undumpable
/// process could not open it.
pub(crate) fn make_undumpable() -> Option<File> {
    // The change of user made this process undumpable, and /proc/self root's.
    let _ = set_dumpable(true);
    let score = File::options().write(true).open("/proc/self/oom_score_adj");
    if let Err(errno) = set_dumpable(false) {
        log::warn!("the agent could read this process's memory; error={errno}");
    }
    score.inspect_err(|error| log::warn!("cannot open oom_score_adj; error={error}")).ok()
}

/// Runs `start` with the CLI's OOM score, which child processes inherit, then restores the score.
pub(crate) fn with_cli_oom_score<T>(score: Option<&File>, start: impl FnOnce() -> T) -> T {
    let set = |text: &[u8]| {
        let written = score.map_or(Ok(()), |file| file.write_all_at(text, 0));
        written.unwrap_or_else(|error| log::warn!("cannot set the OOM score; error={error}"));
    };
    set(CLI_OOM_SCORE);
    let started = start();
    set(b"0");
    started
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ids_and_groups_of_a_user_are_parsed_from_passwd_and_group() {
        let passwd = "root:x:0:0::/root:/bin/sh\nbroken\nuser:x:1000:1001::/home/user:/bin/sh\n";
        let (uid, gid) = account(passwd, "user").unwrap();
        assert_eq!((uid.as_raw(), gid.as_raw()), (1000, 1001));
        assert!(account(passwd, "nobody").is_none() && account(passwd, "broken").is_none());
        let group = "sudo:x:27:other,user\nuser:x:1001:user\nusers:x:100:superuser\n";
        let ids: Vec<_> = groups(group, "user", gid).into_iter().map(Gid::as_raw).collect();
        assert_eq!(ids, [1001, 27]);
    }
}
