//! Firecracker with nothing around it but what this bench does.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use vsock_host::{Guest, Listener};
use vsock_proto::Exec;

use crate::{Bench, soon};

const BOOT_ARGS: &str = "console=ttyS0 quiet loglevel=3 panic=-1 random.trust_cpu=on reboot=k \
    i8042.noaux i8042.nomux i8042.dumbkbd";
const LOAD: &str = r#"{"snapshot_path":"state","mem_backend":{"backend_type":"File","backend_path":"memory"},"resume_vm":true}"#;

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Start {
    Cold,
    Restored,
}

/// A VM that has run a command. Dropping it ends it.
pub(crate) struct Bare {
    pub(crate) firecracker: Child,
    /// From nothing to the end of the command.
    pub(crate) took: Duration,
    _guest: Guest,
    _listener: Listener,
    _folder: TempDir,
}

impl Bare {
    pub(crate) fn start(bench: &Bench, start: Start) -> Self {
        let folder = tempfile::tempdir_in(&bench.state).unwrap();
        fill(bench, folder.path(), start);
        let socket = folder.path().join(format!("v.sock_{}", vsock_proto::PORT));
        let listener = bench.reactor.listen(&socket, "bench").unwrap();
        let begun = Instant::now();
        let firecracker = firecracker(folder.path());
        let mut api = Api::connect(&folder.path().join("api.sock"));
        match start {
            Start::Cold => boot(&mut api),
            Start::Restored => api.put("snapshot/load", LOAD),
        }
        let guest = listener.accept(soon()).unwrap();
        run_true(&guest);
        let took = begun.elapsed();
        Self { firecracker, took, _guest: guest, _listener: listener, _folder: folder }
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.firecracker.kill();
        let _ = self.firecracker.wait();
    }
}

/// Puts the VM's files into its folder.
fn fill(bench: &Bench, folder: &Path, start: Start) {
    let image = bench.image();
    for (from, to) in [("vmlinux", "kernel"), ("initramfs.cpio", "initramfs")] {
        fs::hard_link(image.join(from), folder.join(to)).unwrap();
    }
    fs::hard_link(image.join("rootfs.squashfs"), folder.join("rootfs")).unwrap();
    let disk = match start {
        Start::Cold => image.join("disk.ext4"),
        Start::Restored => {
            let saved = bench.snapshot();
            for name in ["state", "memory"] {
                fs::hard_link(saved.join(name), folder.join(name)).unwrap();
            }
            saved.join("disk")
        }
    };
    let mut copy = Command::new("cp");
    copy.arg("--sparse=always").arg(disk).arg(folder.join("disk"));
    assert!(copy.status().unwrap().success());
}

fn firecracker(folder: &Path) -> Child {
    let program = std::env::var_os("FIRECRACKER").unwrap_or_else(|| "firecracker".into());
    let log = fs::File::create(folder.join("said")).unwrap();
    Command::new(program)
        .args(["--api-sock", "api.sock"])
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

fn boot(api: &mut Api) {
    api.put("machine-config", r#"{"vcpu_count":1,"mem_size_mib":256}"#);
    let source = r#"{"kernel_image_path":"kernel","initrd_path":"initramfs","boot_args":"ARGS"}"#;
    api.put("boot-source", &source.replace("ARGS", BOOT_ARGS));
    for (name, is_read_only) in [("rootfs", true), ("disk", false)] {
        let drive = format!(
            r#"{{"drive_id":"{name}","path_on_host":"{name}","is_root_device":false,"is_read_only":{is_read_only}}}"#
        );
        api.put(&format!("drives/{name}"), &drive);
    }
    api.put("vsock", r#"{"guest_cid":3,"uds_path":"v.sock"}"#);
    api.put("entropy", "{}");
    api.put("actions", r#"{"action_type":"InstanceStart"}"#);
}

struct Api(UnixStream);

impl Api {
    fn connect(socket: &Path) -> Self {
        let deadline = soon();
        loop {
            match UnixStream::connect(socket) {
                Ok(stream) => return Self(stream),
                Err(error) => assert!(Instant::now() < deadline, "no API: {error}"),
            }
            std::thread::yield_now();
        }
    }

    fn put(&mut self, path: &str, body: &str) {
        let length = body.len();
        write!(self.0, "PUT /{path} HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
        let mut buffer = [0; 4096];
        let count = self.0.read(&mut buffer).unwrap();
        let reply = String::from_utf8_lossy(&buffer[..count]);
        assert!(reply.starts_with("HTTP/1.1 204"), "PUT /{path}: {reply}");
    }
}

fn run_true(guest: &Guest) {
    let exec = Exec { argv: vec![b"true".to_vec().into()], ..Exec::default() };
    guest.exec(exec, soon()).unwrap().wait(Some(soon())).unwrap();
}
