"""The beginning of a body, for the record: kept as it passes, masked before it is told."""

from __future__ import annotations

import base64
import codecs
import re
from collections.abc import Iterable
from typing import Any

from egress.mask import Mask, starred

# So much is told. A batch of the platform's is 1 MiB, and escaped text takes six times as much.
LONGEST = 16 << 10


# What gives a URL its own permission: AWS, Google, Azure.
SIGNATURE = re.compile(
    rb"(?:X-Amz-(?:Signature|Credential|Security-Token)|X-Goog-(?:Signature|Credential)"
    rb"|(?:[?&;]|\\u0026)(?:sig|signature))(?:=|%3D|\\u003d)([\w%/+.~=-]{8,})",
    re.IGNORECASE,
)


class Body:
    def __init__(self, masks: Iterable[Mask]) -> None:
        self.masks = tuple(masks)
        # A value that begins in what is told may end behind it, and be escaped.
        self.room = LONGEST + 4 * max((mask.longest for mask in self.masks), default=0)
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
        raw = bytes(self.kept)
        spans = [found.span(1) for found in SIGNATURE.finditer(raw)]
        is_whole = self.has_ended and self.length == len(raw)
        for mask in self.masks:
            found, undecided = mask.scan(raw)
            spans += found
            if not is_whole:
                # What would have become a value.
                spans.append((undecided, len(raw)))
        return starred(raw, spans)


def is_presigned(path: str) -> bool:
    """Whether a request's URL carries its own permission."""
    return SIGNATURE.search(path.encode("utf-8", "surrogateescape")) is not None


def is_packed(message: Any) -> bool:
    """Whether values could not be found in a body."""
    return message.headers.get("content-encoding", "identity").strip().lower() != "identity"
