//! What an idle streaming reply costs: see README.md beside this file.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that fails has no result")]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_server::{Endpoint, Handler, Limits, Request, Response, Server, tls};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

const STREAMS: u64 = 1000;

/// Those that are open before the first measurement, so that what all share is there.
const FIRST: u64 = 20;

struct Idle;

impl Handler for Idle {
    fn handle(&self, _: &mut Request<'_>) -> Response {
        Response::stream(|writer| {
            writer.write_all(b"begun")?;
            writer.wait(&[], None).map(drop)
        })
    }
}

fn main() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(&certificate, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let config = tls::config(&certificate, &key).unwrap();
    let client = client(&certificate);

    let plain = memory(Endpoint::Tcp, &open);
    println!("memory of an idle stream, KiB             {plain:>7}");
    let encrypted = memory(|listener| Endpoint::Tls(listener, config), &|address| {
        open_tls(address, Arc::clone(&client))
    });
    println!("memory of an idle stream over TLS, KiB    {encrypted:>7}");
}

/// KiB of resident memory for each stream.
fn memory(
    endpoint: impl FnOnce(TcpListener) -> Endpoint,
    open: &dyn Fn(SocketAddr) -> TcpStream,
) -> u64 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let limits = Limits { connections: 5000, ..Limits::default() };
    let mut server =
        Server::start("bench", vec![endpoint(listener)], Arc::new(Idle), limits).unwrap();
    let first: Vec<TcpStream> = (0..FIRST).map(|_| open(address)).collect();
    let before = resident();
    let streams: Vec<TcpStream> = (0..STREAMS).map(|_| open(address)).collect();
    let after = resident();
    drop((first, streams));
    server.stop(Duration::from_secs(60)).unwrap();
    after.saturating_sub(before) / STREAMS
}

/// Opens a stream, and waits until it is idle.
fn open(address: SocketAddr) -> TcpStream {
    let mut socket = TcpStream::connect(address).unwrap();
    begin(&mut socket);
    socket
}

/// The client's side forgets its session, so that only that of the server is measured.
fn open_tls(address: SocketAddr, config: Arc<ClientConfig>) -> TcpStream {
    let name = ServerName::try_from("localhost").unwrap();
    let connection = ClientConnection::new(config, name).unwrap();
    let mut stream = StreamOwned::new(connection, TcpStream::connect(address).unwrap());
    begin(&mut stream);
    stream.sock
}

fn begin(socket: &mut (impl Read + Write)) {
    // As large as what SDKs send.
    let padding = "x".repeat(500);
    let head = format!("POST / HTTP/1.1\r\nHost: x\r\nX-Padding: {padding}\r\n\r\n");
    socket.write_all(head.as_bytes()).unwrap();
    let mut all = Vec::new();
    let mut byte = [0];
    while !all.ends_with(b"begun\r\n") {
        socket.read_exact(&mut byte).unwrap();
        all.push(byte[0]);
    }
}

fn client(certificate: &Path) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

/// KiB of this process's resident memory.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
