//! What a restored VM that idles costs of the host's memory, several of them at once: its monitor, and
//! the process that owns it, as a service does.

use std::fs;
use std::path::{Path, PathBuf};

use sandbox::SandboxId;

use crate::bare::{Bare, Start};
use crate::{Bench, median, within};

const COUNT: usize = 5;

/// In KiB, medians, or for each VM.
pub(crate) fn rows(bench: &Bench) -> [(&'static str, i64); 6] {
    let bare: Vec<_> = (0..COUNT).map(|_| Bare::start(bench, Start::Restored)).collect();
    let monitors: Vec<_> = bare.iter().map(|vm| vec![process(vm.firecracker.id())]).collect();
    let bare_kib = ["RssAnon:", "Pss:"].map(|name| of_all(&monitors, name));
    drop(bare);

    let factory = within::factory(bench);
    // With what is made only once.
    within::start(&factory, bench).kill().unwrap();
    let before = kib(Path::new("/proc/self"), "VmRSS:");
    let vms: Vec<_> = (0..COUNT).map(|_| within::start(&factory, bench)).collect();
    let owner = (kib(Path::new("/proc/self"), "VmRSS:") - before) / COUNT as i64;
    let monitors: Vec<_> = vms.iter().map(|vm| processes(vm.id())).collect();
    let ours_kib = ["RssAnon:", "Pss:"].map(|name| of_all(&monitors, name));
    for vm in vms {
        vm.kill().unwrap();
    }
    [
        ("bare_anonymous_kib", bare_kib[0]),
        ("anonymous_kib", ours_kib[0]),
        ("bare_pss_kib", bare_kib[1]),
        ("pss_kib", ours_kib[1]),
        ("owner_kib_for_each", owner),
        ("beyond_firecracker_kib", ours_kib[0] - bare_kib[0] + owner),
    ]
}

/// The median of what VMs with these processes have.
fn of_all(vms: &[Vec<PathBuf>], name: &str) -> i64 {
    let of_one = |vm: &Vec<PathBuf>| vm.iter().map(|path| kib(path, name)).sum::<i64>() as f64;
    median(&mut vms.iter().map(of_one).collect::<Vec<_>>()) as i64
}

fn process(pid: u32) -> PathBuf {
    Path::new("/proc").join(pid.to_string())
}

/// All of a VM's cgroup but for threads of the kernel: KVM has one for each VM.
fn processes(id: SandboxId) -> Vec<PathBuf> {
    let cgroup = process::mount_point().unwrap().join("sandbox-runner").join(id.to_string());
    let pids = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap();
    let all = pids.lines().map(|pid| process(pid.parse().unwrap()));
    all.filter(|path| fs::read_link(path.join("exe")).is_ok()).collect()
}

fn kib(process: &Path, name: &str) -> i64 {
    let files =
        ["status", "smaps_rollup"].map(|file| fs::read_to_string(process.join(file)).unwrap());
    let line = files.iter().flat_map(|text| text.lines()).find_map(|line| line.strip_prefix(name));
    line.unwrap().trim().trim_end_matches(" kB").parse().unwrap()
}
