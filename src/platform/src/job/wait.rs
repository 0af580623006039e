//! Why a job that waits will go on doing so, as far as one can tell.
//!
//! Runners tell what they have room for, and not all that they could take; so what they have is the
//! sum of what they told. Another runner may come at any time: nothing is refused for this.

use super::{Backend, Job, Status};
use crate::presence::Availability;

impl Backend {
    /// Why no runner takes a job of this profile; none if one may.
    pub(crate) fn waits(&self, profile: Option<&str>) -> Option<String> {
        match (self.presence.availability(), profile) {
            (Availability::NoRunner, _) => Some("no runner is there".to_owned()),
            (Availability::Profiles(known), Some(profile)) if !known.contains(profile) => {
                let known: Vec<_> = known.into_iter().collect();
                Some(format!("no runner has profile `{profile}`: there is {}", known.join(", ")))
            }
            _ => None,
        }
    }

    pub(super) fn explained(&self, mut job: Job) -> Job {
        if job.status == Status::Queued {
            job.waits = self.waits(job.profile.as_deref());
        }
        job
    }
}
