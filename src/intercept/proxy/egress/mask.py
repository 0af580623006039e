"""Secrets replaced by asterisks, however they are encoded, without changing a text's length.

The encodings are those of the crate `mask`, and its test vectors hold here, too: a text is searched
twice for the secrets' variants, as it is and with its escapes decoded.
"""

from __future__ import annotations

import base64
import re
from bisect import bisect_left
from collections.abc import Iterable

from egress.unescape import Unescaped, has_escapes

# A shorter secret would be found in anything.
SHORTEST = 5
# The shortest line of a secret that is masked by itself.
SHORTEST_LINE = 8
# Characters of base64 that are found by themselves, wherever lines are wrapped.
WINDOW = 8

# What has such windows, and may be padded.
RUN = re.compile(rb"[A-Za-z0-9+/_-]{6,}={0,2}")

Span = tuple[int, int]


class Mask:
    """Replaces values by as many asterisks."""

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
        return starred(data, self.scan(data)[0])

    def text(self, text: str) -> str:
        return self.bytes(text.encode("utf-8", "surrogateescape")).decode(
            "utf-8", "surrogateescape"
        )

    def scan(self, data: bytes) -> tuple[list[Span], int]:
        """Where values are, and from where on one may have begun that ends after the data."""
        spans, undecided = self.find(data), self.begun(data)
        if self.sorted and has_escapes(data):
            decoded = Unescaped(data)
            inside = self.find(bytes(decoded.data))
            spans += [(decoded.start(begin), decoded.end(end - 1)) for begin, end in inside]
            begun = self.begun(bytes(decoded.data[: decoded.decided]))
            undecided = min(undecided, decoded.start(begun), decoded.open)
        return spans, undecided

    def find(self, data: bytes) -> list[Span]:
        """At each place the longest, also where values overlap."""
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

    def begun(self, data: bytes) -> int:
        for position in range(max(0, len(data) - self.longest + 1), len(data)):
            if data[position : position + 2] not in self.beginnings:
                continue
            tail = data[position:]
            at = bisect_left(self.sorted, tail)
            if at < len(self.sorted) and self.sorted[at].startswith(tail):
                return position
        return len(data)


class Stream:
    """Masks a body as it comes, holding back only what may become a value."""

    def __init__(self, mask: Mask) -> None:
        self.mask = mask
        self.kept = b""
        # So much of what is kept belongs to a value that ends there.
        self.masked = 0

    def __call__(self, data: bytes) -> bytes:
        whole = self.kept + data
        spans, end = self.mask.scan(whole)
        if data:
            spans = [span for span in spans if span[0] < end]
        else:
            end = len(whole)
        spans.append((0, self.masked))
        self.kept = whole[end:]
        self.masked = max(0, max(last for _, last in spans) - end)
        return starred(whole, spans)[:end]


def variants(value: str) -> list[bytes]:
    """A value, without white space at its ends, and its lines."""
    raw = value.encode()
    if len(raw) < SHORTEST:
        return []
    lines = [line.strip() for line in re.split(rb"[\r\n]", raw)]
    found = [raw, raw.strip(), *(line for line in lines if len(line) >= SHORTEST_LINE)]
    return [variant for variant in found if len(variant) >= SHORTEST]


def spellings(variant: bytes) -> set[bytes]:
    """As it is, and decoded as the text is that it is looked for in: with spaces, or a form's
    pluses; and after a backslash, which changes the meaning of a first `n` or `u`."""
    decoded = bytes(Unescaped(variant).data)
    after_backslash = bytes(Unescaped(b"\\" + variant).data)
    found = {variant, decoded, decoded.replace(b" ", b"+"), after_backslash}
    return {spelling for spelling in found if len(spelling) >= SHORTEST}


def base64_parts(variant: bytes, before: int) -> set[bytes]:
    """Base64 where the value begins after so many other bytes, or a multiple of three more: its
    windows, or all of it if it is shorter than one."""
    # So many characters hold bits of what comes before; and so many are the value's alone.
    first, whole = (0, 2, 3)[before], (before + len(variant)) * 8 // 6
    padded = base64.b64encode(b"\0" * before + variant)[first:]
    text = padded.rstrip(b"=")
    own = text[: whole - first]
    if len(own) < WINDOW:
        parts = [part for part in (own, text, padded) if len(part) >= SHORTEST]
    else:
        parts = [own[at : at + WINDOW] for at in range((4 - first) % 4, len(own) - WINDOW + 1, 4)]
        parts += [own[:WINDOW], *(part[-WINDOW:] for part in (own, text, padded))]
    return {*parts, *(part.replace(b"+", b"-").replace(b"/", b"_") for part in parts)}


def starred(data: bytes, spans: Iterable[Span]) -> bytes:
    masked = bytearray(data)
    for begin, end in spans:
        masked[begin:end] = b"*" * (end - begin)
    return bytes(masked)


def compiled(patterns: list[bytes]) -> re.Pattern[bytes]:
    """One expression, by the patterns' first bytes: a place costs few steps however many there
    are. Of two that begin alike, the longer one comes first."""
    groups: dict[bytes, list[bytes]] = {}
    for one in patterns:
        groups.setdefault(one[:1], []).append(re.escape(one[1:]))
    branches = (re.escape(f) + b"(?:" + b"|".join(rest) + b")" for f, rest in groups.items())
    return re.compile(b"|".join(branches))
