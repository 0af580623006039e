"""What `mitmdump --scripts` is given."""

from mitmproxy.version import VERSION

# Some of its functions are overridden, so another one would not do.
if not VERSION.startswith("11."):
    raise RuntimeError(f"mitmproxy 11 is needed, and this is {VERSION}: run scripts/setup")

from egress.addon import Egress

addons = [Egress()]
