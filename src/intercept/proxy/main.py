"""The script for `mitmdump --scripts`."""

from mitmproxy.version import VERSION

# The addon replaces some of mitmproxy's functions, so it needs this version.
if not VERSION.startswith("11."):
    raise RuntimeError(f"mitmproxy 11 is needed, but this is {VERSION}: run scripts/setup")

from egress.addon import Egress

addons = [Egress()]
