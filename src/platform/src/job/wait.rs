//! The reason for which a queued job waits, as far as it is known.
//!
//! Runners report the profiles that they have room for, not all that they support. So the profiles
//! of a runner are the sum of its reports. Another runner may connect at any time: no job is
//! rejected for this reason.

use super::{Backend, Job, Status};
use crate::Result;
use crate::presence::Availability;

impl Backend {
    /// The reason for which no runner takes a job of this profile; `None` if one may.
    pub(crate) fn waits(&self, profile: Option<&str>) -> Result<Option<String>> {
        Ok(explain(&self.availability()?, profile))
    }

    /// Jobs with the reason for which they wait.
    pub(super) fn explained(&self, mut jobs: Vec<Job>) -> Result<Vec<Job>> {
        if jobs.iter().any(|job| job.status == Status::Queued) {
            let availability = self.availability()?;
            for job in jobs.iter_mut().filter(|job| job.status == Status::Queued) {
                job.waits = explain(&availability, job.profile.as_deref());
            }
        }
        Ok(jobs)
    }
}

fn explain(availability: &Availability, profile: Option<&str>) -> Option<String> {
    match (availability, profile) {
        (Availability::NoRunner, _) => Some("no runner is there".to_owned()),
        (Availability::Profiles(known), Some(profile)) if !known.contains(profile) => {
            let known: Vec<_> = known.iter().map(String::as_str).collect();
            Some(format!("no runner has profile `{profile}`: there is {}", known.join(", ")))
        }
        _ => None,
    }
}
