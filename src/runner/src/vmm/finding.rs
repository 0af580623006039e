//! What was found of networks, in words.

use super::{Finding, State};

/// What was found of networks, for people.
pub(super) fn of(check: &netns::Check) -> Finding {
    let (state, detail, remedy) = match check {
        netns::Check::Works => (State::Good, "can be made".to_owned(), None),
        netns::Check::Fails { reason } => {
            (State::Missing, reason.clone(), Some("runner run --network none".to_owned()))
        }
        netns::Check::RangeTaken { reason } => (
            State::Missing,
            reason.clone(),
            Some("--network-range, or RUNNER_NETWORK_RANGE".to_owned()),
        ),
        netns::Check::NotForwarding => {
            let detail =
                "the host does not pass packets on; the first VM with a network changes that";
            (State::Good, detail.to_owned(), None)
        }
        netns::Check::ForwardDropped { chains } => {
            let detail = format!(
                "the host drops what VMs send, in {}: only services of the host are reached",
                chains.join(", ")
            );
            let remedy = "accept what comes from and goes to links named sr-*, for instance \
                nft insert rule ip filter FORWARD iifname 'sr-*' accept; the same with oifname";
            (State::Weak, detail, Some(remedy.to_owned()))
        }
        netns::Check::Leftovers { networks } => {
            let detail = format!("dead runners left {}", networks.join(", "));
            (State::Weak, detail, Some("runner gc".to_owned()))
        }
    };
    Finding { subject: "network", state, detail, remedy }
}
