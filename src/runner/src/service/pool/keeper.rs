//! The thread `pool`: sees VMs end and grow old, and ends those that go. It sleeps until there is a
//! request, a VM of the stock ends, or one is too old.

use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, Select, Sender, TryRecvError};

use super::{HeldSession, Request, Shared, kill};

/// What the thread has.
pub(super) struct Keeper {
    shared: Arc<Shared>,
    inbox: Receiver<Request>,
    /// Profiles for the maker; one at a time.
    orders: Sender<String>,
    changed: Box<dyn Fn() + Send>,
    told: Vec<HeldSession>,
}

impl Keeper {
    pub(super) fn new(
        shared: Arc<Shared>,
        inbox: Receiver<Request>,
        orders: Sender<String>,
        changed: Box<dyn Fn() + Send>,
    ) -> Self {
        Self { shared, inbox, orders, changed, told: Vec::new() }
    }

    pub(super) fn run(mut self) {
        while self.obey() {
            let now = Instant::now();
            let useless = self.shared.lock().take_useless(now);
            useless.into_iter().for_each(|sandbox| {
                log::info!("a vm of the pool goes; vm={}", sandbox.id());
                kill(sandbox);
            });
            if let Some(profile) = self.shared.lock().order(now) {
                // There is room: the maker is idle.
                let _ = self.orders.send(profile);
            }
            self.tell();
            self.sleep();
        }
        let all = self.shared.lock().clear();
        all.into_iter().for_each(kill);
    }

    /// Does what it was asked for; `false` if it is to end.
    fn obey(&self) -> bool {
        loop {
            match self.inbox.try_recv() {
                Ok(Request::Look) => {}
                Ok(Request::End(sandbox)) => kill(sandbox),
                Ok(Request::Pressure) => {
                    let oldest = self.shared.lock().take_oldest();
                    if let Some(sandbox) = oldest {
                        log::warn!("memory is short: a parked vm goes; vm={}", sandbox.id());
                        kill(sandbox);
                    }
                }
                Ok(Request::Stop) | Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => return true,
            }
        }
    }

    fn tell(&mut self) {
        let held = self.shared.lock().held();
        if held != self.told {
            self.told = held;
            (self.changed)();
        }
    }

    fn sleep(&self) {
        let (ends, alarm) = {
            let stock = self.shared.lock();
            (stock.ends(), stock.next_alarm(Instant::now()))
        };
        let mut select = Select::new();
        select.recv(&self.inbox);
        for end in &ends {
            select.recv(end);
        }
        let _ = match alarm {
            Some(at) => select.ready_deadline(at),
            None => Ok(select.ready()),
        };
    }
}
