"""The beginning of a body for the log: buffered as it passes, masked before it is logged."""

from __future__ import annotations

import base64
import codecs
import re
from collections.abc import Iterable
from typing import Any

from egress.mask import Mask, masked

# The limit of a logged body. A batch of the platform is limited to 1 MiB, and escapes take up to
# six times the space.
MAX_BYTES = 16 << 10


# Signatures in presigned URLs of AWS, Google and Azure.
SIGNATURE = re.compile(
    rb"(?:X-Amz-(?:Signature|Credential|Security-Token)|X-Goog-(?:Signature|Credential)"
    rb"|(?:[?&;]|\\u0026)(?:sig|signature))(?:=|%3D|\\u003d)([\w%/+.~=-]{8,})",
    re.IGNORECASE,
)


class Body:
    def __init__(self, masks: Iterable[Mask]) -> None:
        self.masks = tuple(masks)
        # A secret at the limit may end after it, and may be escaped.
        self.capacity = MAX_BYTES + 4 * max((mask.longest for mask in self.masks), default=0)
        self.buffer = bytearray()
        self.length = 0
        self.is_complete = False

    def add(self, data: bytes) -> None:
        """Adds the next chunk. An empty chunk is the end."""
        self.length += len(data)
        self.buffer += data[: self.capacity - len(self.buffer)]
        self.is_complete = self.is_complete or not data

    def log_fields(self, name: str) -> dict[str, Any]:
        """The fields of a log entry."""
        if not self.length:
            return {}
        is_truncated = self.length > MAX_BYTES or not self.is_complete
        data, fields = self.masked()[:MAX_BYTES], {}
        try:
            # The last character may be incomplete.
            text = codecs.getincrementaldecoder("utf-8")().decode(data, final=not is_truncated)
            if "\0" in text:
                raise ValueError
            fields[name] = text
        except ValueError:
            fields[name] = base64.b64encode(data).decode()
            fields[name + "_encoding"] = "base64"
        if is_truncated:
            fields[name + "_truncated"] = True
        return fields

    def masked(self) -> bytes:
        """The masked buffer. Secrets may contain others, so each mask gets the original."""
        raw = bytes(self.buffer)
        spans = [found.span(1) for found in SIGNATURE.finditer(raw)]
        is_whole = self.is_complete and self.length == len(raw)
        for mask in self.masks:
            found, undecided = mask.scan(raw)
            spans += found
            if not is_whole:
                # This could be the beginning of a secret.
                spans.append((undecided, len(raw)))
        return masked(raw, spans)


def is_presigned(path: str) -> bool:
    """Whether a URL has a signature."""
    return SIGNATURE.search(path.encode("utf-8", "surrogateescape")) is not None


def is_compressed(message: Any) -> bool:
    """Whether the body is compressed, so that secrets cannot be found in it."""
    return message.headers.get("content-encoding", "identity").strip().lower() != "identity"
