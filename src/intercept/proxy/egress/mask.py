"""Replaces secrets in all their encodings by asterisks, without changing the length of a text.

The encodings and the test vectors are those of the crate `mask`. A text is searched for the
variants of secrets twice: unchanged, and with its escapes decoded.
"""

from __future__ import annotations

import base64
import re
from bisect import bisect_left
from collections.abc import Iterable

from egress.unescape import Unescaped, has_escapes

# Shorter secrets are not masked: they would match by chance.
MIN_LENGTH = 5
# Shorter lines of a secret are not masked by themselves.
MIN_LINE = 8
# The length of base64 that is found by itself, wherever lines are wrapped.
WINDOW = 8

# Text that may contain such windows, and padding.
RUN = re.compile(rb"[A-Za-z0-9+/_-]{6,}={0,2}")

Span = tuple[int, int]


class Mask:
    """Replaces each byte of a secret by an asterisk."""

    def __init__(self, values: Iterable[str]) -> None:
        whole: set[bytes] = set()
        self.windows: set[bytes] = set()
        for value in values:
            for variant in variants(value):
                whole |= spellings(variant)
                for before in range(3):
                    parts = base64_parts(variant, before)
                    self.windows |= {part for part in parts if len(part) == WINDOW}
                    whole |= {part for part in parts if len(part) != WINDOW}
        self.pattern = compiled(sorted(whole, reverse=True)) if whole else None
        self.sorted = sorted(whole | self.windows)
        self.beginnings = {pattern[:length] for pattern in self.sorted for length in (1, 2)}
        self.longest = max(map(len, self.sorted), default=0)

    def bytes(self, data: bytes) -> bytes:
        return masked(data, self.scan(data)[0])

    def text(self, text: str) -> str:
        return self.bytes(text.encode("utf-8", "surrogateescape")).decode(
            "utf-8", "surrogateescape"
        )

    def scan(self, data: bytes) -> tuple[list[Span], int]:
        """The spans of secrets, and where a secret may begin that ends after the data."""
        spans, undecided = self.find(data), self.partial_match(data)
        if self.sorted and has_escapes(data):
            decoded = Unescaped(data)
            inside = self.find(bytes(decoded.data))
            spans += [(decoded.start(begin), decoded.end(end - 1)) for begin, end in inside]
            partial_match = self.partial_match(bytes(decoded.data[: decoded.decided]))
            undecided = min(undecided, decoded.start(partial_match), decoded.open)
        return spans, undecided

    def find(self, data: bytes) -> list[Span]:
        """The longest match at each place, overlaps included."""
        spans, begin = [], 0
        while self.pattern and (found := self.pattern.search(data, begin)) is not None:
            spans.append(found.span())
            begin = found.start() + 1
        windows = self.windows
        for run in RUN.finditer(data) if windows else ():
            text, start = run[0], run.start()
            spans += [
                (start + at, start + at + WINDOW)
                for at in range(len(text) - WINDOW + 1)
                if text[at : at + WINDOW] in windows
            ]
        return spans

    def partial_match(self, data: bytes) -> int:
        for position in range(max(0, len(data) - self.longest + 1), len(data)):
            if data[position : position + 2] not in self.beginnings:
                continue
            tail = data[position:]
            at = bisect_left(self.sorted, tail)
            if at < len(self.sorted) and self.sorted[at].startswith(tail):
                return position
        return len(data)


class Stream:
    """Masks a stream, and holds back only what may be the beginning of a secret."""

    def __init__(self, mask: Mask) -> None:
        self.mask = mask
        self.held_back = b""
        # The length of the held back bytes that belong to a secret.
        self.masked_length = 0

    def __call__(self, data: bytes) -> bytes:
        whole = self.held_back + data
        spans, end = self.mask.scan(whole)
        if data:
            spans = [span for span in spans if span[0] < end]
        else:
            end = len(whole)
        spans.append((0, self.masked_length))
        self.held_back = whole[end:]
        self.masked_length = max(0, max(last for _, last in spans) - end)
        return masked(whole, spans)[:end]


def variants(value: str) -> list[bytes]:
    """A secret, the same without surrounding white space, and its lines."""
    raw = value.encode()
    if len(raw) < MIN_LENGTH:
        return []
    lines = [line.strip() for line in re.split(rb"[\r\n]", raw)]
    found = [raw, raw.strip(), *(line for line in lines if len(line) >= MIN_LINE)]
    return [variant for variant in found if len(variant) >= MIN_LENGTH]


def spellings(variant: bytes) -> set[bytes]:
    """Unchanged, and decoded like the searched text: with spaces, or with the plus signs of a form;
    and after a backslash, which changes the meaning of a leading `n` or `u`."""
    decoded = bytes(Unescaped(variant).data)
    after_backslash = bytes(Unescaped(b"\\" + variant).data)
    found = {variant, decoded, decoded.replace(b" ", b"+"), after_backslash}
    return {spelling for spelling in found if len(spelling) >= MIN_LENGTH}


def base64_parts(variant: bytes, before: int) -> set[bytes]:
    """Base64 of a secret that begins after `before` other bytes, modulo three: its windows, or the
    whole if it is shorter than a window."""
    # The characters that contain bits of the bytes before, and those of the secret alone.
    first, whole = (0, 2, 3)[before], (before + len(variant)) * 8 // 6
    padded = base64.b64encode(b"\0" * before + variant)[first:]
    text = padded.rstrip(b"=")
    own = text[: whole - first]
    if len(own) < WINDOW:
        parts = [part for part in (own, text, padded) if len(part) >= MIN_LENGTH]
    else:
        parts = [own[at : at + WINDOW] for at in range((4 - first) % 4, len(own) - WINDOW + 1, 4)]
        parts += [own[:WINDOW], *(part[-WINDOW:] for part in (own, text, padded))]
    return {*parts, *(part.replace(b"+", b"-").replace(b"/", b"_") for part in parts)}


def masked(data: bytes, spans: Iterable[Span]) -> bytes:
    result = bytearray(data)
    for begin, end in spans:
        result[begin:end] = b"*" * (end - begin)
    return bytes(result)


def compiled(patterns: list[bytes]) -> re.Pattern[bytes]:
    """One expression, grouped by first byte, so that a search is fast with many patterns. Longer
    patterns come first."""
    groups: dict[bytes, list[bytes]] = {}
    for one in patterns:
        groups.setdefault(one[:1], []).append(re.escape(one[1:]))
    branches = (re.escape(f) + b"(?:" + b"|".join(rest) + b")" for f, rest in groups.items())
    return re.compile(b"|".join(branches))
