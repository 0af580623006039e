//! What VMs reach, and how they are reached.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use netns::testing::{HOST, INTERNET, METADATA, PRIVATE};

use crate::host::Host;
use crate::runner::{Runner, text};

/// For bash in the guest: prints what it hears from an address and port.
fn listen_to(address: Ipv4Addr, port: u16) -> String {
    format!("exec 3<>/dev/tcp/{address}/{port} && cat <&3")
}

/// Says hello to who connects, on the internet.
pub(crate) fn greet(runner: &Runner, address: Ipv4Addr) -> u16 {
    let listener = runner.world.on_the_internet(|| TcpListener::bind((address, 0)).unwrap());
    let port = listener.local_addr().unwrap().port();
    let greet = move || {
        for stream in listener.incoming() {
            let _ = stream.unwrap().write_all(b"hello\n");
        }
    };
    std::thread::Builder::new().name("greet".into()).spawn(greet).unwrap();
    port
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_vm_reaches_the_internet_and_nothing_else_and_leaves_nothing() {
    let runner = Runner::new();
    let before = Host::look(runner.state());
    let port = greet(&runner, INTERNET);
    let private = greet(&runner, PRIVATE);
    let metadata = greet(&runner, METADATA);
    let host = TcpListener::bind((HOST, 0)).unwrap();
    let script = format!(
        "{}; {}; {}; {}; true",
        listen_to(INTERNET, port),
        listen_to(PRIVATE, private),
        listen_to(METADATA, metadata),
        listen_to(HOST, host.local_addr().unwrap().port()),
    );

    let output = runner.run(&["run", "--", "bash", "-c", &script]);

    let errors = text(&output.stderr);
    assert_eq!(text(&output.stdout), "hello\n", "{errors}");
    assert_eq!(errors.matches("No route to host").count(), 6, "{errors}");
    runner.assert_nothing_left(&before);
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_vm_without_a_network_has_no_network_interface() {
    let runner = Runner::new();
    let devices = runner.succeed(&["run", "--network", "none", "--", "ls", "/sys/class/net"]);
    assert_eq!(devices, "lo\n");
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_policy_opens_only_the_named_destinations() {
    let runner = Runner::new();
    let (private, internet) = (greet(&runner, PRIVATE), greet(&runner, INTERNET));
    let file = runner.state().join("policy.toml");
    let rule = format!("[[rule]]\naction = \"allow\"\nto = \"{PRIVATE}\"\nports = {private}\n");
    fs::write(&file, rule).unwrap();
    let script = format!("{}; {}", listen_to(PRIVATE, private), listen_to(INTERNET, internet));

    let policy = format!("policy={}", file.display());
    let output = runner.run(&["run", "--network", &policy, "--", "bash", "-c", &script]);

    assert_eq!(text(&output.stdout), "hello\n");
    assert!(text(&output.stderr).contains("No route to host"));
}

/// Connects as tools do that wait for a port: until it is not refused any more.
fn wait_for_port(address: &str) -> TcpStream {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match TcpStream::connect(address) {
            Ok(stream) => return stream,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
                assert!(Instant::now() < deadline, "nothing listens");
                std::thread::yield_now();
            }
        }
    }
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_published_port_works_once_a_program_listens_even_on_loopback() {
    let runner = Runner::new();
    let serve = "use Socket; $| = 1; print qq(up\\n); select(undef, undef, undef, 0.05) until -e '/tmp/go'; \
        socket(S, PF_INET, SOCK_STREAM, 0); bind(S, sockaddr_in(80, INADDR_LOOPBACK)); listen(S, 9); \
        while (accept(C, S)) { print C qq(hello\\n); close C }";
    let arguments = ["run", "--name", "web", "-p", "0:80", "--", "perl", "-e", serve];
    let mut server = runner.start(&arguments);
    server.wait_for_line("up");
    let rows: serde_json::Value = serde_json::from_str(&runner.succeed(&["ps", "--json"])).unwrap();
    let address = rows[0]["ports"][0]["host"].as_str().unwrap().to_owned();
    let refusal = TcpStream::connect(&address).unwrap_err();
    assert_eq!(refusal.kind(), ErrorKind::ConnectionRefused);

    runner.succeed(&["exec", "web", "--", "touch", "/tmp/go"]);

    let mut heard = String::new();
    wait_for_port(&address).read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "hello\n");
    runner.succeed(&["stop", "web"]);
    server.finish();
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_published_port_works_while_the_vm_runs() {
    let runner = Runner::new();
    let before = Host::look(runner.state());
    let serve = "use Socket; socket(S, PF_INET, SOCK_STREAM, 0); bind(S, sockaddr_in(80, INADDR_ANY)); \
        listen(S, 9); $| = 1; print qq(ready\\n); while (accept(C, S)) { print C qq(hello\\n); close C }";
    let arguments = ["run", "--name", "web", "-p", "0:80", "--", "perl", "-e", serve];
    let mut server = runner.start(&arguments);
    server.wait_for_line("ready");
    let rows: serde_json::Value = serde_json::from_str(&runner.succeed(&["ps", "--json"])).unwrap();
    let address = rows[0]["ports"][0]["host"].as_str().unwrap().to_owned();

    let mut heard = String::new();
    wait_for_port(&address).read_to_string(&mut heard).unwrap();

    assert_eq!(heard, "hello\n");
    assert!(runner.succeed(&["ps"]).contains(&format!("{address}->80")));
    runner.succeed(&["stop", "web"]);
    server.finish();
    assert!(TcpStream::connect(&address).is_err());
    runner.assert_nothing_left(&before);
}

#[test]
#[ignore = "needs root and QEMU"]
fn names_are_resolved_by_the_hosts_servers() {
    let runner = Runner::new();
    let resolv_conf = fs::read_to_string("/etc/resolv.conf").unwrap();
    let server = resolv_conf.lines().find_map(|line| line.strip_prefix("nameserver "));
    let server: Ipv4Addr = server.expect("a name server").trim().parse().unwrap();
    let socket = if IpAddr::from(server).is_loopback() {
        UdpSocket::bind((server, 53)).unwrap()
    } else {
        runner.world.add_address(server);
        runner.world.on_the_internet(|| UdpSocket::bind((server, 53)).unwrap())
    };
    let answer = move || {
        let mut buffer = [0; 512];
        while let Ok((count, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&one_address(&buffer[..count]), from);
        }
    };
    std::thread::Builder::new().name("dns".into()).spawn(answer).unwrap();

    let output = runner.succeed(&["run", "--", "getent", "ahostsv4", "box.example.org"]);

    assert!(output.starts_with("1.2.3.4 "), "{output}");
}

/// The answer to any question: 1.2.3.4.
fn one_address(question: &[u8]) -> Vec<u8> {
    // The question alone: what is behind it are options.
    let name = 12 + question[12..].iter().position(|byte| *byte == 0).unwrap() + 1;
    let mut answer = question[..name + 4].to_vec();
    answer[2..4].copy_from_slice(&[0x81, 0x80]);
    answer[6..12].copy_from_slice(&[0, 1, 0, 0, 0, 0]);
    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 1, 2, 3, 4]);
    answer
}
