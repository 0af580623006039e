"""Values that must not come back, in whatever form, without changing a body's length."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from urllib.parse import quote

# Shorter ones would be found in anything.
SHORTEST = 5


def forms(value: str) -> set[bytes]:
    """How a value may be written."""
    raw = value.encode()
    found = {
        raw,
        json.dumps(value)[1:-1].encode(),
        json.dumps(value, ensure_ascii=False)[1:-1].encode(),
    }
    percent = quote(value, safe="")
    found |= {percent.encode(), re.sub("%..", lambda m: m[0].lower(), percent).encode()}
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + raw).rstrip(b"=")
        # What neighbours have a part in is left out at both ends.
        first = (0, 2, 3)[offset]
        last = len(encoded) if (len(raw) + offset) % 3 == 0 else len(encoded) - 1
        inner = encoded[first:last]
        found |= {inner, inner.replace(b"+", b"-").replace(b"/", b"_")}
    return {form for form in found if len(form) >= SHORTEST}


class Mask:
    """Replaces values by as many asterisks."""

    def __init__(self, values: Iterable[str]) -> None:
        kept = {value for value in values if len(value) >= SHORTEST}
        # The longest first, so that none is masked in part.
        self.forms = sorted(
            {form for value in kept for form in forms(value)}, key=len, reverse=True
        )
        self.pattern = re.compile(b"|".join(map(re.escape, self.forms))) if self.forms else None
        self.longest = max(map(len, self.forms), default=0)

    def bytes(self, data: bytes) -> bytes:
        if self.pattern is None:
            return data
        return self.pattern.sub(lambda found: b"*" * len(found[0]), data)

    def text(self, text: str) -> str:
        return self.bytes(text.encode("utf-8", "surrogateescape")).decode(
            "utf-8", "surrogateescape"
        )

    def held_back(self, data: bytes) -> int:
        """How many bytes at the end may be the beginning of a value."""
        begin = max(0, len(data) - self.longest + 1)
        firsts = {form[0] for form in self.forms}
        for position in range(begin, len(data)):
            if data[position] in firsts:
                tail = data[position:]
                if any(form.startswith(tail) for form in self.forms):
                    return len(tail)
        return 0


class Stream:
    """Masks a body as it comes, holding back only what may become a value."""

    def __init__(self, mask: Mask) -> None:
        self.mask = mask
        self.kept = b""

    def __call__(self, data: bytes) -> bytes:
        whole = self.mask.bytes(self.kept + data)
        count = self.mask.held_back(whole) if data else 0
        self.kept = whole[len(whole) - count :]
        return whole[: len(whole) - count]
