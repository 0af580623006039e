//! Containers in a guest, with the engines that Debian has, and an image that each test makes itself.

use std::io::Write;
use std::net::TcpListener;

use netns::testing::INTERNET;

use crate::runner::{Runner, text};

/// Makes `box.tar`, a root file system with nothing in it but BusyBox.
const BOX: &str = "set -e; cd /tmp; mkdir -p box/bin; cp /bin/busybox box/bin/; \
    for name in sh cat echo nc httpd wget; do ln -s busybox box/bin/$name; done; \
    echo served > box/index.html; tar -C box -cf box.tar .; ";

/// Starts Docker's daemon and waits until it answers.
const DOCKER: &str = "dockerd > dockerd.log 2>&1 & \
    until docker info > info 2> /dev/null; do kill -0 $! || { cat dockerd.log; exit 1; }; done; \
    docker import box.tar box > /dev/null; ";

/// Runs a script in a guest of the image `containers`, as a user who has the tar `box.tar`, and returns
/// what it printed.
fn run(runner: &Runner, user: &str, script: &str) -> String {
    let script = format!("{BOX}{script}");
    let usual = ["run", "--image", "containers", "--memory", "1536", "--timeout", "10m"];
    let output = runner.run(&[&usual[..], &["--user", user, "--", "bash", "-c", &script]].concat());
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{}: {stdout}{stderr}", output.status);
    stdout
}

/// Says hello to who connects, on the internet; returns its port.
fn greet(runner: &Runner) -> u16 {
    let listener = runner.world.on_the_internet(|| TcpListener::bind((INTERNET, 0)).unwrap());
    let port = listener.local_addr().unwrap().port();
    let greet = move || {
        for stream in listener.incoming() {
            let _ = stream.unwrap().write_all(b"hello from outside\n");
        }
    };
    std::thread::Builder::new().name("greet".into()).spawn(greet).unwrap();
    port
}

#[test]
#[ignore = "needs root, QEMU and the image `containers`"]
fn docker_runs_containers_with_its_overlay_driver_and_network() {
    let runner = Runner::new();
    let port = greet(&runner);
    let script = format!(
        "{DOCKER} grep Storage.Driver info; docker run --rm box echo from a container; \
         docker run --rm --memory 64m box nc {INTERNET} {port} < /dev/null; \
         docker run -d -p 8080:80 box httpd -f -p 80 > /dev/null; \
         until curl -sf 127.0.0.1:8080; do :; done"
    );

    let output = run(&runner, "root", &script);

    let lines: Vec<_> = output.lines().map(str::trim).collect();
    let wanted = ["Storage Driver: overlay2", "from a container", "hello from outside", "served"];
    assert_eq!(lines, wanted);
}

#[test]
#[ignore = "needs root, QEMU and the image `containers`"]
fn services_of_docker_compose_reach_each_other_by_name() {
    let runner = Runner::new();
    let file = "services:\n  web:\n    image: box\n    command: httpd -f -p 80\n  client:\n    \
        image: box\n    depends_on: [web]\n    \
        command: sh -c 'until wget -q -O - http://web/index.html; do true; done'\n";
    let script = format!(
        "{DOCKER} mkdir project; cd project; printf '%s' \"{file}\" > docker-compose.yml; \
         docker-compose up -d web 2> log && docker-compose run --rm client 2>> log \
         || {{ cat log; exit 1; }}"
    );

    assert_eq!(run(&runner, "root", &script).trim_end(), "served");
}

#[test]
#[ignore = "needs root, QEMU and the image `containers`"]
fn podman_runs_containers_for_root_with_its_overlay_driver_and_network() {
    let runner = Runner::new();
    let port = greet(&runner);
    let script = format!(
        "podman import -q box.tar box > /dev/null; \
         podman info --format '{{{{.Store.GraphDriverName}}}}'; \
         podman run --rm --memory 64m box nc {INTERNET} {port} < /dev/null"
    );

    assert_eq!(run(&runner, "root", &script), "overlay\nhello from outside\n");
}

#[test]
#[ignore = "needs root, QEMU and the image `containers`"]
fn podman_runs_containers_for_a_user_without_privileges() {
    let runner = Runner::new();
    let port = greet(&runner);
    let script = format!(
        "podman import -q box.tar box > /dev/null; \
         podman run --rm box nc {INTERNET} {port} < /dev/null"
    );

    assert_eq!(run(&runner, "user", &script), "hello from outside\n");
}

#[test]
#[ignore = "needs root, QEMU and the image `containers`"]
fn buildah_builds_an_image_with_commands_that_run_in_it() {
    let runner = Runner::new();
    let script = "printf 'FROM scratch\\nADD box.tar /\\nRUN echo built > /file\\n' > Dockerfile; \
        buildah bud -q -t built . > /dev/null; c=$(buildah from built); buildah run $c cat /file";

    assert_eq!(run(&runner, "root", script), "built\n");
}

#[test]
#[ignore = "needs root and QEMU"]
fn kernel_modules_and_devices_for_containers_are_loaded_on_demand() {
    let runner = Runner::new();
    // The default image has no program for that: guest-init is the kernel's helper, and `modprobe`.
    let script = "set -e; ! grep -q '^bridge ' /proc/modules; ip link add br0 type bridge; \
        grep -c '^bridge ' /proc/modules; modprobe br_netfilter; \
        cat /proc/sys/net/bridge/bridge-nf-call-iptables; ip link add v0 type veth peer name v1; \
        : > /dev/fuse; grep -c '^fuse ' /proc/modules; stat -c %a /dev/fuse /dev/net/tun; \
        stat -f -c %T /var/lib/docker /home/user/.local/share/containers";

    let output = runner.succeed(&["run", "--", "bash", "-c", script]);

    assert_eq!(output, "1\n1\n1\n666\n666\next2/ext3\next2/ext3\n");
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_users_command_creates_cgroups_only_below_its_own() {
    let runner = Runner::new();
    let script = "own=/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup); mkdir $own/leaf; \
        echo 0 > $own/leaf/cgroup.procs && echo +memory > $own/cgroup.subtree_control; \
        echo 32M > $own/leaf/memory.max && cat $own/leaf/memory.max; \
        echo 0 > $own/../cgroup.procs; mkdir $own/../other";

    let output = runner.run(&["run", "--user", "user", "--", "bash", "-c", script]);

    let errors = text(&output.stderr);
    assert_eq!(text(&output.stdout), "33554432\n", "{errors}");
    assert_eq!(errors.matches("Permission denied").count(), 2, "{errors}");
}
