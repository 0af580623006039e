//! The reason for which a queued job waits, as far as it is known.
//!
//! Runners report the profiles that they have room for, not all that they support. So the profiles
//! of a runner are the sum of its reports. Another runner may connect at any time: no job is
//! rejected for this reason.

use std::collections::BTreeSet;

use super::{Backend, Job, Status};
use crate::Result;
use crate::presence::Present;

impl Backend {
    /// The reason for which no runner takes a job of this profile and group; `None` if one may.
    pub(crate) fn waits(
        &self,
        profile: Option<&str>,
        group: Option<&str>,
    ) -> Result<Option<String>> {
        Ok(explain(&self.present()?, profile, group))
    }

    /// Jobs with the reason for which they wait.
    pub(super) fn explained(&self, mut jobs: Vec<Job>) -> Result<Vec<Job>> {
        if jobs.iter().any(|job| job.status == Status::Queued) {
            let present = self.present()?;
            for job in jobs.iter_mut().filter(|job| job.status == Status::Queued) {
                job.waits = explain(&present, job.profile.as_deref(), job.group.as_deref());
            }
        }
        Ok(jobs)
    }
}

fn explain(present: &[Present], profile: Option<&str>, group: Option<&str>) -> Option<String> {
    if present.is_empty() {
        return Some("no runner is there".to_owned());
    }
    let of_group: Vec<_> = present.iter().filter(|one| one.is_of(group)).collect();
    if of_group.is_empty() {
        let (group, known) = (group?, list(present.iter().filter_map(|one| one.group.as_deref())));
        return Some(format!("no runner is in group `{group}`: there is {known}"));
    }
    if of_group.iter().all(|one| one.is_closed) {
        let text = "all runners that may take it are drained or unhealthy: see `runner fleet ls`";
        return Some(text.to_owned());
    }
    let has_named_none = |one: &&Present| one.profiles.is_empty();
    let profile = profile.filter(|_| !of_group.iter().any(has_named_none))?;
    let known = of_group.iter().flat_map(|one| one.profiles.iter().map(String::as_str));
    if known.clone().any(|one| one == profile) {
        return None;
    }
    Some(format!("no runner has profile `{profile}`: there is {}", list(known)))
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: BTreeSet<_> = names.collect();
    names.into_iter().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn present(group: Option<&str>, profiles: &[&str]) -> Present {
        let profiles = profiles.iter().map(|name| (*name).to_owned()).collect();
        Present { group: group.map(str::to_owned), profiles, is_closed: false }
    }

    #[test]
    fn a_job_whose_runners_are_all_closed_waits() {
        let closed = Present { is_closed: true, ..present(Some("a/b"), &["big"]) };
        let there = [closed, present(Some("a/c"), &["big"])];
        let text = explain(&there, Some("big"), Some("a/b")).unwrap();
        assert!(text.contains("drained or unhealthy"), "{text}");
        assert_eq!(explain(&there, Some("big"), None), None);
    }

    #[test]
    fn a_job_of_another_group_waits_even_if_its_profile_is_there() {
        let there = [present(Some("a/b"), &["big"]), present(Some("a/c"), &["small"])];

        let of_group = |profile, group| explain(&there, Some(profile), Some(group));

        assert_eq!(of_group("big", "a/b"), None);
        let text = "no runner has profile `big`: there is small";
        assert_eq!(of_group("big", "a/c").as_deref(), Some(text));
        let text = "no runner is in group `x/y`: there is a/b, a/c";
        assert_eq!(of_group("big", "x/y").as_deref(), Some(text));
        assert_eq!(explain(&there, Some("big"), None), None);
    }

    #[test]
    fn a_runner_that_named_no_group_takes_jobs_of_all() {
        let there = [present(None, &["big"])];
        assert_eq!(explain(&there, Some("big"), Some("a/b")), None);
    }

    #[test]
    fn a_runner_that_named_no_profile_may_have_any() {
        let there = [present(Some("a/b"), &[]), present(Some("a/b"), &["small"])];
        assert_eq!(explain(&there, Some("big"), Some("a/b")), None);
        assert_eq!(explain(&[], Some("big"), None).as_deref(), Some("no runner is there"));
    }
}
