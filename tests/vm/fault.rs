//! A proxy between a runner or its guests and their platform, which injects faults.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use netns::testing::{INTERNET, World};

use crate::http::{Request, Server};

/// What happens to a request instead of what should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The answer is 500, for so long from the first time on.
    Broken(Duration),
    /// The answer is 429, to come back in a second, so often.
    Busy(u32),
    /// There is no answer for so long, and then no connection, once.
    Stalled(Duration),
    /// It arrives, and the answer is lost, once.
    Lost,
}

/// A fault, and the requests that it strikes: those whose path has this part.
#[derive(Clone, Debug)]
struct Plan {
    part: &'static str,
    fault: Fault,
    first: Option<Instant>,
    count: u32,
}

/// The way to a platform. It ends when it is dropped.
pub(crate) struct Way {
    pub(crate) address: SocketAddr,
    plans: Arc<Mutex<Vec<Plan>>>,
    _server: Server,
}

impl Way {
    /// From the internet to `platform`.
    pub(crate) fn to(
        platform: SocketAddr,
        world: &World,
        faults: &[(&'static str, Fault)],
    ) -> Self {
        let plan = |(part, fault): &(&'static str, Fault)| Plan {
            part,
            fault: *fault,
            first: None,
            count: 0,
        };
        let plans = Arc::new(Mutex::new(faults.iter().map(plan).collect::<Vec<_>>()));
        let listener = world.on_the_internet(|| TcpListener::bind((INTERNET, 0)).unwrap());
        let address = listener.local_addr().unwrap();
        let mine = Arc::clone(&plans);
        let server = Server::start(listener, move |request, stream| {
            let struck = mine.lock().unwrap().iter_mut().find_map(|plan| plan.strike(request));
            match struck {
                None => stream.write_all(&pass_on(platform, request)?),
                Some(Fault::Broken(_)) => refuse(stream, "500 Internal Server Error", ""),
                Some(Fault::Busy(_)) => {
                    refuse(stream, "429 Too Many Requests", "retry-after: 1\r\n")
                }
                Some(Fault::Stalled(time)) => {
                    // Until the client gives up, or the time is over.
                    stream.set_read_timeout(Some(time))?;
                    let _ = stream.read(&mut [0]);
                    Ok(())
                }
                Some(Fault::Lost) => pass_on(platform, request).map(drop),
            }
        });
        Self { address, plans, _server: server }
    }

    /// The faults that did not happen.
    pub(crate) fn unused(&self) -> Vec<&'static str> {
        let plans = self.plans.lock().unwrap();
        plans.iter().filter(|plan| plan.count == 0).map(|plan| plan.part).collect()
    }
}

impl Plan {
    fn strike(&mut self, request: &Request) -> Option<Fault> {
        if !request.path.contains(self.part) {
            return None;
        }
        let first = *self.first.get_or_insert_with(Instant::now);
        let strikes = match self.fault {
            Fault::Broken(time) => first.elapsed() < time,
            Fault::Busy(times) => self.count < times,
            Fault::Stalled(_) | Fault::Lost => self.count < 1,
        };
        self.count += u32::from(strikes);
        strikes.then_some(self.fault)
    }
}

fn pass_on(platform: SocketAddr, request: &Request) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(platform)?;
    stream.write_all(&request.bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

fn refuse(stream: &mut TcpStream, status: &str, header: &str) -> std::io::Result<()> {
    let head =
        format!("HTTP/1.1 {status}\r\n{header}connection: close\r\ncontent-length: 0\r\n\r\n");
    stream.write_all(head.as_bytes())
}
