//! The sessions whose VM a runner has parked: its next job is offered to that runner first.

use std::collections::HashMap;

use uuid::Uuid;

use crate::db::{Outcome, Tx};

/// A session with a parked VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HeldSession {
    pub(crate) session: String,
    /// The profile of the VM.
    pub(crate) profile: String,
    /// When its last job ended, by the runner's clock.
    pub(crate) completed: i64,
}

/// Writes down which sessions a runner would resume now. Returns whether any is gone.
pub(super) fn replace(tx: &Tx<'_>, runner: Uuid, sessions: &[&HeldSession]) -> Outcome<bool> {
    let query = "SELECT session, profile, completed FROM held_sessions WHERE runner = ?1";
    let known = tx.query_all(query, &[&runner], |row| {
        Ok(HeldSession { session: row.get(0)?, profile: row.get(1)?, completed: row.get(2)? })
    })?;
    // Of several with one id, the last.
    let now: HashMap<_, _> = sessions.iter().map(|one| (&one.session, *one)).collect();
    let mut is_gone = false;
    for old in known.iter().filter(|old| !now.contains_key(&old.session)) {
        let delete = "DELETE FROM held_sessions WHERE runner = ?1 AND session = ?2";
        tx.execute(delete, &[&runner, &old.session])?;
        is_gone = true;
    }
    for new in now.into_values().filter(|new| !known.contains(new)) {
        let set = "INSERT INTO held_sessions (runner, session, profile, completed)
                   VALUES (?1, ?2, ?3, ?4)
                   ON CONFLICT (runner, session) DO UPDATE SET profile = ?3, completed = ?4";
        tx.execute(set, &[&runner, &new.session, &new.profile, &new.completed])?;
    }
    Ok(is_gone)
}
