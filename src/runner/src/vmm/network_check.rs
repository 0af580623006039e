//! Converts the result of a network check to a [`HostCheck`].

use super::{CheckState, HostCheck};

pub(super) fn of(check: &netns::Check) -> HostCheck {
    let (state, detail, remedy) = match check {
        netns::Check::Works => (CheckState::Good, "can be made".to_owned(), None),
        netns::Check::Fails { reason } => {
            (CheckState::Missing, reason.clone(), Some("runner run --network none".to_owned()))
        }
        netns::Check::RangeTaken { reason } => (
            CheckState::Missing,
            reason.clone(),
            Some("--network-range, or RUNNER_NETWORK_RANGE".to_owned()),
        ),
        netns::Check::NotForwarding => {
            let detail = "IP forwarding is off; the first VM with a network enables it";
            (CheckState::Good, detail.to_owned(), None)
        }
        netns::Check::ForwardDropped { chains } => {
            let detail = format!(
                "a firewall of the host drops packets of VMs, in {}: VMs reach only services of the host",
                chains.join(", ")
            );
            let remedy = "accept packets from and to interfaces named sr-*, for instance \
                nft insert rule ip filter FORWARD iifname 'sr-*' accept; the same with oifname";
            (CheckState::Weak, detail, Some(remedy.to_owned()))
        }
        netns::Check::Leftovers { networks } => {
            let detail = format!("dead runners left networks: {}", networks.join(", "));
            (CheckState::Weak, detail, Some("runner gc".to_owned()))
        }
    };
    HostCheck { subject: "network", state, detail, remedy }
}
