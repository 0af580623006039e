use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use super::*;
use crate::testing::{TarBuilder, listing, tree};

static PACKAGE: Package = Package {
    name: "@scope/tool-x64",
    version: "1.2.3",
    // Of "abc".
    integrity: "sha512-3a81oZNherrMQXNJriBBMRLm+k6JqX6iCp7u5ktV05ohkpkqJ0/BqDa6PCOj/uu9RU1EI2Q86A4qmslPpUyknw==",
    file: "tool",
    command: "tool",
};

fn install_from(tree: &mut Tree, archive: TarBuilder) -> Result<()> {
    let bytes = archive.finish();
    Reporter::new(&mut |_| ()).step(Step::Read, |meter| {
        Ok((install(tree, &PACKAGE, Archive::new(&bytes[..], "tool.tgz"), meter)?, Origin::Made))
    })
}

fn refusal(archive: TarBuilder) -> String {
    let dir = tempfile::tempdir().unwrap();
    install_from(&mut tree(dir.path()), archive).unwrap_err().to_string()
}

fn stage() -> (tempfile::TempDir, Stage) {
    let dir = tempfile::tempdir().unwrap();
    let stage = Stage::enter(dir.path(), &mut Reporter::new(&mut |_| ())).unwrap();
    (dir, stage)
}

#[test]
fn a_program_is_linked_into_the_path_and_owned_by_root() {
    let dir = tempfile::tempdir().unwrap();
    let mut tree = tree(dir.path());
    let archive = TarBuilder::new().program("package/tool", "elf").file("package/LICENSE", "text");

    install_from(&mut tree, archive).unwrap();

    let program = tree.get(b"usr/local/bin/tool").unwrap().unwrap();
    assert_eq!((program.meta.mode, program.meta.uid), (0o755, 0));
    assert_eq!(tree.read(b"usr/local/bin/tool", 9).unwrap().unwrap(), b"elf");
    let listing = listing(&tree);
    let license = "usr/local/lib/node_modules/@scope/tool-x64/LICENSE=text";
    assert!(listing.iter().any(|line| line == license), "{listing:?}");
}

#[test]
fn path_that_climbs_out_of_the_package_is_refused() {
    let archive = TarBuilder::new().program("package/../../../../bin/sh", "elf");

    let package = "usr/local/lib/node_modules/@scope/tool-x64";
    let error = format!("unsafe path {package}/../../../../bin/sh in the source");
    assert_eq!(refusal(archive), error);
}

#[test]
fn path_beside_the_package_is_refused() {
    let error =
        "npm package @scope/tool-x64@1.2.3 has etc/passwd, which is not a file in its folder";

    assert_eq!(refusal(TarBuilder::new().file("etc/passwd", "x")), error);
}

#[test]
fn links_are_refused() {
    let error =
        "npm package @scope/tool-x64@1.2.3 has package/tool, which is not a file in its folder";

    assert_eq!(refusal(TarBuilder::new().symlink("package/tool", "/bin/sh")), error);
    assert_eq!(refusal(TarBuilder::new().hard_link("package/tool", "bin/sh")), error);
}

#[test]
fn package_without_its_program_is_refused() {
    let archive = TarBuilder::new().file("package/tool", "not executable");

    assert_eq!(refusal(archive), "npm package @scope/tool-x64@1.2.3 has no program tool");
}

#[test]
fn only_npms_own_variables_are_passed_to_npm() {
    let is = |name: &str| is_configuration(OsStr::new(name));

    assert!(is("npm_config_registry") && is("NPM_CONFIG_USERCONFIG") && is("HOME"));
    assert!(!is("NODE_OPTIONS") && !is("ANTHROPIC_API_KEY"));
}

#[test]
fn an_archive_with_the_right_hash_may_have_any_name() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("any.tgz"), "abc").unwrap();

    let archive = archive_in(dir.path().to_owned()).unwrap();

    verify(&PACKAGE, &archive).unwrap();
    assert_eq!(fs::read(archive).unwrap(), b"abc");
}

#[test]
fn a_wrong_hash_of_an_archive_is_reported_with_the_expected_one() {
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("any.tgz");
    fs::write(&archive, "evil").unwrap();

    let error = verify(&PACKAGE, &archive).unwrap_err().to_string();

    let start = "npm package @scope/tool-x64@1.2.3 has the integrity sha512-";
    assert!(error.starts_with(start), "{error}");
    assert!(error.ends_with(&format!(", not {}", PACKAGE.integrity)), "{error}");
}

#[test]
fn package_that_cannot_be_fetched_is_named() {
    let (_dir, stage) = stage();

    let error = obtain(&PACKAGE, Command::new("false"), &stage).unwrap_err();

    assert_eq!(error.to_string(), "cannot fetch npm package @scope/tool-x64@1.2.3");
}

/// An npm that failed, with the end of its log.
fn failed(output: &str) -> Error {
    let status = ExitStatus::from_raw(1 << 8);
    Error::ToolFailed { tool: NPM.name, status, output: output.to_owned() }
}

#[test]
fn an_npm_error_is_reported_by_its_summary_without_a_stack_trace() {
    let error = explain(failed("at Socket"), br#"{"error": {"summary": "no\nway"}}"#);

    assert_eq!(error.to_string(), "npm failed (exit status: 1): no; way");
}

#[test]
fn a_failed_npm_without_output_is_reported_by_its_log() {
    let error = explain(failed("cannot run"), b"");

    assert_eq!(error.to_string(), "npm failed (exit status: 1): cannot run");
}

#[test]
fn an_npm_that_downloads_nothing_is_an_error() {
    let (_dir, stage) = stage();

    let error = download(&PACKAGE, Command::new("true"), &stage).unwrap_err();

    assert!(matches!(error, Error::NothingFetched { .. }));
}

#[test]
#[ignore = "needs npm"]
fn an_unreachable_registry_is_reported() {
    let (_dir, stage) = stage();
    // Nothing listens at port 1 of this host.
    let mut command = command();
    command.env("npm_config_registry", "http://127.0.0.1:1/").env("npm_config_fetch_retries", "0");

    let error = download(&PACKAGE, command, &stage).unwrap_err().to_string();

    assert!(error.starts_with("npm failed (exit status: 1): "), "{error}");
    assert!(error.ends_with("reason: connect ECONNREFUSED 127.0.0.1:1"), "{error}");
}
