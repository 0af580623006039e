//! The client against a platform's server, over TLS and plain TCP.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use http_server::{Endpoint, Limits, Server, tls};
use tempfile::TempDir;

use super::*;
use crate::api::Api;
use crate::backend::Backend;
use crate::{Config, Role};

/// A platform with a self-signed certificate for `localhost`, and the token of an operator.
struct Host {
    server: Server,
    backend: Arc<Backend>,
    address: SocketAddr,
    certificate: Vec<u8>,
    token: String,
    _dir: TempDir,
}

impl Host {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        fs::write(&certificate, made.cert.pem()).unwrap();
        fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let tls = tls::config(&certificate, &key).unwrap();
        Self::serve(dir, made.cert.pem().into_bytes(), |listener| Endpoint::Tls(listener, tls))
    }

    fn plain() -> Self {
        Self::serve(tempfile::tempdir().unwrap(), Vec::new(), Endpoint::Tcp)
    }

    fn serve(dir: TempDir, certificate: Vec<u8>, at: impl FnOnce(TcpListener) -> Endpoint) -> Self {
        let backend = Arc::new(Backend::open(Config::new(dir.path())).unwrap());
        let new =
            NewToken { name: "op".into(), role: Role::Operator, group: None, expires_in_ms: None };
        let token = backend.create_token(new).unwrap().secret;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let api = Arc::new(Api(Arc::clone(&backend)));
        let server = Server::start("test", vec![at(listener)], api, Limits::default()).unwrap();
        Self { server, backend, address, certificate, token, _dir: dir }
    }

    fn remote(&self, scheme: &str) -> RemotePlatform {
        RemotePlatform {
            urls: vec![format!("{scheme}://localhost:{}", self.address.port())],
            token: self.token.clone(),
            authorities: Some(self.certificate.clone()).filter(|pem| !pem.is_empty()),
            allows_plain_http: false,
        }
    }

    fn stop(mut self) {
        self.backend.notifier.stop();
        self.server.stop(std::time::Duration::ZERO).unwrap();
    }
}

fn submission() -> Submission {
    Submission { prompt: "x".into(), ..Submission::default() }
}

/// An address at which nothing listens.
fn dead() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// An address that closes each connection after it got a request.
fn dying() -> (String, impl FnOnce() -> usize) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let thread = base::thread::spawn("test-dying", move || {
        let mut count = 0;
        for stream in listener.incoming() {
            let mut stream: TcpStream = stream.unwrap();
            let mut byte = [0];
            if stream.read(&mut byte).unwrap() == 0 || byte == *b"." {
                break;
            }
            count += 1;
        }
        count
    });
    let end = move || {
        TcpStream::connect(address).unwrap().write_all(b".").unwrap();
        thread.unwrap().join().unwrap()
    };
    (format!("http://{address}"), end)
}

#[test]
fn a_job_is_submitted_with_a_folder_over_tls() {
    let host = Host::start();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a"), "x").unwrap();
    let client = Client::remote(host.remote("https")).unwrap();
    let artifact =
        Artifact { name: "work".into(), folder: folder.path().to_owned(), mount_path: "/w".into() };

    let mount = client.upload(&artifact).unwrap();
    let submission = Submission { artifacts: vec![mount], ..submission() };
    let run = client.submit(&submission).unwrap().run_id;

    assert_eq!(client.jobs(None, 9).unwrap()[0].run_id, run);
    client.cancel(run).unwrap();
    assert!(client.wait(run, None).unwrap().status.is_final());
}

#[test]
fn a_certificate_of_an_unknown_authority_is_an_error_of_tls() {
    let host = Host::start();
    let remote = RemotePlatform { authorities: None, ..host.remote("https") };

    let error = Client::remote(remote).unwrap().jobs(None, 1).unwrap_err();

    assert!(matches!(error, Error::TlsHandshake { .. }), "{error}");
    assert!(base::error::chain(&error).contains("localhost"), "{error}");
}

#[test]
fn a_certificate_for_another_name_is_an_error_of_tls() {
    let host = Host::start();
    let urls = vec![format!("https://{}", host.address)];
    let remote = RemotePlatform { urls, ..host.remote("https") };

    let error = Client::remote(remote).unwrap().jobs(None, 1).unwrap_err();

    assert!(matches!(error, Error::TlsHandshake { .. }), "{error}");
}

#[test]
fn a_token_is_sent_without_tls_only_to_this_host_or_on_request() {
    let host = Host::plain();
    let elsewhere = |allows_plain_http| RemotePlatform {
        urls: vec!["http://platform.example".into()],
        allows_plain_http,
        ..host.remote("http")
    };

    let refused = Client::remote(elsewhere(false)).unwrap_err();

    assert!(matches!(refused, Error::NotEncrypted { .. }), "{refused}");
    assert!(Client::remote(elsewhere(true)).is_ok());
    assert!(Client::remote(host.remote("http")).unwrap().jobs(None, 1).unwrap().is_empty());
}

#[test]
fn an_address_that_does_not_answer_is_passed_over() {
    let host = Host::plain();
    let (dying, end) = dying();
    let mut remote = host.remote("http");
    remote.urls = [vec![dead(), dying], remote.urls].concat();
    let client = Client::remote(remote).unwrap();

    let run = client.submit(&submission()).unwrap().run_id;
    let jobs = client.jobs(None, 9).unwrap();

    assert_eq!((jobs.len(), jobs[0].run_id), (1, run));
    // The second request began with the address that answered.
    assert_eq!(end(), 1);
}

#[test]
fn a_request_that_may_have_had_its_effect_is_not_repeated() {
    let host = Host::plain();
    let (dying, end) = dying();
    let mut remote = host.remote("http");
    remote.urls.insert(0, dying);
    let client = Client::remote(remote).unwrap();

    let cancelled = client.cancel(RunId::random()).unwrap_err();

    assert!(cancelled.is_of_the_connection(), "{cancelled}");
    assert_eq!(end(), 1);
}

#[test]
fn addresses_that_are_all_dead_are_all_named() {
    let host = Host::plain();
    let remote = RemotePlatform { urls: vec![dead(), dead()], ..host.remote("http") };
    let urls = remote.urls.clone();
    host.stop();

    let error = Client::remote(remote).unwrap().jobs(None, 1).unwrap_err().to_string();

    assert!(urls.iter().all(|url| error.contains(url.as_str())), "{error}");
}

#[test]
fn neither_a_client_nor_its_errors_show_the_token() {
    let host = Host::plain();
    let secret = host.token.clone();
    let remote = RemotePlatform { token: format!("{secret}\n"), ..host.remote("http") };
    let unknown = RemotePlatform { token: format!("{secret}0"), ..host.remote("http") };

    let texts = [
        format!("{remote:?}"),
        format!("{:?}", Client::remote(remote).unwrap_err()),
        format!("{:?}", Client::remote(unknown.clone()).unwrap()),
        format!("{:?}", Client::remote(unknown).unwrap().jobs(None, 1).unwrap_err()),
    ];

    assert!(texts.iter().all(|text| !text.contains(&secret)), "{texts:?}");
}
