//! The modules that a guest may load on demand: `/lib/modules/RELEASE` of its root file system.
//!
//! ```text
//!   kernel/net/bridge/bridge.ko …  the modules, decompressed
//!   modules.dep                    a module and its dependencies, in reverse loading order
//!   modules.alias                  `alias PATTERN NAME`: patterns of requests, and their modules
//!   modules.devname                `NAME NODE c10:229`: device nodes that load a module when opened
//!   modules.builtin                the modules built into the kernel
//! ```
//!
//! The formats are those of depmod. guest-init reads them when the kernel requests a module.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Result;
use crate::kernel::modinfo::{self, ModInfo};
use crate::kernel::module::{self, Found};

/// The modules that Docker, Podman and Buildah need, without their dependencies. Missing and
/// built-in ones are skipped.
#[rustfmt::skip]
const WANTED: [&str; 68] = [
    // Overlay file systems and FUSE, for layers of images.
    "overlay", "fuse", "loop", "binfmt_misc",
    // Networks of containers.
    "bridge", "br_netfilter", "veth", "tun", "dummy", "macvlan", "ipvlan", "vxlan",
    // nftables, and iptables with the nf_tables back end.
    "nf_tables", "nft_compat", "nft_chain_nat", "nft_masq", "nft_nat", "nft_redir", "nft_ct",
    "nft_fib", "nft_fib_inet", "nft_fib_ipv4", "nft_fib_ipv6", "nft_hash", "nft_limit", "nft_log",
    "nft_numgen", "nft_objref", "nft_quota", "nft_reject", "nft_reject_inet", "nft_reject_ipv4",
    "nft_reject_ipv6", "nf_conntrack_netlink", "nf_log_syslog",
    // Legacy iptables.
    "ip_tables", "iptable_filter", "iptable_nat", "iptable_mangle", "iptable_raw", "ip6_tables",
    "ip6table_filter", "ip6table_nat", "ip6table_mangle", "ip6table_raw", "ipt_REJECT",
    "ip6t_REJECT",
    // Matches and targets of both.
    "xt_addrtype", "xt_comment", "xt_connmark", "xt_conntrack", "xt_limit", "xt_mark",
    "xt_multiport", "xt_nat", "xt_owner", "xt_physdev", "xt_pkttype", "xt_recent", "xt_state",
    "xt_statistic", "xt_tcpudp", "xt_CHECKSUM", "xt_CT", "xt_LOG", "xt_MASQUERADE",
    "xt_REDIRECT", "xt_TCPMSS",
];

/// The names of all selected modules besides those of the initramfs.
pub(super) fn wanted() -> impl Iterator<Item = &'static str> {
    WANTED.into_iter()
}

/// A file below `/lib/modules/RELEASE`: path and content.
pub(super) type File = (String, Vec<u8>);

/// A module of the library.
struct Module {
    path: String,
    bytes: Vec<u8>,
    info: ModInfo,
}

/// All files of the library.
pub(super) fn build(found: &BTreeMap<String, Found>, builtin: &str) -> Result<Vec<File>> {
    // Module names have `_` where file names may have `-`.
    let by_name: BTreeMap<String, &Found> =
        found.iter().map(|(name, file)| (name.replace('-', "_"), file)).collect();
    let mut modules: BTreeMap<String, Module> = BTreeMap::new();
    let mut missing: Vec<String> = module::wanted().chain(WANTED).map(str::to_owned).collect();
    while let Some(name) = missing.pop() {
        let name = name.replace('-', "_");
        let Some((path, packed)) = by_name.get(&name).filter(|_| !modules.contains_key(&name))
        else {
            continue;
        };
        let bytes = module::decompress(path, packed)?;
        let info = modinfo::read(&bytes);
        missing.extend(info.depends.iter().cloned());
        modules.insert(name, Module { path: strip_compression(path), bytes, info });
    }
    let indexes = [
        ("modules.dep", dependencies(&modules)),
        ("modules.alias", aliases(&modules)),
        ("modules.devname", device_nodes(&modules)),
        ("modules.builtin", builtin.to_owned()),
    ];
    let indexes = indexes.map(|(name, text)| (name.to_owned(), text.into_bytes()));
    let files = modules.into_values().map(|module| (module.path, module.bytes));
    Ok(files.chain(indexes).collect())
}

/// The path without the suffix of a compressed file.
fn strip_compression(path: &str) -> String {
    path.split_once(".ko").map_or(path, |(stem, _)| stem).to_owned() + ".ko"
}

fn dependencies(modules: &BTreeMap<String, Module>) -> String {
    let mut text = String::new();
    for (name, module) in modules {
        let mut order = Vec::new();
        collect(name, modules, &mut BTreeSet::new(), &mut order);
        order.pop();
        text += &format!("{}:", module.path);
        order.iter().rev().for_each(|path| text += &format!(" {path}"));
        text.push('\n');
    }
    text
}

/// Appends the module's path to `order`, after its dependencies.
fn collect<'a>(
    name: &str,
    modules: &'a BTreeMap<String, Module>,
    seen: &mut BTreeSet<String>,
    order: &mut Vec<&'a str>,
) {
    let Some(module) = modules.get(name).filter(|_| seen.insert(name.to_owned())) else {
        return;
    };
    module.info.depends.iter().for_each(|name| collect(name, modules, seen, order));
    order.push(&module.path);
}

fn aliases(modules: &BTreeMap<String, Module>) -> String {
    let lines = modules.iter().flat_map(|(name, module)| {
        let aliases = module.info.aliases.iter().filter(|alias| !alias.starts_with(DEVNAME));
        aliases.map(move |alias| format!("alias {alias} {name}\n"))
    });
    lines.collect()
}

/// The prefix of aliases that name a device node.
const DEVNAME: &str = "devname:";

fn device_nodes(modules: &BTreeMap<String, Module>) -> String {
    let line = |(name, module): (&String, &Module)| {
        let find = |prefix| module.info.aliases.iter().find_map(|alias| alias.strip_prefix(prefix));
        let (node, number) = (find(DEVNAME)?, find("char-major-")?);
        let (major, minor) = number.split_once('-')?;
        Some(format!("{name} {node} c{major}:{minor}\n"))
    };
    modules.iter().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(path: &str, entries: &[&str]) -> (String, Found) {
        let name = module::name(path.rsplit('/').next().unwrap()).unwrap();
        (name.to_owned(), (path.to_owned(), modinfo::elf(entries)))
    }

    fn text(files: &[File], name: &str) -> String {
        let (_, bytes) = files.iter().find(|(path, _)| path == name).unwrap();
        String::from_utf8(bytes.clone()).unwrap()
    }

    #[test]
    fn modules_are_copied_with_their_dependencies_only() {
        let found = BTreeMap::from([
            module("kernel/net/bridge/bridge.ko", &["depends=stp,llc"]),
            module("kernel/net/802/stp.ko", &["depends=llc"]),
            module("kernel/net/llc/llc.ko", &["depends="]),
            module("kernel/fs/xfs/xfs.ko", &["depends="]),
        ]);

        let files = build(&found, "").unwrap();

        assert_eq!(
            text(&files, "modules.dep"),
            "kernel/net/bridge/bridge.ko: kernel/net/802/stp.ko kernel/net/llc/llc.ko\n\
             kernel/net/llc/llc.ko:\n\
             kernel/net/802/stp.ko: kernel/net/llc/llc.ko\n"
        );
        assert!(files.iter().all(|(path, _)| !path.contains("xfs")));
    }

    #[test]
    fn aliases_of_the_kernel_resolve_to_modules() {
        let found = BTreeMap::from([
            module("kernel/fs/fuse/fuse.ko", &["alias=devname:fuse", "alias=char-major-10-229"]),
            module("kernel/drivers/char/hw_random/virtio-rng.ko", &["alias=virtio:d00000004v*"]),
        ]);

        let files = build(&found, "kernel/fs/ext4/ext4.ko\n").unwrap();

        assert_eq!(
            text(&files, "modules.alias"),
            "alias char-major-10-229 fuse\nalias virtio:d00000004v* virtio_rng\n"
        );
        assert_eq!(text(&files, "modules.devname"), "fuse fuse c10:229\n");
        assert_eq!(text(&files, "modules.builtin"), "kernel/fs/ext4/ext4.ko\n");
    }

    #[test]
    fn compressed_module_is_stored_decompressed_under_its_plain_name() {
        let bytes = zstd::encode_all(&modinfo::elf(&["depends="])[..], 1).unwrap();
        let file = ("kernel/drivers/net/veth.ko.zst".to_owned(), bytes);

        let files = build(&BTreeMap::from([("veth".to_owned(), file)]), "").unwrap();

        assert_eq!(
            files[0],
            ("kernel/drivers/net/veth.ko".to_owned(), modinfo::elf(&["depends="]))
        );
    }

    #[test]
    fn a_cycle_of_module_dependencies_ends_the_search() {
        let found = BTreeMap::from([
            module("kernel/a/veth.ko", &["depends=tun"]),
            module("kernel/a/tun.ko", &["depends=veth"]),
        ]);

        let files = build(&found, "").unwrap();

        assert!(text(&files, "modules.dep").starts_with("kernel/a/tun.ko: kernel/a/veth.ko\n"));
    }
}
