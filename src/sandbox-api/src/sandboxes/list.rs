//! Lists of sandboxes, in pages.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::error::{Error, Result};
use super::life::{State, Status};
use super::managed::ManagedSandbox;

/// The largest page.
const LARGEST: usize = 100;

/// Which sandboxes are listed, and in which order.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Pairs that their metadata must have, all of them.
    pub metadata: Vec<(String, String)>,
    /// Their states; both if empty.
    pub states: Vec<State>,
    /// The order of their starts.
    pub order: Order,
    /// The earliest start.
    pub started_after: Option<SystemTime>,
    /// A name of their template.
    pub template: Option<String>,
    /// The most sandboxes of a page: 1 to 100, which is the default.
    pub limit: Option<usize>,
    /// The token of the page before.
    pub token: Option<String>,
}

/// The order of a list, by the sandboxes' starts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Order {
    /// The oldest first.
    Ascending,
    /// The newest first.
    #[default]
    Descending,
}

/// A page of a list.
pub struct Page {
    /// The sandboxes, each with its state.
    pub sandboxes: Vec<(Arc<ManagedSandbox>, Status)>,
    /// The token of the next page, if there is one.
    pub next: Option<String>,
    /// How many of all pages run.
    pub running: usize,
}

/// A sandbox's place in the order: it is stable, as neither part changes.
type Place = (u128, String);

impl Filter {
    /// The page of `sandboxes` that is asked for.
    pub(super) fn page(&self, sandboxes: Vec<Arc<ManagedSandbox>>) -> Result<Page> {
        let from = self.token.as_deref().map(parse).transpose()?;
        let with_status = sandboxes.into_iter().map(|sandbox| {
            let status = sandbox.status();
            (sandbox, status)
        });
        let mut all: Vec<_> =
            with_status.filter(|(sandbox, status)| self.takes(sandbox, *status)).collect();
        let running = all.iter().filter(|(_, status)| status.state == State::Running).count();
        all.sort_by(|(one, _), (other, _)| self.compare(&place(one), &place(other)));
        if let Some(from) = from {
            all.retain(|(sandbox, _)| self.compare(&place(sandbox), &from) == Ordering::Greater);
        }
        let limit = self.limit.unwrap_or(LARGEST).clamp(1, LARGEST);
        let is_last = all.len() <= limit;
        all.truncate(limit);
        let last = all.last().filter(|_| !is_last);
        let next = last.map(|(sandbox, _)| {
            let (micros, id) = place(sandbox);
            format!("{micros}-{id}")
        });
        Ok(Page { sandboxes: all, next, running })
    }

    fn takes(&self, sandbox: &ManagedSandbox, status: Status) -> bool {
        let has = |(name, value): &(String, String)| sandbox.metadata().get(name) == Some(value);
        let named = |name: &String| sandbox.template().is_named(name);
        status.state != State::Ended
            && (self.states.is_empty() || self.states.contains(&status.state))
            && self.metadata.iter().all(has)
            && self.template.as_ref().is_none_or(named)
            && self.started_after.is_none_or(|after| micros(sandbox.started_at()) >= micros(after))
    }

    fn compare(&self, one: &Place, other: &Place) -> Ordering {
        match self.order {
            Order::Ascending => one.cmp(other),
            Order::Descending => other.cmp(one),
        }
    }
}

fn place(sandbox: &ManagedSandbox) -> Place {
    (micros(sandbox.started_at()), sandbox.id().to_owned())
}

fn micros(time: SystemTime) -> u128 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros()
}

fn parse(token: &str) -> Result<Place> {
    let (micros, id) = token.split_once('-').ok_or(Error::BadToken)?;
    Ok((micros.parse().map_err(|_| Error::BadToken)?, id.to_owned()))
}
