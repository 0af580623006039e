//! Parsing of `runner.toml`, and its error messages.

use sandbox::{DiskLimits, Limits};

use super::*;

const MACHINE: fn() -> Machine = || Machine { name: "box".into(), vcpus: 4, memory_mib: 8192 };

fn read(text: &str) -> Result<Config> {
    let source = |source| crate::error::Usage::Config { path: "runner.toml".into(), source };
    Config::resolve(toml::from_str(text).map_err(source)?, Path::new("/etc"), &MACHINE())
}

fn error(text: &str) -> String {
    read(text).unwrap_err().chain()
}

#[test]
fn without_a_file_there_is_one_profile_and_the_hosts_budget() {
    let config = read("").unwrap();
    assert_eq!(config.budget, Resources { vcpus: 8, memory_mib: 8192 });
    assert_eq!(config.max_concurrent, 8);
    assert_eq!(config.profiles.keys().collect::<Vec<_>>(), ["default"]);
    assert_eq!((config.name.as_str(), config.group.as_str()), ("box", "local/default"));
}

#[test]
fn the_example_file_is_valid_with_and_without_its_commented_keys() {
    let text = include_str!("../../../../examples/runner.toml");
    // Keys after `#:` show their defaults, and must be valid too.
    let uncommented: String = text
        .lines()
        .map(|line| line.strip_prefix("#:").unwrap_or(line).trim_start().to_owned() + "\n")
        .collect();
    for text in [text, &uncommented] {
        let config = read(text).unwrap();
        assert!(config.profiles.contains_key("default"));
    }
}

#[test]
fn an_error_names_the_line_and_what_was_expected() {
    let text = error("[runner]\nname = \"x\"\nmax_concurent = 3\n");
    assert!(text.contains("line 3") && text.contains("`max_concurrent`"), "{text}");
    let text = error("[profiles.big]\ntimeout = \"soon\"\n");
    assert!(text.contains("line 2") && text.contains("expected a time"), "{text}");
    assert!(error("[runner]\ngroup = \"Team\"\n").contains("runner.group"));
    assert!(error("[profiles.x]\nvcpus = 0\n").contains("profiles.x.vcpus"));
    for url in ["platform.example", "htps://x", "ftp://x", "http:/x", "https://", "https://x?y"] {
        let text = error(&format!("[api]\nurl = \"{url}\"\ntoken_file = \"t\"\n"));
        assert!(text.contains("api.url"), "{url}: {text}");
    }
    for urls in ["[]", "[\"https://x\", \"y\"]", "7"] {
        let text = error(&format!("[api]\nurl = {urls}\ntoken_file = \"t\"\n"));
        assert!(text.contains("url"), "{urls}: {text}");
    }
    let text = error("[api]\nurl = \"https://x\"\ntoken_file = \"t\"\nreachable = [\"*.x\"]\n");
    assert!(text.contains("api.reachable") && text.contains("HOST:PORT"), "{text}");
    let text = error("[profiles.big]\nmemory_mib = 9000\n");
    assert!(text.contains("profile `big`") && text.contains("9000 MiB"), "{text}");
    let text = error("[profiles.big]\ndisc = \"8G\"\n");
    assert!(text.contains("line 2") && text.contains("`disk`"), "{text}");
    let text = error("[profiles.big]\ndisk = \"8GB\"\n");
    assert!(text.contains("line 2") && text.contains("like 8G"), "{text}");
    let text = error("[profiles.big.disk_limits]\nbandwith = 1\n");
    assert!(text.contains("line 2") && text.contains("`bandwidth`"), "{text}");
    let text = error("[profiles.big]\ndisk_limits = { bandwidth = \"fast\" }\n");
    assert!(text.contains("line 2") && text.contains("bytes per second"), "{text}");
    let text = error("[profiles.big]\ndisk_limits = { operations = 1 }\n");
    assert!(text.contains("line 2") && text.contains("from 50"), "{text}");
    let text = error("[profiles.big.limits]\nupload = \"fast\"\n");
    assert!(text.contains("line 2") && text.contains("bits per second"), "{text}");
    let text = error("[profiles.big.network]\ndns = true\ndefualt = \"deny\"\n");
    assert!(text.contains("line 3") && text.contains("`default`"), "{text}");
    let text = error("[profiles.big]\nnetwork = 1\n");
    assert!(text.contains("line 2") && text.contains("policy=FILE"), "{text}");
    let text = error("[profiles.big]\nnetwork = \"none\"\nlimits = { upload = \"1M\" }\n");
    assert!(text.contains("profiles.big.limits"), "{text}");
}

#[test]
fn a_profile_sets_disk_limits_and_network_of_its_vms() {
    let config = read(
        r#"
        [profiles.deploy]
        disk = "20G"
        disk_limits = { bandwidth = "200M", operations = 5000 }
        limits = { download = "100M" }
        [profiles.deploy.network]
        dns = true
        limits = { upload = "20M", connections = 7 }
        [[profiles.deploy.network.rule]]
        action = "allow"
        to = "140.82.112.0/20"
        [profiles.slow]
        limits = { upload = "1M" }
        "#,
    );
    let profiles = config.unwrap().profiles;
    let deploy = &profiles["deploy"];
    let network = deploy.network.as_ref().unwrap();
    assert_eq!((deploy.disk_mib, network.policy.rules.len()), (Some(20 << 10), 1));
    let (upload, download) = (Some(20_000_000), Some(100_000_000));
    assert_eq!(network.limits, Limits { upload, download, connections: 7 });
    let slow = profiles["slow"].network.as_ref().unwrap();
    let limits = Limits { upload: Some(1_000_000), ..Limits::default() };
    assert_eq!(slow.limits, limits);
    assert_eq!(
        (deploy.interception.is_some(), profiles["slow"].interception.is_some()),
        (false, true)
    );
    assert_eq!(profiles["default"].disk_mib, None);
    let (bytes_per_second, operations_per_second) = (Some(200_000_000), Some(5000));
    assert_eq!(deploy.disk_limits, DiskLimits { bytes_per_second, operations_per_second });
    assert_eq!(profiles["default"].disk_limits, DiskLimits::default());
}

#[test]
fn paths_are_relative_to_the_folder_of_the_file() {
    let several =
        "[api]\nurl = [\"https://x/\", \"http://y:1\"]\nca = \"ca.pem\"\ntoken_file = \"t\"\n";
    let api = read(several).unwrap().api.unwrap();
    assert_eq!(
        (api.names().as_str(), api.ca),
        ("https://x, http://y:1", Some("/etc/ca.pem".into()))
    );
    let config = read("[api]\nurl = \"https://x/\"\ntoken_file = \"token\"\n").unwrap();
    let api = config.api.unwrap();
    assert_eq!((api.names().as_str(), api.token_file), ("https://x", "/etc/token".into()));
}

#[test]
fn memory_of_warm_vms_is_not_available_to_jobs() {
    let config =
        read("[runner]\nmemory_mib = 4096\n[profiles.x]\nmemory_mib = 1024\nwarm = 2\n").unwrap();
    assert_eq!((config.budget.memory_mib, config.profiles["x"].warm), (2048, 2));
    let text = error("[runner]\nmemory_mib = 2048\n[profiles.x]\nmemory_mib = 1024\nwarm = 2\n");
    assert!(text.contains("1024 MiB"), "{text}");
    assert!(error("[profiles.x]\nwarm = 65\n").contains("profiles.x.warm"));
    assert!(error("[runner]\nparked = 2000\n").contains("runner.parked"));
}

#[test]
fn guests_trust_the_hosts_authorities_unless_a_profile_disables_it() {
    let config = read("[profiles.own]\nhost_ca = false\n").unwrap();
    assert!(read("").unwrap().profiles["default"].host_ca);
    assert!(!config.profiles["own"].host_ca);
}

#[test]
fn sandboxes_have_limits_and_are_not_served_unless_it_says_where() {
    let config = read("[runner]\nmax_concurrent = 3\n").unwrap();
    assert_eq!((config.sandboxes.listen.len(), config.sandboxes.max, config.max_vms()), (0, 3, 3));
    let config = read(
        "[runner]\nmax_concurrent = 3\n[sandboxes]\nlisten = [\"127.0.0.1:1\"]\nmax = 9\n\
         max_timeout = \"1m\"\ntls_cert = \"c\"\ntls_key = \"k\"\n",
    );
    let config = config.unwrap();
    // Each paused sandbox has a network, too.
    assert_eq!(config.max_vms(), 12);
    assert_eq!(config.sandboxes.default_timeout, Duration::from_secs(60));
    assert_eq!(config.sandboxes.tls, Some(("/etc/c".into(), "/etc/k".into())));
    assert!(error("[sandboxes]\nmax = 0\n").contains("sandboxes.max"));
    assert!(error("[sandboxes]\ntls_cert = \"c\"\n").contains("both or none"));
    assert!(error("[sandboxes]\ndomain = \"a b\"\n").contains("sandboxes.domain"));
    assert!(error("[sandboxes]\nmcp_hosts = [\"a/b\"]\n").contains("sandboxes.mcp_hosts"));
    let text = error("[sandboxes]\ndefault_timeout = \"2h\"\nmax_timeout = \"1h\"\n");
    assert!(text.contains("sandboxes.default_timeout"), "{text}");
}
