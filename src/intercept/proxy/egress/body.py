"""The beginning of a body, for the record: kept as it passes, masked before it is told."""

from __future__ import annotations

import base64
import codecs
from collections.abc import Iterable
from typing import Any

from egress.mask import Mask

# So much is told. A batch of the platform's is 1 MiB, and escaped text takes six times as much.
LONGEST = 16 << 10


class Body:
    def __init__(self, masks: Iterable[Mask]) -> None:
        self.masks = tuple(masks)
        # A value that begins in what is told may end behind it.
        self.room = LONGEST + max((mask.longest for mask in self.masks), default=0)
        self.kept = bytearray()
        self.length = 0
        self.has_ended = False

    def add(self, data: bytes) -> None:
        """The next piece; an empty one is the end."""
        self.length += len(data)
        self.kept += data[: self.room - len(self.kept)]
        self.has_ended = self.has_ended or not data

    def told(self, name: str) -> dict[str, Any]:
        """What is put on record under a name."""
        if not self.length:
            return {}
        is_cut = self.length > LONGEST or not self.has_ended
        data, told = self.masked()[:LONGEST], {}
        try:
            # A character may be cut at the end.
            text = codecs.getincrementaldecoder("utf-8")().decode(data, final=not is_cut)
            if "\0" in text:
                raise ValueError
            told[name] = text
        except ValueError:
            told[name] = base64.b64encode(data).decode()
            told[name + "_encoding"] = "base64"
        if is_cut:
            told[name + "_truncated"] = True
        return told

    def masked(self) -> bytes:
        """What is kept. The values of one mask may hold those of another, so each sees it whole."""
        raw, masked = bytes(self.kept), self.kept[:]
        for mask in self.masks:
            spans = [found.span() for found in mask.pattern.finditer(raw)] if mask.pattern else []
            if not self.has_ended:
                # What would have become a value.
                spans.append((len(raw) - mask.held_back(raw), len(raw)))
            for begin, end in spans:
                masked[begin:end] = b"*" * (end - begin)
        return bytes(masked)


def is_packed(message: Any) -> bool:
    """Whether values could not be found in a body."""
    return message.headers.get("content-encoding", "identity").strip().lower() != "identity"
