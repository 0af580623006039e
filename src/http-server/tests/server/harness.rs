//! A server whose handler has a route for each thing that tests need.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use base::event::Event;
use http_server::{
    Account, Content, Endpoint, Handler, Head, Limits, Method, Refusal, Request, Response, Server,
    Wake, websocket,
};
use tungstenite::Message;

pub(crate) struct Host {
    pub(crate) server: Server,
    pub(crate) address: SocketAddr,
    /// What handlers tell about what happened to them.
    pub(crate) told: Receiver<String>,
}

impl Host {
    pub(crate) fn start() -> Self {
        Self::with(Limits::default())
    }

    /// With a short time for requests.
    pub(crate) fn hasty() -> Self {
        Self::with(Limits { request_timeout: Duration::from_millis(50), ..Limits::default() })
    }

    pub(crate) fn with(limits: Limits) -> Self {
        Self::at(limits, Endpoint::Tcp)
    }

    pub(crate) fn at(limits: Limits, endpoint: impl FnOnce(TcpListener) -> Endpoint) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, told) = channel();
        let handler = Arc::new(Routes { tell });
        let server = Server::start("test", vec![endpoint(listener)], handler, limits).unwrap();
        Self { server, address, told }
    }

    pub(crate) fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).unwrap()
    }

    /// Sends bytes, and returns everything that comes until the server closes the connection.
    pub(crate) fn exchange(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut socket = self.connect();
        // The server may close the connection before it has read everything.
        let _ = socket.write_all(bytes.as_ref());
        rest(&mut socket)
    }
}

/// Everything until the end of the connection.
pub(crate) fn rest(socket: &mut impl Read) -> String {
    let mut all = Vec::new();
    let _ = socket.read_to_end(&mut all);
    String::from_utf8_lossy(&all).into_owned()
}

/// The next bytes up to and including `end`.
pub(crate) fn until(socket: &mut impl Read, end: &str) -> String {
    let mut all = Vec::new();
    let mut byte = [0];
    while !all.ends_with(end.as_bytes()) {
        socket.read_exact(&mut byte).unwrap();
        all.push(byte[0]);
    }
    String::from_utf8(all).unwrap()
}

/// The status of the first reply in a text.
pub(crate) fn status(text: &str) -> u16 {
    let status = text.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
    status.unwrap_or_else(|| panic!("this is no reply: {text:?}")).parse().unwrap()
}

/// What comes after the head.
pub(crate) fn body(text: &str) -> &str {
    text.split_once("\r\n\r\n").unwrap().1
}

struct Routes {
    tell: Sender<String>,
}

impl Handler for Routes {
    fn handle(&self, request: &mut Request<'_>) -> Response {
        let path = request.head.path().to_owned();
        self.answer(&path, request).unwrap_or_else(|refusal| (&refusal).into())
    }
}

impl Routes {
    fn answer(&self, path: &str, request: &mut Request<'_>) -> Result<Response, Refusal> {
        let text = |text: String| Response::bytes(200, "text/plain", text.into_bytes());
        Ok(match path {
            "/method" => text(request.head.method.name().to_owned()),
            "/peer" => text(format!("{:?} {}", request.peer, request.origin()?)),
            "/echo" => text(lossy(request.body.read_to_limit(1 << 20)?)),
            "/account" => {
                let account = Account::Client("one".to_owned());
                text(lossy(request.body.load(1 << 20, account)?.bytes))
            }
            "/read" => {
                let mut all = String::new();
                match request.body.read_to_string(&mut all) {
                    Ok(_) => text(all),
                    Err(error) => Refusal::of(&error).unwrap().into(),
                }
            }
            "/interrupted" => {
                let event = Arc::new(Event::new().unwrap());
                request.body.interrupt_by(Arc::clone(&event));
                request.body.read_some(&mut [0])?;
                event.set();
                text(lossy(request.body.read_to_limit(1 << 20)?))
            }
            "/progress" => {
                request.body.set_progress_timeout(Duration::from_millis(50));
                text(lossy(request.body.read_to_limit(1 << 20)?))
            }
            "/none" => Response::new(204),
            "/reader" => Response {
                content: Content::Reader { length: 6, reader: Box::new(&b"reader"[..]) },
                ..Response::new(200)
            },
            "/short" => Response {
                content: Content::Reader { length: 60, reader: Box::new(&b"short"[..]) },
                ..Response::new(200)
            },
            "/stream" => Response::stream(|writer| {
                writer.write_all(b"one")?;
                writer.write_all(b"")?;
                writer.write_all(b"three")
            }),
            "/fails" => Response::stream(|writer| {
                writer.write_all(b"one")?;
                Err(std::io::Error::other("as it should"))
            }),
            "/watch" => self.watch(),
            "/flood" => self.flood(),
            "/raw" => self.raw(&request.head),
            "/socket" => self.web_socket(&request.head),
            "/panic" => panic!("as it should"),
            _ => Response::new(404),
        })
    }

    /// Streams nothing until the client has gone, but asks one that sends nothing more whether it reads.
    fn watch(&self) -> Response {
        let tell = self.tell.clone();
        Response::stream(move |writer| {
            writer.write_all(b"begun")?;
            while writer.wait(&[], None)? == Wake::HalfClosed {
                writer.write_all(b"there?")?;
            }
            tell.send("gone".to_owned()).map_err(std::io::Error::other)
        })
    }

    /// Streams until a write fails.
    fn flood(&self) -> Response {
        let tell = self.tell.clone();
        Response::stream(move |writer| {
            let piece = vec![b'x'; 1 << 20];
            while writer.write_all(&piece).is_ok() {}
            tell.send("failed".to_owned()).map_err(std::io::Error::other)
        })
    }

    /// Gives back what came.
    fn raw(&self, head: &Head) -> Response {
        assert_eq!(head.method, Method::Post);
        Response::upgrade(|upgraded| {
            let mut socket = upgraded.socket.clone();
            socket.write_all(&upgraded.head).unwrap();
            socket.write_all(&upgraded.early).unwrap();
            let mut rest = Vec::new();
            socket.read_to_end(&mut rest).unwrap();
            socket.write_all(&rest).unwrap();
        })
    }

    /// Echoes messages until the client closes.
    fn web_socket(&self, head: &Head) -> Response {
        let tell = self.tell.clone();
        let options = websocket::Options { protocol: Some("echo"), largest_message: 1000 };
        websocket::accept(head, options, move |mut socket| {
            loop {
                match socket.read() {
                    Ok(message @ Message::Text(_)) => socket.send(message).unwrap(),
                    Ok(_) => {}
                    Err(error) => {
                        let _ = socket.flush();
                        tell.send(error.to_string()).unwrap();
                        return;
                    }
                }
            }
        })
    }
}

fn lossy(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}
