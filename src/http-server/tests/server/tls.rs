//! The TLS endpoint.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http_server::{Endpoint, Limits, tls};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tempfile::TempDir;

use crate::harness::{Host, body, rest, status, until};

type Client = StreamOwned<ClientConnection, TcpStream>;

struct TlsHost {
    host: Host,
    _folder: TempDir,
    certificate: PathBuf,
}

impl TlsHost {
    fn start() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        fs::write(&certificate, made.cert.pem()).unwrap();
        fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let config = tls::config(&certificate, &key).unwrap();
        let host = Host::at(limits, |listener| Endpoint::Tls(listener, config));
        Self { host, _folder: folder, certificate }
    }

    fn config(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.certificate).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth()
    }

    fn connect(&self) -> Client {
        self.connect_with(self.config())
    }

    fn connect_with(&self, config: ClientConfig) -> Client {
        let name = ServerName::try_from("localhost").unwrap();
        let connection = ClientConnection::new(Arc::new(config), name).unwrap();
        StreamOwned::new(connection, self.host.connect())
    }

    fn exchange(&self, request: &str) -> String {
        let mut client = self.connect();
        client.write_all(request.as_bytes()).unwrap();
        let mut all = Vec::new();
        // An end without close_notify would be an error.
        client.read_to_end(&mut all).unwrap();
        String::from_utf8(all).unwrap()
    }
}

#[test]
fn requests_are_served_over_tls() {
    let host = TlsHost::start();

    let peer = "GET /peer HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

    assert_eq!(body(&host.exchange(peer)), "Tcp(127.0.0.1) https://localhost");
    assert!(host.exchange("GET /stream HTTP/1.0\r\n\r\n").ends_with("onethree"));
}

#[test]
fn large_bodies_go_through_in_both_directions() {
    let host = TlsHost::start();
    let body = "0123456789abcdef".repeat(1 << 15);
    let head = "POST /echo HTTP/1.1\r\nConnection: close\r\n";
    let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());

    assert!(host.exchange(&request).ends_with(&body));
}

#[test]
fn http_1_1_is_agreed_on_and_other_protocols_are_refused() {
    let host = TlsHost::start();
    let connect = |protocols: &[&str]| {
        let mut config = host.config();
        config.alpn_protocols =
            protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let mut client = host.connect_with(config);
        let connected = client.conn.complete_io(&mut client.sock).is_ok();
        connected.then(|| client.conn.alpn_protocol().map(<[u8]>::to_vec))
    };

    assert_eq!(connect(&["h2", "http/1.1"]), Some(Some(b"http/1.1".to_vec())));
    assert_eq!(connect(&[]), Some(None));
    assert_eq!(connect(&["h2"]), None);
}

#[test]
fn both_versions_of_tls_are_served() {
    let host = TlsHost::start();

    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&host.certificate).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut client = host.connect_with(config);
        client.write_all(b"GET /reader HTTP/1.1\r\n\r\n").unwrap();
        assert!(until(&mut client, "reader").starts_with("HTTP/1.1 200"));
    }
}

#[test]
fn http_on_a_tls_port_gets_an_explanation() {
    let host = TlsHost::start();

    let reply = host.host.exchange("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");

    assert_eq!(status(&reply), 400);
    assert_eq!(body(&reply), "this port speaks TLS: use https://\n");
}

#[test]
fn an_incomplete_handshake_times_out() {
    let host =
        TlsHost::with(Limits { request_timeout: Duration::from_millis(50), ..Limits::default() });

    for start in [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01"] {
        // The connection is closed without a reply.
        assert_eq!(host.host.exchange(start), "");
    }
}

#[test]
fn clients_that_vanish_in_the_handshake_or_after_it_leave_the_server_working() {
    let host = TlsHost::start();
    let hello = {
        let mut client = host.connect();
        let mut bytes = Vec::new();
        client.conn.write_tls(&mut bytes).unwrap();
        bytes
    };

    for end in (0..=hello.len()).step_by(7) {
        let mut socket = host.host.connect();
        socket.write_all(&hello[..end]).unwrap();
    }
    let mut garbled = hello.clone();
    garbled[20] ^= 0xff;
    garbled.extend_from_slice(&[0x17; 100]);
    host.host.exchange(&garbled);
    let mut client = host.connect();
    client.write_all(b"GET /watch HTTP/1.1\r\n\r\n").unwrap();
    until(&mut client, "begun");
    client.sock.shutdown(Shutdown::Both).unwrap();

    assert_eq!(host.host.told.recv().unwrap(), "gone");
    assert!(host.exchange("GET /reader HTTP/1.0\r\n\r\n").ends_with("reader"));
}

#[test]
fn a_stream_sees_the_close_notify_of_its_client() {
    let mut host = TlsHost::start();
    let mut client = host.connect();
    client.write_all(b"GET /watch HTTP/1.1\r\n\r\n").unwrap();
    until(&mut client, "begun");

    client.conn.send_close_notify();
    client.conn.complete_io(&mut client.sock).unwrap();

    // The client may still read.
    until(&mut client, "there?");
    host.host.server.stop(Duration::from_secs(600)).unwrap();
    assert_eq!(host.host.told.recv().unwrap(), "gone");
}

#[test]
fn a_stream_that_fails_resets_the_connection() {
    let host = TlsHost::start();
    for version in ["1.0", "1.1"] {
        let mut client = host.connect();
        client.write_all(format!("GET /fails HTTP/{version}\r\n\r\n").as_bytes()).unwrap();

        let error = client.read_to_end(&mut Vec::new()).unwrap_err();

        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
}

#[test]
fn a_client_that_does_not_read_does_not_hold_up_the_stop() {
    let mut host = TlsHost::start();
    let mut client = host.connect();
    client.write_all(b"GET /flood HTTP/1.1\r\n\r\n").unwrap();
    client.read_exact(&mut [0; 100_000]).unwrap();

    host.host.server.stop(Duration::from_millis(10)).unwrap();

    assert_eq!(host.host.told.recv().unwrap(), "failed");
}

#[test]
fn an_idle_connection_gets_close_notify_at_the_stop() {
    let mut host = TlsHost::start();
    let mut client = host.connect();
    client.write_all(b"GET /reader HTTP/1.1\r\n\r\n").unwrap();
    until(&mut client, "reader");

    host.host.server.stop(Duration::from_secs(600)).unwrap();

    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}

#[test]
fn an_upgraded_connection_works_over_tls() {
    let host = TlsHost::start();
    let mut client = host.connect();
    client.write_all(b"POST /raw HTTP/1.1\r\n\r\n").unwrap();
    until(&mut client, "\r\n\r\n");
    client.write_all(b"raw").unwrap();
    client.conn.send_close_notify();

    let _ = client.flush();

    assert_eq!(rest(&mut client), "raw");
}

#[test]
fn two_hundred_tls_connections_at_once_are_served() {
    let host = TlsHost::start();
    let mut clients: Vec<Client> = (0..200).map(|_| host.connect()).collect();

    for client in &mut clients {
        client.write_all(b"GET /stream HTTP/1.1\r\n\r\n").unwrap();
    }

    for client in &mut clients {
        until(client, "0\r\n\r\n");
    }
}
