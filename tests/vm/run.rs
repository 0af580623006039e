//! `runner run`: as with `docker run`.

use std::io::Write;
use std::process::Stdio;

use crate::host::Host;
use crate::runner::{Runner, text};

#[test]
#[ignore = "needs root and QEMU"]
fn an_exit_code_is_passed_on_and_nothing_is_left() {
    let runner = Runner::new();
    let before = Host::look(runner.state());
    let output = runner.run(&["run", "--", "sh", "-c", "exit 7"]);
    assert_eq!(output.status.code(), Some(7), "{}", text(&output.stderr));
    runner.assert_nothing_left(&before);
}

#[test]
#[ignore = "needs root and QEMU"]
fn stdout_and_stderr_are_passed_on_separately_and_unchanged() {
    let output = Runner::new().run(&["run", "--", "sh", "-c", r"printf '\377out'; printf err >&2"]);
    assert_eq!(output.stdout, b"\xffout");
    assert_eq!(text(&output.stderr), "err");
}

#[test]
#[ignore = "needs root and QEMU"]
fn the_kernel_is_not_the_hosts_and_the_user_has_its_groups_and_home() {
    // Not its version, which may be the same.
    const BOOT: &str = "/proc/sys/kernel/random/boot_id";
    let script = &format!("cat {BOOT}; id -un; pwd; echo $HOME $USER");
    let runner = Runner::new();
    let output = runner.succeed(&["run", "--user", "user", "--", "sh", "-c", script]);
    let ours = std::fs::read_to_string(BOOT).unwrap();
    let lines: Vec<_> = output.lines().collect();
    assert_ne!(lines[0], ours.trim());
    assert_eq!(&lines[1..], ["user", "/home/user", "/home/user user"]);
}

#[test]
#[ignore = "needs root and QEMU"]
fn the_user_becomes_root_without_a_password() {
    let runner = Runner::new();
    let script = "sudo -n sh -c 'id -un; apt-get --version' && sudo -n -u nobody id -un";
    let output = runner.succeed(&["run", "--user", "user", "--", "sh", "-c", script]);
    let lines: Vec<_> = output.lines().collect();
    assert_eq!((lines[0], lines.last()), ("root", Some(&"nobody")), "{output}");
    assert!(output.contains("\napt "), "{output}");
}

#[test]
#[ignore = "needs root and QEMU"]
fn the_kernel_has_the_features_of_development_tools() {
    let runner = Runner::new();
    let script = "ulimit -S -n; ulimit -H -n; cd /proc/sys; cat net/ipv4/ip_unprivileged_port_start \
        fs/inotify/max_user_watches fs/inotify/max_user_instances; \
        perl -e 'use Socket; socket(S, PF_INET, SOCK_STREAM, 0); \
        bind(S, sockaddr_in(80, INADDR_ANY)) && print qq(port 80\\n)'";
    let output = runner.succeed(&["run", "--user", "user", "--", "bash", "-c", script]);
    assert_eq!(output, "65536\n1048576\n0\n524288\n1024\nport 80\n");
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_disk_has_the_requested_size_and_is_sparse_on_the_host() {
    let runner = Runner::new();
    let size = |size: &str| {
        let df = ["--", "stat", "--file-system", "--format", "%b %S", "/"];
        let told = runner.succeed(&[&["run", "--disk", size][..], &df].concat());
        let numbers: Vec<u64> = told.split_whitespace().map(|n| n.parse().unwrap()).collect();
        (numbers[0] * numbers[1]) >> 20
    };
    // What ext4 keeps for itself is some percent.
    assert!((200..=256).contains(&size("256M")));
    assert!((9000..=10240).contains(&size("10G")));
    // More than most hosts have free: the disk is sparse.
    assert!((450_000..=512_000).contains(&size("500G")));
}

/// How long such a write past all caches takes in a VM with such a disk, by the guest's clock.
fn milliseconds_of_a_write(limit: &str, blocks: &str) -> u64 {
    let write = format!("dd if=/dev/zero of=/written {blocks} oflag=direct status=none");
    let script = format!("a=$(date +%s%N) && {write} && echo $((($(date +%s%N) - a) / 1000000))");
    let told = Runner::new().succeed(&["run", "--disk-limit", limit, "--", "sh", "-c", &script]);
    told.trim_end().parse().unwrap()
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_disk_takes_no_more_bytes_than_its_limit() {
    // 16 MB at 4 MB/s, of which some may pass at once.
    let taken = milliseconds_of_a_write("bandwidth=4M", "bs=512000 count=32");
    assert!(taken >= 3000, "{taken} ms");
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_disk_takes_no_more_operations_than_its_limit() {
    let taken = milliseconds_of_a_write("operations=100", "bs=4096 count=400");
    assert!(taken >= 3000, "{taken} ms");
}

#[test]
#[ignore = "needs root and QEMU"]
fn environment_and_working_folder_are_passed_on_unchanged() {
    let runner = Runner::new();
    let value = "a 'quoted' $value; with `everything`";
    let pair = format!("V={value}");
    let args = ["run", "--env", &pair, "--workdir", "/tmp", "--", "sh", "-c", "pwd; echo \"$V\""];
    assert_eq!(runner.succeed(&args), format!("/tmp\n{value}\n"));
}

#[test]
#[ignore = "needs root and QEMU"]
fn standard_input_is_passed_on_with_i() {
    let runner = Runner::new();
    let mut command = runner.command(&["run", "-i", "--", "md5sum"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    for _ in 0..200 {
        stdin.write_all(&[b'x'; 10_000]).unwrap();
    }
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    // md5 of two million x
    assert_eq!(text(&output.stdout).trim_end(), format!("{}  -", MD5_OF_X));
}

/// `head -c 2000000 /dev/zero | tr '\0' x | md5sum`
const MD5_OF_X: &str = "939ee55a36872cb4222e09cced62a7b5";

#[test]
#[ignore = "needs root and QEMU"]
fn a_command_that_times_out_exits_with_124_and_its_descendants_are_killed() {
    let runner = Runner::new();
    let before = Host::look(runner.state());
    let args = ["run", "--timeout", "1s", "--", "sh", "-c", "setsid sleep 1000 & sleep 1000"];
    assert_eq!(runner.run(&args).status.code(), Some(124));
    runner.assert_nothing_left(&before);
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_missing_program_exits_with_127_and_is_named() {
    let output = Runner::new().run(&["run", "--", "no-such-program"]);
    assert_eq!(output.status.code(), Some(127));
    assert!(text(&output.stderr).contains("no-such-program"), "{}", text(&output.stderr));
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_command_killed_by_a_signal_exits_with_128_plus_its_number() {
    let output = Runner::new().run(&["run", "--", "sh", "-c", "kill -9 $$"]);
    assert_eq!(output.status.code(), Some(137));
}

#[test]
#[ignore = "needs root and QEMU"]
fn ctrl_c_reaches_the_command() {
    let runner = Runner::new();
    let script = "trap 'echo caught; exit 3' INT; echo ready; while :; do sleep 0.1; done";
    let mut running = runner.start(&["run", "--", "sh", "-c", script]);
    running.wait_for_line("ready");
    running.signal(libc::SIGINT);
    let (code, stdout, _) = running.finish();
    assert_eq!((code, stdout.as_str()), (Some(3), "caught\n"));
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_second_ctrl_c_kills_a_command_that_ignores_the_first() {
    let runner = Runner::new();
    let before = Host::look(runner.state());
    let script = "trap 'echo ignored' INT; echo ready; while :; do sleep 0.1; done";
    let mut running = runner.start(&["run", "--", "sh", "-c", script]);
    running.wait_for_line("ready");
    running.signal(libc::SIGINT);
    running.wait_for_line("ignored");
    running.signal(libc::SIGINT);
    let (code, _, _) = running.finish();
    assert_eq!(code, Some(137));
    runner.assert_nothing_left(&before);
}

#[test]
#[ignore = "needs root and QEMU"]
fn large_output_arrives_completely() {
    let script = "head -c 50000000 /dev/zero | tr '\\0' y";
    let output = Runner::new().run(&["run", "--", "sh", "-c", script]);
    assert_eq!(output.stdout.len(), 50_000_000);
    assert!(output.stdout.iter().all(|byte| *byte == b'y'));
}

#[test]
#[ignore = "needs root and QEMU"]
fn host_name_clock_and_time_zone_are_set() {
    let runner = Runner::new();
    let args = ["run", "--hostname", "box", "--tz", "Asia/Tokyo", "--"];
    let output =
        runner.succeed(&[&args[..], &["sh", "-c", "hostname; date +%s; date +%z"]].concat());
    let lines: Vec<_> = output.lines().collect();
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    assert_eq!(lines[0], "box");
    assert!(lines[1].parse::<u64>().unwrap().abs_diff(now) < 60);
    assert_eq!(lines[2], "+0900");
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_vm_has_the_requested_memory_and_vcpus() {
    let args = ["run", "--vcpus", "2", "--memory", "400", "--", "sh", "-c"];
    let script = "nproc; awk '/MemTotal/ {print $2}' /proc/meminfo";
    let output = Runner::new().succeed(&[&args[..], &[script]].concat());
    let lines: Vec<_> = output.lines().collect();
    let kib: u64 = lines[1].parse().unwrap();
    assert_eq!(lines[0], "2");
    assert!((300_000..400 * 1024).contains(&kib), "{kib} KiB");
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_command_that_takes_all_memory_is_killed_and_reported_and_the_vm_continues() {
    let runner = Runner::new();
    let told = "runner: the VM ran out of memory (192 MiB) and its kernel killed 1 process: give";
    let killed = runner.run(&["run", "--memory", "192", "--", "tail", "/dev/zero"]);
    let errors = text(&killed.stderr);
    assert_eq!(killed.status.code(), Some(137), "{errors}");
    assert!(errors.contains(told), "{errors}");
    runner.succeed(&["run", "-d", "--memory", "192", "--name", "box"]);

    let survived = runner.run(&["exec", "box", "--", "sh", "-c", "tail /dev/zero | cat; exit 3"]);
    let after = runner.run(&["exec", "box", "--", "echo", "still here"]);

    let errors = text(&survived.stderr);
    assert_eq!(survived.status.code(), Some(3), "{errors}");
    assert!(errors.contains(told), "{errors}");
    assert_eq!((text(&after.stdout), text(&after.stderr)), ("still here\n".into(), "".into()));
    runner.succeed(&["stop", "box"]);
}
