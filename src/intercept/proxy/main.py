"""What `mitmdump --scripts` is given."""

from egress.addon import Egress

addons = [Egress()]
