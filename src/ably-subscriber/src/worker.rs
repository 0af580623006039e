//! The subscription's thread, `ably`: it owns the connection and sleeps in [`wait`] alone.
//!
//! ```text
//!   Waiting ──the wait is over──▶ Dialing ──CONNECTED──▶ Live
//!      ▲                             │                     │
//!      └──────── lost, or not made ──┴─────────────────────┤
//!                                                Finished ◀┘ a retry would not help
//! ```
//!
//! What may block, dialling and token requests, are [background tasks](crate::background_task).

use std::sync::Arc;
use std::time::Instant;

use crate::background_task::BackgroundTask;
use crate::backoff::Backoff;
use crate::channel::Channel;
use crate::config::Config;
use crate::dial::{DialResult, Dialer};
use crate::error::{ConnectionError, Error, Remedy, Result, chain};
use crate::event::{Event, Failure, Gap};
use crate::frame::{self, Action, Frame};
use crate::link::{Link, Received, Resume};
use crate::queue::Queue;
use crate::renewal::Renewal;
use crate::signal::Signal;
use crate::token::Token;
use crate::wait::wait;

/// How many frames are handled before timers and writes get their turn.
const MAX_FRAMES_PER_STEP: usize = 64;

pub(crate) struct Worker {
    config: Arc<Config>,
    signal: Arc<Signal>,
    queue: Queue,
    channel: Channel,
    token: Option<Token>,
    /// The token before it: the server may still refuse it by name after a renewal.
    former: Option<Token>,
    renewal: Renewal,
    /// When a token was refused last.
    refused: Option<Instant>,
    resume: Option<Resume>,
    backoff: Backoff,
    state: State,
}

enum State {
    Waiting { until: Instant },
    Dialing(BackgroundTask<DialResult>),
    Live(Box<Link>),
    Finished,
}

/// Why a connection ends.
enum End {
    Lost(ConnectionError),
    Failed(Failure),
}

impl From<ConnectionError> for End {
    fn from(loss: ConnectionError) -> Self {
        Self::Lost(loss)
    }
}

impl Worker {
    pub(crate) fn new(config: Config, signal: Arc<Signal>, queue: Queue) -> Self {
        let timing = &config.timing;
        Self {
            channel: Channel::new(&config),
            backoff: Backoff::new(timing.first_wait, timing.longest_wait),
            renewal: Renewal::new(timing),
            token: None,
            former: None,
            refused: None,
            resume: None,
            state: State::Waiting { until: Instant::now() },
            config: Arc::new(config),
            signal,
            queue,
        }
    }

    /// Runs until it is stopped or has finished.
    pub(crate) fn run(mut self) -> Result<()> {
        while !self.signal.is_stopped() {
            self.queue.flush_pending();
            if self.step(Instant::now()) {
                continue;
            }
            let socket = match &self.state {
                State::Live(link) => Some(link.interest()),
                State::Finished if self.queue.is_flushed() => break,
                _ => None,
            };
            wait(&self.signal, socket, self.deadline()).map_err(|source| Error::Wait { source })?;
        }
        if let State::Live(link) = std::mem::replace(&mut self.state, State::Finished) {
            link.close();
        }
        Ok(())
    }

    /// Advances the state machine; true if there may be more to do at once.
    fn step(&mut self, now: Instant) -> bool {
        match std::mem::replace(&mut self.state, State::Finished) {
            State::Waiting { until } if now >= until => self.dial(now),
            State::Dialing(task) => match task.result() {
                Some(dialed) => self.dialed(dialed, now),
                None => self.state = State::Dialing(task),
            },
            State::Live(link) => return self.serve(link, now),
            same => self.state = same,
        }
        false
    }

    fn deadline(&self) -> Option<Instant> {
        let [first, second, third] = match &self.state {
            State::Waiting { until } => [Some(*until), None, None],
            State::Live(link) => {
                [link.deadline(), self.channel.deadline(), self.renewal.deadline()]
            }
            State::Dialing(_) | State::Finished => [None; 3],
        };
        [first, second, third, self.queue.deadline()].into_iter().flatten().min()
    }

    fn dial(&mut self, now: Instant) {
        self.backoff.attempt(now);
        if let Some(token) = self.renewal.ready() {
            self.former = self.token.replace(token);
        }
        if self.token.as_ref().is_some_and(|token| token.is_expired(now)) {
            self.former = self.token.take();
        }
        let token = self.token.take();
        let resume = self.resume.take().filter(|resume| resume.until > now);
        let config = Arc::clone(&self.config);
        let task = BackgroundTask::start(&self.signal, move |signal| {
            let dialer = Dialer { config, signal };
            dialer.dial(token, resume)
        });
        match task {
            Ok(task) => self.state = State::Dialing(task),
            Err(loss) => self.lost(&loss, now),
        }
    }

    fn dialed(&mut self, dialed: Option<DialResult>, now: Instant) {
        let DialResult { token, resume, link } = dialed.unwrap_or_else(DialResult::panicked);
        self.resume = resume;
        self.token = token;
        match link {
            Ok(mut link) => {
                self.renewal.plan(self.token.as_ref().and_then(Token::renew_at));
                let sent = link.send(self.channel.attach(now));
                self.state = State::Live(Box::new(link));
                if let Err(loss) = sent {
                    self.end(End::Lost(loss), now);
                }
            }
            Err(loss) => self.lost(&loss, now),
        }
    }

    fn serve(&mut self, mut link: Box<Link>, now: Instant) -> bool {
        let served = self.serve_link(&mut link, now);
        self.state = State::Live(link);
        match served {
            Ok(is_busy) => is_busy,
            Err(end) => {
                self.end(end, Instant::now());
                false
            }
        }
    }

    fn serve_link(&mut self, link: &mut Link, now: Instant) -> std::result::Result<bool, End> {
        if let Some(renewed) = self.renewal.result(now) {
            let token = renewed?;
            let sent = link.send(frame::auth(&token));
            self.former = self.token.replace(token);
            sent?;
        }
        link.flush()?;
        let mut is_busy = true;
        for _ in 0..MAX_FRAMES_PER_STEP {
            match link.receive()? {
                Received::Frame(bytes) => self.receive(&bytes, link, now)?,
                Received::Control => {}
                Received::Incomplete => break,
                Received::Empty => {
                    is_busy = false;
                    break;
                }
            }
        }
        if let Some(attach) = self.channel.tick(now)? {
            link.send(attach)?;
        }
        self.renewal.tick(now, &self.config, &self.signal);
        if !is_busy {
            link.check(now)?;
        }
        Ok(is_busy)
    }

    fn receive(
        &mut self,
        bytes: &[u8],
        link: &mut Link,
        now: Instant,
    ) -> std::result::Result<(), End> {
        let Some(frame) = Frame::decode(bytes) else {
            log::debug!("a malformed frame is ignored; bytes={}", bytes.len());
            return Ok(());
        };
        let is_ours = self.channel.is_named(frame.channel);
        match frame.action {
            Action::Connected => link.accept(&frame),
            Action::Disconnected => {
                return Err(frame.into_disconnection(&self.redacted_tokens()).into());
            }
            Action::Closed => return Err(ConnectionError::Closed.into()),
            Action::Error if frame.channel.is_none() => {
                return Err(frame.into_refusal(&self.redacted_tokens()).into());
            }
            Action::Error if is_ours => {
                let loss = frame.into_refusal(&self.redacted_tokens());
                let code = loss.code();
                return Err(End::Failed(self.failure(code, &loss)));
            }
            Action::Attached if is_ours => {
                self.channel.on_attached(&frame, &mut self.queue).map_err(End::Failed)?;
                self.backoff.succeed();
            }
            Action::Detached if is_ours => {
                let loss = frame.into_detachment(&self.redacted_tokens());
                self.channel.on_detached(&loss, now, &mut self.queue);
            }
            Action::Message if is_ours => self.channel.on_messages(&frame, &mut self.queue),
            Action::Auth => self.renewal.plan(Some(now)),
            _ => {}
        }
        Ok(())
    }

    fn end(&mut self, end: End, now: Instant) {
        if let State::Live(link) = std::mem::replace(&mut self.state, State::Finished) {
            match &end {
                End::Failed(_) => link.close(),
                // The server has no state to resume.
                End::Lost(ConnectionError::Closed) => {}
                End::Lost(ConnectionError::TooLarge { .. }) => {
                    self.channel.skip(Gap::TooLarge, &mut self.queue)
                }
                End::Lost(_) => self.resume = link.resume(),
            }
        }
        match end {
            End::Lost(loss) => self.lost(&loss, now),
            End::Failed(failure) => self.fail(failure),
        }
    }

    fn lost(&mut self, loss: &ConnectionError, now: Instant) {
        self.channel.disconnect();
        let remedy = loss.remedy();
        if let Remedy::Fail(code) = remedy {
            return self.fail(self.failure(code, loss));
        }
        let mut until = None;
        if remedy == Remedy::Renew {
            self.former = self.token.take().or(self.former.take());
            // At once, unless the previous token was refused just before.
            let wait = self.config.timing.longest_wait;
            until = self.refused.is_none_or(|refused| now - refused >= wait).then_some(now);
            self.refused = Some(now);
        }
        let until = until.unwrap_or_else(|| self.backoff.next(now));
        let reason = chain(loss);
        log::debug!("not connected; next_attempt_ms={} reason={reason}", (until - now).as_millis());
        self.queue.disconnected(reason);
        self.state = State::Waiting { until };
    }

    fn fail(&mut self, failure: Failure) {
        self.queue.push(Event::Failed(failure));
        self.state = State::Finished;
    }

    fn failure(&self, code: u32, loss: &ConnectionError) -> Failure {
        Failure::new(code, chain(loss), &self.config.channel)
    }

    /// The tokens to be redacted from the server's texts.
    fn redacted_tokens(&self) -> Vec<&Token> {
        self.token.iter().chain(&self.former).collect()
    }
}
