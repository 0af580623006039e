"""Paths of requests, and rules for them."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

# The limit of nested percent-encodings.
MAX_DECODINGS = 5
METHODS = frozenset(["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "ANY"])
PARAMETER = re.compile(r"\{[^{}]+?([+*]?)\}\Z")


class BadPath(ValueError):
    """A path that the server could interpret in another way than we do."""


def split(raw: str) -> tuple[str, ...]:
    """The segments of a path, percent-decoded until nothing changes."""
    path = raw.partition("?")[0]
    if "#" in path:
        raise BadPath("has a fragment")
    for _ in range(MAX_DECODINGS):
        try:
            decoded = unquote_to_bytes(path).decode()
        except UnicodeDecodeError as error:
            raise BadPath("is not UTF-8") from error
        decoded = unicodedata.normalize("NFKC", decoded)
        if decoded == path:
            break
        path = decoded
    else:
        if "%" in path and unquote_to_bytes(path) != path.encode():
            raise BadPath("is encoded too often")
    if not path.startswith("/"):
        raise BadPath("does not begin with a slash")
    if "\\" in path or any(unicodedata.category(letter) == "Cc" for letter in path):
        raise BadPath("has a backslash or a control character")
    segments = tuple(path[1:].split("/"))
    for segment in segments:
        # Some servers remove parameters after a semicolon before they resolve dot segments.
        if segment.partition(";")[0].strip() in (".", ".."):
            raise BadPath("has dot segments")
    if "" in segments[:-1]:
        raise BadPath("has empty segments")
    return segments


@dataclass(frozen=True)
class Rule:
    """`METHOD /path/{p}`: `{p}` matches one segment; at the end `{p+}` one or more, `{p*}` any."""

    text: str
    method: str
    segments: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Rule:
        method, _, path = text.strip().partition(" ")
        path = path.strip()
        if method not in METHODS or not path.startswith("/"):
            raise ValueError(f"`{text}` is not a rule: expected METHOD /path")
        segments = tuple(path[1:].split("/"))
        for segment in segments[:-1]:
            if greed(segment) in ("+", "*"):
                raise ValueError(
                    f"`{text}` is not a rule: only the last parameter may match several segments"
                )
        return cls(text, method, segments)

    def matches(self, method: str, segments: tuple[str, ...]) -> bool:
        """Whether the rule matches a method and the segments below the API's base."""
        if self.method not in ("ANY", method):
            return False
        *fixed, last = self.segments
        kind = greed(last)
        if kind in ("+", "*"):
            rest = segments[len(fixed) :]
            if len(segments) < len(fixed) or (kind == "+" and not any(rest)):
                return False
            return all(map(matches_segment, fixed, segments))
        return len(segments) == len(self.segments) and all(
            map(matches_segment, self.segments, segments)
        )


def greed(segment: str) -> str | None:
    """The suffix of a parameter: "", "+" or "*"; `None` for a literal segment."""
    found = PARAMETER.match(segment)
    return found.group(1) if found else None


def matches_segment(pattern: str, segment: str) -> bool:
    return segment != "" if greed(pattern) is not None else pattern == segment
