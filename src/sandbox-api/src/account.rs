//! The users of a sandbox, as its calls name them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use base::sync::Mutex;
use sandbox::User;

use crate::files::{Account, Error, Files, Result};
use crate::sandboxes::RunningSandbox;

/// The user of calls that name none, if the image has it; else root.
const DEFAULT: &str = "user";

/// The most users that are remembered.
const MOST: usize = 64;

/// Who makes a call in a sandbox.
#[derive(Debug, Clone)]
pub struct Login {
    /// `None` is root.
    pub(crate) user: Option<User>,
    pub(crate) account: Account,
}

/// The users that were asked for.
#[derive(Default)]
pub(crate) struct Accounts(Mutex<HashMap<Option<String>, Login>>);

impl Accounts {
    /// The user of this name or number, or the default user.
    pub(crate) fn login(
        &self,
        running: &RunningSandbox,
        name: Option<&str>,
        deadline: Instant,
    ) -> Result<Login> {
        let name = name.filter(|name| !name.is_empty()).map(str::to_owned);
        if let Some(login) = self.0.lock().get(&name) {
            return Ok(login.clone());
        }
        let user = Some(User::Name(name.clone().unwrap_or_else(|| DEFAULT.to_owned())));
        let ask = |user| {
            let closed = Arc::clone(running.closed());
            let files = Files::new(&**running, user).until(closed);
            files.account(deadline)
        };
        let login = match ask(user.clone()) {
            Err(Error::NoUser { .. }) if name.is_none() => {
                Login { user: None, account: ask(None)? }
            }
            account => Login { user, account: account? },
        };
        let mut known = self.0.lock();
        if known.len() < MOST {
            known.insert(name, login.clone());
        }
        Ok(login)
    }
}

impl Login {
    /// The user; `None` is root.
    pub fn user(&self) -> Option<&User> {
        self.user.as_ref()
    }

    /// The user's ids and home.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// The absolute path that the user means; `None` if it is empty or has a zero byte.
    pub fn path(&self, path: &str) -> Option<String> {
        files_proto::absolute(&self.account.home, path)
    }

    /// The files of a sandbox, as the user sees them, while it runs.
    pub fn files<'a>(&self, running: &'a RunningSandbox) -> Files<'a> {
        let files = Files::with_account(&**running, self.user.clone(), self.account.clone());
        files.until(Arc::clone(running.closed()))
    }
}
