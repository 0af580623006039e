//! `runner doctor`: checks what this host needs to run VMs, and prints a remedy for each problem.

use std::io::Write as _;
use std::path::Path;

use egress::host_ca::{self, Found};
use rootfs::{MissingTool, Store};
use serde::Serialize;

use super::image;
use crate::error::{Error, Result};
use crate::options::Global;
use crate::output::Output;
use crate::vmm::{self, CheckState, HostCheck};

/// The recommended free space for VMs and images.
const MIN_FREE_MIB: u64 = 4096;
const DEFAULT_IMAGE: &str = "default";

/// Check whether this host can run VMs, and print how to fix each problem
///
/// The exit code is 0 if VMs can run and an image exists or can be built.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    ok: bool,
    checks: Vec<Check<'a>>,
}

#[derive(Serialize)]
struct Check<'a> {
    subject: &'a str,
    /// `good`, `weak` or `missing`.
    state: &'static str,
    detail: &'a str,
    remedy: Option<&'a str>,
}

impl<'a> Check<'a> {
    fn of(host_check: &'a HostCheck) -> Self {
        Self {
            subject: host_check.subject,
            state: word(host_check.state),
            detail: &host_check.detail,
            remedy: host_check.remedy.as_deref(),
        }
    }
}

pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<u8> {
    let checks = look(global);
    let is_well = checks.iter().all(|host_check| host_check.state != CheckState::Missing);
    let text = if arguments.json { json(&checks, is_well)? } else { text(&checks, is_well) };
    let mut output = Output::open()?;
    output.stdout().write_all(text.as_bytes()).map_err(|source| Error::Output { source })?;
    Ok(if is_well { 0 } else { 1 })
}

fn look(global: &Global) -> Vec<HostCheck> {
    let state_dir = &global.state_dir;
    let mut checks = vmm::check(global);
    let has_image = has_image(state_dir);
    checks.extend(rootfs::missing_tools().iter().map(|tool| missing_tool(tool, has_image)));
    checks.extend([proxy(), authorities(&host_ca::read_all())]);
    checks.extend([free_space(state_dir), guest_programs(), default_image(state_dir)]);
    checks
}

/// A missing tool of image builds. It is only weak if an image exists already.
fn missing_tool(tool: &MissingTool, has_image: bool) -> HostCheck {
    let state = if tool.is_needed && !has_image { CheckState::Missing } else { CheckState::Weak };
    HostCheck {
        subject: tool.tool,
        state,
        detail: format!("not found: it {}", tool.why),
        remedy: Some(format!("apt-get install {}", tool.package)),
    }
}

/// Whether the store has an image. Creates nothing.
fn has_image(state_dir: &Path) -> bool {
    let is_there = state_dir.join("images").is_dir();
    let list = || Store::open(state_dir).and_then(|store| store.list());
    is_there && list().is_ok_and(|images| !images.is_empty())
}

/// Whether interception works on this host.
fn proxy() -> HostCheck {
    let subject = "proxy";
    match egress::self_test::check() {
        Ok(time) => {
            let detail =
                format!("denied a test request {:.1} s after its start", time.as_secs_f64());
            HostCheck { subject, state: CheckState::Good, detail, remedy: None }
        }
        Err(error) => {
            let reason = base::error::chain(&*error);
            let detail = format!("networks cannot be intercepted: {reason}");
            let remedy = Some("scripts/setup; or network = \"open\" in runner.toml".to_owned());
            HostCheck { subject, state: CheckState::Weak, detail, remedy }
        }
    }
}

/// The number of added certificate authorities that guests trust.
fn authorities(found: &Found) -> HostCheck {
    let subject = "host authorities";
    let count = found.certificates.len();
    let (state, detail) = match (count, found.left_out) {
        (0, 0) => (CheckState::Good, "this host's administrator added none".to_owned()),
        (_, 0) => {
            (CheckState::Good, format!("guests trust {count} that this host's administrator added"))
        }
        (_, left_out) => {
            let all = count + left_out;
            (
                CheckState::Weak,
                format!("guests trust {count} of {all}: the others exceed the size limit"),
            )
        }
    };
    HostCheck { subject, state, detail, remedy: None }
}

/// The free space of the file system of the state folder, or of its first existing parent.
fn free_space(state_dir: &Path) -> HostCheck {
    let subject = "disk space";
    let there = state_dir.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("/"));
    match nix::sys::statvfs::statvfs(there) {
        Ok(stat) => {
            let mib = (stat.blocks_available() * stat.fragment_size()) >> 20;
            let (state, remedy) = if mib < MIN_FREE_MIB {
                (CheckState::Weak, Some(format!("free at least {MIN_FREE_MIB} MiB")))
            } else {
                (CheckState::Good, None)
            };
            let detail = format!("{mib} MiB free in {}", there.display());
            HostCheck { subject, state, detail, remedy }
        }
        Err(errno) => {
            let detail = format!("unknown in {}: {}", there.display(), errno.desc());
            HostCheck { subject, state: CheckState::Weak, detail, remedy: None }
        }
    }
}

fn guest_programs() -> HostCheck {
    let subject = "guest programs";
    match image::guest_programs(std::env::var_os("RUNNER_GUEST_DIR").map(Into::into)) {
        Ok(folder) => {
            let detail = folder.display().to_string();
            HostCheck { subject, state: CheckState::Good, detail, remedy: None }
        }
        Err(_) => HostCheck {
            subject,
            state: CheckState::Weak,
            detail: "not found: no image can be built".to_owned(),
            remedy: Some("scripts/build-guest".to_owned()),
        },
    }
}

/// Whether the default image exists. Creates nothing.
fn default_image(state_dir: &Path) -> HostCheck {
    let subject = "default image";
    let is_there = state_dir.join("images").is_dir();
    let found = is_there.then(|| Store::open(state_dir).and_then(|store| store.get(DEFAULT_IMAGE)));
    match found {
        Some(Ok(image)) => {
            let detail = format!("{}, Linux {}", image.id, image.description.kernel_version);
            HostCheck { subject, state: CheckState::Good, detail, remedy: None }
        }
        Some(Err(error)) if !matches!(error, rootfs::Error::NoImage { .. }) => {
            let detail = error.to_string();
            let remedy = Some(format!("runner image build {DEFAULT_IMAGE}"));
            HostCheck { subject, state: CheckState::Weak, detail, remedy }
        }
        _ => {
            let detail = "not built yet".to_owned();
            let remedy = Some(format!("runner image build {DEFAULT_IMAGE}"));
            HostCheck { subject, state: CheckState::Weak, detail, remedy }
        }
    }
}

fn word(state: CheckState) -> &'static str {
    match state {
        CheckState::Good => "good",
        CheckState::Weak => "weak",
        CheckState::Missing => "missing",
    }
}

fn json(checks: &[HostCheck], ok: bool) -> Result<String> {
    let report = Report { ok, checks: checks.iter().map(Check::of).collect() };
    let json = serde_json::to_string_pretty(&report).map_err(|source| Error::Json { source })?;
    Ok(json + "\n")
}

fn text(checks: &[HostCheck], is_well: bool) -> String {
    let mut text = String::new();
    for HostCheck { subject, state, detail, remedy } in checks {
        text.push_str(&format!("{:8} {subject}: {detail}\n", word(*state)));
        if let Some(remedy) = remedy {
            text.push_str(&format!("{:8}   → {remedy}\n", ""));
        }
    }
    text.push_str(if is_well { "VMs can run here.\n" } else { "VMs cannot run here yet.\n" });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host_check(state: CheckState) -> HostCheck {
        let remedy = Some("apt-get install x".to_owned());
        HostCheck { subject: "x", state, detail: "not found".to_owned(), remedy }
    }

    #[test]
    fn a_missing_tool_is_printed_with_its_remedy() {
        let text = text(&[host_check(CheckState::Missing)], false);
        assert!(text.starts_with("missing  x: not found\n           → apt-get install x\n"));
    }

    #[test]
    fn build_tools_are_optional_once_there_is_an_image() {
        let tool = MissingTool { tool: "t", package: "p", why: "makes disks", is_needed: true };
        assert_eq!(missing_tool(&tool, false).state, CheckState::Missing);
        assert_eq!(missing_tool(&tool, true).state, CheckState::Weak);
        let optional = MissingTool { is_needed: false, ..tool };
        assert_eq!(missing_tool(&optional, false).state, CheckState::Weak);
    }

    #[test]
    fn an_image_without_a_description_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!has_image(folder.path()));
        let image = folder.path().join("images/default");
        std::fs::create_dir_all(&image).unwrap();
        assert!(!has_image(folder.path()));
        let json = r#"{"id": "00", "kernel_version": "6", "created": 0, "size_bytes": 0,
            "source": "", "arch": "x86_64", "defaults": {}}"#;
        std::fs::write(image.join("image.json"), json).unwrap();
        assert!(has_image(folder.path()));
    }

    #[test]
    fn added_authorities_are_counted() {
        let found = |count: usize, left_out| {
            authorities(&Found { certificates: vec![String::new(); count], left_out })
        };
        assert_eq!(found(0, 0).detail, "this host's administrator added none");
        assert_eq!(found(2, 0).detail, "guests trust 2 that this host's administrator added");
        let long = found(3, 1);
        assert_eq!((long.state, long.detail.contains("3 of 4")), (CheckState::Weak, true));
    }

    #[test]
    fn a_check_creates_no_files() {
        let folder = tempfile::tempdir().unwrap();
        let found = default_image(folder.path());
        assert_eq!(found.state, CheckState::Weak);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
