//! An internet with names and certificates: what intercepted VMs are tested with.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::thread::{Builder, JoinHandle};

use guest_test::{Authority, Reply, Request, Server};
use netns::testing::{HOST, INTERNET};

use crate::runner::Runner;

/// Servers of all names at the ports of the web, which ask a function; and a name server.
pub(crate) struct Internet {
    pub(crate) https: Server,
    /// The root certificates that the host trusts.
    roots: PathBuf,
    names: Names,
}

impl Internet {
    /// With hosts of these names, on the test's own host.
    pub(crate) fn serve(
        runner: &Runner,
        hosts: &[&str],
        handler: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let known: Vec<_> = hosts.iter().map(|name| (*name, INTERNET)).collect();
        runner.world.set_hosts(runner.state(), &known);
        let authority = Authority::new();
        let roots = runner.state().join("roots.pem");
        authority.install(&roots);
        let identity = authority.issue_for(hosts);
        let listener = runner.world.on_the_internet(|| TcpListener::bind((INTERNET, 443)).unwrap());
        let https = Server::serve(listener, Some(&identity), handler);
        let names = Names::serve(runner);
        Self { https, roots, names }
    }

    /// For the environment of a runner that trusts it.
    pub(crate) fn variable(&self) -> (&str, &Path) {
        ("SSL_CERT_FILE", &self.roots)
    }

    /// The names that were asked for.
    pub(crate) fn questions(self) -> Vec<String> {
        self.names.end()
    }
}

/// Passes a request on, and its answer back.
pub(crate) fn pass_on(request: &Request, to: SocketAddr) -> Reply {
    let mut stream = TcpStream::connect(to).unwrap();
    let mut head = format!("{} {} HTTP/1.1\r\n", request.method, request.path);
    for (name, value) in &request.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(&[head.as_bytes(), b"\r\n", &request.body].concat()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let kind = String::from_utf8_lossy(&answer[..end]).contains("text/event-stream");
    let kind = if kind { "text/event-stream" } else { "application/json" };
    Reply::bytes(&answer[end + 4..]).with("content-type", kind)
}

/// A name server for which every name is [`INTERNET`].
pub(crate) struct Names {
    address: SocketAddr,
    thread: Option<JoinHandle<Vec<String>>>,
}

impl Names {
    pub(crate) fn serve(runner: &Runner) -> Self {
        let socket = runner.world.on_the_internet(|| UdpSocket::bind((INTERNET, 53)).unwrap());
        let address = socket.local_addr().unwrap();
        let thread = Builder::new().name("names".into()).spawn(move || answer_all(&socket));
        Self { address, thread: Some(thread.unwrap()) }
    }

    fn stop(&mut self) -> Vec<String> {
        let stop = UdpSocket::bind((HOST, 0)).unwrap();
        stop.send_to(b"", self.address).unwrap();
        self.thread.take().map(|thread| thread.join().unwrap()).unwrap_or_default()
    }

    fn end(mut self) -> Vec<String> {
        self.stop()
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            // The test has failed already: a second panic would abort all tests of this program.
            let _ = UdpSocket::bind((HOST, 0)).and_then(|socket| socket.send_to(b"", self.address));
            let _ = thread.join();
        }
    }
}

/// Until it is sent nothing.
fn answer_all(socket: &UdpSocket) -> Vec<String> {
    let mut asked = Vec::new();
    let mut buffer = [0; 512];
    loop {
        let (count, from) = socket.recv_from(&mut buffer).unwrap();
        if count == 0 {
            return asked;
        }
        let mut message = buffer[..count].to_vec();
        let mut name = Vec::new();
        let mut at = 12;
        while message[at] > 0 {
            let length = usize::from(message[at]);
            name.push(String::from_utf8_lossy(&message[at + 1..=at + length]).into_owned());
            at += length + 1;
        }
        let kind = message[at + 2];
        asked.push(name.join("."));
        message.truncate(at + 5);
        (message[2], message[3]) = (0x81, 0x80);
        message[6..12].fill(0);
        if kind == 1 {
            message[7] = 1;
            message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
            message.extend(INTERNET.octets());
        }
        socket.send_to(&message, from).unwrap();
    }
}
